"""Work that is done beside a training sees what was there when it was asked for."""

import threading

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

from rigl_keras import compat
from rigl_keras.program import test_set
from rigl_keras.program.checkpoints import Checkpoints
from rigl_keras.program.watch import AtOnce, Beside


class State(tf.Module):
    def __init__(self, value):
        super().__init__()
        self.value = tf.Variable(value)


def built(seed=0):
    model = tiny.sparse_mlp(keras.optimizers.Adam(0.05), seed=seed)
    compat.build_optimizer(model.optimizer, list(model.trainable_variables))
    return model


def beside(model, state):
    return Beside(model, state, (built(seed=1), State(0.0)))


def test_a_task_sees_the_moment_it_was_given_in():
    model, state = built(), State(1.0)
    watch, held, seen = beside(model, state), threading.Event(), []
    expected = []
    watch.do(held.wait)
    for step in range(3):
        state.value.assign(float(step))
        expected.append([*model.get_weights(), float(step)])
        watch.do(
            lambda: seen.append([*watch.model.get_weights(), float(watch.state.value)])
        )
        x, y = tiny.data(8)
        model.train_on_batch(x, y)
    assert not seen
    held.set()
    watch.end()
    assert len(seen) == 3
    for ours, theirs in zip(seen, expected, strict=True):
        for value, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(value, other)
    weights = zip(expected[0], expected[2], strict=True)
    assert any(np.any(first != last) for first, last in weights)


def values(path):
    reader = tf.train.load_checkpoint(str(path))
    names = reader.get_variable_to_shape_map()
    return {name: reader.get_tensor(name) for name in names if name.endswith("VALUE")}


def test_a_checkpoint_beside_the_training_is_that_of_the_training(tmp_path):
    model, state = built(), State(3.0)
    x, y = tiny.data(32)
    model.fit(x, y, verbose=0)
    for name, watch in (("now", AtOnce(model, state)), ("soon", beside(model, state))):
        folder = tmp_path / name
        folder.mkdir()
        checkpoints = Checkpoints(
            folder, watch.model, watch.model.optimizer, state=watch.state
        )
        watch.do(lambda checkpoints=checkpoints: checkpoints.save(7))
        watch.end()
    now, soon = (values(tmp_path / name / "ckpt-7") for name in ("now", "soon"))
    assert now.keys() == soon.keys()
    for name, value in now.items():
        np.testing.assert_array_equal(soon[name], value, err_msg=name)
    # It is restored into the model itself.
    other = built(seed=2)
    checkpoints = Checkpoints(
        tmp_path / "soon", other, other.optimizer, state=State(0.0)
    )
    assert checkpoints.restore_last() == 7
    tiny.assert_same_masks(tiny.weights(other), tiny.weights(model))


class FullError(Exception):
    pass


def fail():
    raise FullError


def test_what_a_task_raises_reaches_the_training():
    model = built()
    watch = Beside(model, None, (built(seed=1), None))
    watch.do(fail)
    with pytest.raises(FullError):
        watch.end()
    watch = Beside(model, None, (built(seed=1), None))
    watch.do(fail)
    with pytest.raises(FullError):
        do_often(watch)
    watch.end()


def do_often(watch):
    for _ in range(100):
        watch.do(lambda: None)


@pytest.mark.parametrize("size", [32, 50])
def test_a_test_set_in_memory_is_evaluated_as_keras_does(size):
    model = tiny.compiled(tiny.mlp(), metrics=["mae"])
    x, y = tiny.data(120)
    steps = -(-len(x) // size)
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(size)
    streamed = test_set.Streamed(model, batches, steps).evaluate()
    assert test_set.InMemory(model, batches, steps).evaluate() == streamed
    predictions = model.predict(x, verbose=0)
    assert streamed["mae"] == pytest.approx(np.abs(predictions - y).mean(), 1e-5)
