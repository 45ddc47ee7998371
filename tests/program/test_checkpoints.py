import tempfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from tensorflow import keras

import rigl_keras
from rigl_keras import compat
from rigl_keras.program.checkpoints import (
    Checkpoints,
    SavedModel,
    named_variables,
    saved_steps,
)


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
    assert saved_steps(tmp_path / "none") == []


DAMAGES = ["cut data", "change data", "cut index", "no data", "no index"]


def do_damage(folder, step, damage):
    [data] = folder.glob(f"ckpt-{step}.data*")
    index = folder / f"ckpt-{step}.index"
    content = data.read_bytes()
    if damage == "cut data":
        data.write_bytes(content[: len(content) // 2])
    elif damage == "change data":
        data.write_bytes(bytes(byte ^ 1 for byte in content))
    elif damage == "cut index":
        index.write_bytes(index.read_bytes()[:20])
    elif damage == "no data":
        data.unlink()
    else:
        index.unlink()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_an_earlier_one(tmp_path, capsys, damage):
    model = make()
    checkpoints = Checkpoints(tmp_path, model, model.optimizer)
    checkpoints.save(2)
    expected = values(model)
    train(model)
    checkpoints.save(4)
    do_damage(tmp_path, 4, damage)
    assert checkpoints.restore_last() == 2
    # Without its index it is no checkpoint, but what an interruption leaves.
    said = "ckpt-4 cannot be read" in capsys.readouterr().out
    assert said == (damage != "no index")
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
    assert saved_steps(tmp_path) == [2]
    checkpoints.save(6)
    assert sorted(saved_steps(tmp_path)) == [2, 6]
    assert not list(tmp_path.glob("*writing*"))


def test_a_checkpoint_around_an_update_is_none_to_go_on_from(tmp_path):
    model = make()
    checkpoints = Checkpoints(tmp_path, model, model.optimizer)
    checkpoints.save(2)
    checkpoints.save_around_update(4)
    assert saved_steps(tmp_path) == [2]
    assert checkpoints.restore_last() == 2
    assert set(SavedModel(tmp_path / "ckpt--4").values) == set(named_variables(model))


def test_a_checkpoint_is_read_without_its_model(tmp_path):
    model = make()
    train(model)
    Checkpoints(tmp_path, model, model.optimizer).save(2)
    found = SavedModel(str(tmp_path / "ckpt-2")).values
    dense = model.get_layer("sparse_a").layer
    [mask] = rigl_keras.get_masks(model).values()
    # Neither the optimizer's variables nor the dropout's random state are the model's.
    assert list(found) == ["a/bias", "a/kernel", "a/kernel/mask"]
    np.testing.assert_array_equal(found["a/kernel"], dense.kernel.numpy())
    np.testing.assert_array_equal(found["a/bias"], dense.bias.numpy())
    np.testing.assert_array_equal(found["a/kernel/mask"], mask)
    assert found["a/kernel/mask"].dtype == bool
    assert found["a/kernel"].dtype == np.float32


def test_names_with_dots_and_nested_models_come_back(tmp_path):
    inner = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, name="b.S")], name="in.ner.."
    )
    norm = keras.layers.BatchNormalization(name=".norm")
    model = keras.Sequential([keras.Input((4,)), inner, norm])
    model = rigl_keras.sparsify(model, 0.5, verbose=False)
    model.compile("sgd", "mse")
    compat.build_optimizer(model.optimizer, model.trainable_variables)
    Checkpoints(tmp_path, model, model.optimizer).save(1)
    expected = {"in.ner../b.S/kernel", "in.ner../b.S/kernel/mask", "in.ner../b.S/bias"}
    norms = {"gamma", "beta", "moving_mean", "moving_variance"}
    assert set(SavedModel(tmp_path / "ckpt-1").values) == expected | {
        f".norm/{name}" for name in norms
    }


@given(st.sets(st.text("aS./_-", min_size=1, max_size=8), min_size=1, max_size=4))
def test_any_name_comes_back(names):
    expected = {name: float(index) for index, name in enumerate(sorted(names))}
    model = {name: tf.Variable(value) for name, value in expected.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = tf.train.Checkpoint(model=model).write(f"{folder}/ckpt-0")
        assert SavedModel(path).values == expected


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_cannot_be_read(tmp_path, damage):
    model = make()
    Checkpoints(tmp_path, model, model.optimizer).save(2)
    do_damage(tmp_path, 2, damage)
    with pytest.raises(ValueError, match=r"ckpt-2 cannot be read: .+ Give the path"):
        SavedModel(tmp_path / "ckpt-2")


def test_what_is_no_checkpoint_cannot_be_read(tmp_path):
    make().save_weights(tmp_path / "some.weights.h5")
    for path in ("ckpt-3", ".", "some.weights.h5"):
        with pytest.raises(ValueError, match="cannot be read"):
            SavedModel(Path(tmp_path, path))


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    model = make()
    for number, parts in enumerate(
        [{"step": tf.Variable(1)}, {"model": model}, {"net": model}]
    ):
        path = tf.train.Checkpoint(**parts).write(str(tmp_path / f"ckpt-{number}"))
        with pytest.raises(ValueError, match=f"ckpt-{number} holds no model"):
            SavedModel(path)
