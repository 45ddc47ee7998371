import numpy as np
import pytest
from tensorflow import keras

import rigl_keras
from rigl_keras import compat
from rigl_keras.checkpoints import Checkpoints, named_variables, steps


def make(units=6, seed=0):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(units, name="a"),
            keras.layers.Dropout(0.5),
        ]
    )
    model = rigl_keras.sparsify(model, 0.5, seed=seed, verbose=False)
    model.compile(keras.optimizers.SGD(0.125, momentum=0.5), "mse")
    compat.build_optimizer(model.optimizer, model.trainable_variables)
    return model


def train(model, units=6):
    x, y = np.ones((8, 4), np.float32), np.ones((8, units), np.float32)
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[rigl_keras.Static()])


def values(model):
    return [v.numpy() for v in [*model.weights, *model.optimizer.variables]]


def test_variables_are_named_by_path():
    assert set(named_variables(make())) == {"a/kernel", "a/kernel/mask", "a/bias"}


def test_what_was_saved_comes_back_in_another_model(tmp_path):
    model, other = make(seed=0), make(seed=1)
    train(model)
    Checkpoints(tmp_path, model, model.optimizer).save(2)
    assert Checkpoints(tmp_path, other, other.optimizer).restore_last() == 2
    for ours, theirs in zip(values(model), values(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    states = [[v.numpy() for v in compat.random_states(m)] for m in (model, other)]
    np.testing.assert_array_equal(*states)


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    model = make()
    assert Checkpoints(tmp_path, model, model.optimizer).restore_last() is None
    assert steps(tmp_path / "none") == []


@pytest.mark.parametrize("damage", ["cut data", "change data", "cut index", "no data"])
def test_a_damaged_checkpoint_gives_way_to_an_earlier_one(tmp_path, capsys, damage):
    model = make()
    checkpoints = Checkpoints(tmp_path, model, model.optimizer)
    checkpoints.save(2)
    expected = values(model)
    train(model)
    checkpoints.save(4)
    [data] = tmp_path.glob("ckpt-4.data*")
    index = tmp_path / "ckpt-4.index"
    content = data.read_bytes()
    if damage == "cut data":
        data.write_bytes(content[: len(content) // 2])
    elif damage == "change data":
        data.write_bytes(bytes(byte ^ 1 for byte in content))
    elif damage == "cut index":
        index.write_bytes(index.read_bytes()[:20])
    else:
        data.unlink()
    assert checkpoints.restore_last() == 2
    assert "ckpt-4 cannot be read" in capsys.readouterr().out
    for ours, theirs in zip(values(model), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    model = make()
    Checkpoints(tmp_path, model, model.optimizer).save(2)
    other = make(units=5)
    with pytest.raises(ValueError, match=r"(?s)ckpt-2.*--logdir"):
        Checkpoints(tmp_path, other, other.optimizer).restore_last()


def test_an_interrupted_save_leaves_no_checkpoint(tmp_path, monkeypatch):
    model = make()
    checkpoints = Checkpoints(tmp_path, model, model.optimizer)
    checkpoints.save(2)

    def stop(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", stop)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(4)
    assert steps(tmp_path) == [2]
    checkpoints.save(6)
    assert sorted(steps(tmp_path)) == [2, 6]
    assert not list(tmp_path.glob("*writing*"))
