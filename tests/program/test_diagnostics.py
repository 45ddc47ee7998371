"""What a run measures of its network, and what it keeps of its mask updates."""

import copy
import json
import math

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import compat
from rigl_keras.program.checkpoints import (
    Checkpoints,
    SavedModel,
    named_variables,
    saved_steps,
)
from rigl_keras.program.diagnostics import Diagnostics, MaskUpdateRecorder, Norms
from rigl_keras.program.watch import AtOnce, Beside
from rigl_keras.training.gradient_flow import FlowMeter

RATE = 0.125
CHANGE = ".allparams/gradnorm_mask_update_improvment"
PATHS = ("hidden/kernel", "hidden/bias", "out/kernel", "out/bias")


def gradients(model, x, y):
    """Of the mean squared error of the linear 6 → 8 → 3, masked."""
    first, offset, second, shift = (v.numpy() for v in model.trainable_variables)
    hidden = x @ first + offset
    error = 2 * (hidden @ second + shift - y) / y.size
    back = error @ second.T
    values = x.T @ back, back.sum(0), hidden.T @ error, error.sum(0)
    found = dict(zip(PATHS, values, strict=True))
    for path, mask in rigl_keras.get_masks(model).items():
        found[path] = found[path] * mask
    return found


def norm(arrays):
    return math.sqrt(sum(float((array**2).sum()) for array in arrays))


def started(folder, optimizer=None):
    """A model whose first checkpoint lies in the folder."""
    model = tiny.sparse_mlp(optimizer or keras.optimizers.SGD(RATE, momentum=0.5))
    checkpoints = Checkpoints(folder, model, model.optimizer)
    checkpoints.save(0)
    return model, checkpoints


def one_step(model):
    """Trains one step, on all data at once."""
    tiny.fit(model, rigl_keras.Static(), batch_size=32)


def test_gradient_norms_are_those_of_now(tmp_path):
    model, _ = started(tmp_path)
    one_step(model)
    x, y = tiny.data(8)
    expected = {path: norm([g]) for path, g in gradients(model, x, y).items()}
    total = norm(gradients(model, x, y).values())
    start = tmp_path / "ckpt-0"
    record, tags = Diagnostics(
        AtOnce(model, None), Norms(FlowMeter(model, (x, y))), start
    ).measure(0)
    assert record == {
        "gradient_norm": pytest.approx(total, 1e-5),
        "gradient_flow": pytest.approx(total**2, 1e-5),
    }
    measured = {p: tags[f"gradnorm/{p}"] for p in PATHS}
    assert measured == pytest.approx(expected, 1e-5)
    assert tags[".allparams/gradnorm"] == record["gradient_norm"]


def test_after_one_step_distance_and_momentum_are_the_step(tmp_path):
    model, _ = started(tmp_path)
    before = {path: v.numpy() for path, v in named_variables(model).items()}
    step = {p: RATE * g for p, g in gradients(model, *tiny.data(32)).items()}
    meter = FlowMeter(model, tiny.data(8))
    diagnostics = Diagnostics(AtOnce(model, None), Norms(meter), tmp_path / "ckpt-0")
    one_step(model)
    _, tags = diagnostics.measure(0)

    def cosine(*paths):
        start = np.concatenate([before[path].ravel() for path in paths])
        moved = np.concatenate([step[path].ravel() for path in paths])
        product = start @ (start - moved)
        return 1 - product / norm([start]) / norm([start - moved])

    expected = {f"dist_init_l2/{p}": norm([step[p]]) for p in PATHS}
    expected |= {f"dist_init_cosine/{p}": cosine(p) for p in PATHS}
    expected |= {
        ".allparams/dist_init_l2": norm(step.values()),
        ".allparams/dist_init_cosine": cosine(*PATHS),
        ".allparams/norm_momentum": norm(step.values()),
    }
    others = {name: tags[name] for name in tags if "gradnorm" not in name}
    assert others == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert min(expected.values()) > 1e-4


def test_a_dropped_connection_has_moved_by_its_weight(tmp_path):
    model, _ = started(tmp_path)
    meter = FlowMeter(model, tiny.data(8))
    diagnostics = Diagnostics(AtOnce(model, None), Norms(meter), tmp_path / "ckpt-0")
    before = tiny.weights(model)["out/kernel"]
    mask = rigl_keras.get_masks(model)["out/kernel"]
    dropped = np.unravel_index(np.abs(before).argmax(), before.shape)
    mask[dropped] = False
    rigl_keras.set_masks(model, {"out/kernel": mask})
    _, tags = diagnostics.measure(0)
    assert tags["dist_init_l2/out/kernel"] == abs(before[dropped]) > 0
    assert tags["dist_init_l2/hidden/kernel"] == 0
    assert tags[".allparams/dist_init_l2"] == abs(before[dropped])


def test_only_what_trains_is_measured(tmp_path):
    layers = [
        keras.Input((6,)),
        keras.layers.Dense(8, name="hidden"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Dense(3, name="out"),
    ]
    model = keras.Sequential(layers)
    model.layers[0].trainable = False
    model = tiny.compiled(tiny.sparsify(model))
    Checkpoints(tmp_path, model, model.optimizer).save(0)
    meter = FlowMeter(model, tiny.data(8))
    _, tags = Diagnostics(
        AtOnce(model, None), Norms(meter), tmp_path / "ckpt-0"
    ).measure(0)
    paths = {"norm/gamma", "norm/beta", "out/kernel", "out/bias"}
    for kind in ("gradnorm", "dist_init_l2", "dist_init_cosine"):
        found = {tag for tag in tags if tag.startswith(f"{kind}/")}
        assert found == {f"{kind}/{path}" for path in paths}


def test_without_a_start_or_momentum_there_is_no_such_tag(tmp_path):
    model = tiny.sparse_mlp(keras.optimizers.SGD(RATE))
    one_step(model)
    meter = FlowMeter(model, tiny.data(8))
    _, tags = Diagnostics(
        AtOnce(model, None), Norms(meter), tmp_path / "ckpt-0"
    ).measure(0)
    assert set(tags) == {".allparams/gradnorm", *(f"gradnorm/{p}" for p in PATHS)}


class Around(rigl_keras.MaskUpdateObserver):
    """Notes a model's variables around mask updates, by the names of checkpoints."""

    def __init__(self):
        super().__init__()
        self.variables = {}

    def on_mask_update_begin(self, step):
        self._note(step - 1)

    def on_mask_update_end(self, step):
        self._note(step)

    def _note(self, step):
        named = named_variables(self.model).items()
        self.variables[f"ckpt--{step}"] = {path: v.numpy() for path, v in named}


def watching(kind, model, updater):
    """What measures a training that is about to begin."""
    if kind is AtOnce:
        return AtOnce(model, updater.state)
    updater.prepare(model)
    other = tiny.sparse_mlp(keras.optimizers.SGD(RATE, momentum=0.5), seed=1)
    compat.build_optimizer(other.optimizer, list(other.trainable_variables))
    return Beside(model, updater.state, (other, copy.deepcopy(updater.state)))


def recorded(folder, updater, model, saves, data, kind=AtOnce):
    """Trains 4 steps with a recorder; returns what an observer saw."""
    writer = tf.summary.create_file_writer(str(folder))
    watch = watching(kind, model, updater)
    around, meter = Around(), FlowMeter(watch.model, data)
    checkpoints = Checkpoints(folder, watch.model, watch.model.optimizer)
    recorder = MaskUpdateRecorder(
        folder,
        checkpoints if saves else None,
        Norms(meter),
        watch=watch,
        writer=writer,
    )
    tiny.fit(model, updater, recorder, around)
    watch.end()
    writer.close()
    return around.variables


def events(folder):
    """(step, value) of every record of a change in the events of a folder."""
    [path] = folder.glob("events.out.tfevents.*")
    return [
        (event.step, float(tf.make_ndarray(value.tensor)))
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
        if value.tag == CHANGE
    ]


def updaters():
    schedule = rigl_keras.schedules.polynomial_decay(0.6, 0.9, 2, 8, frequency=2)
    return {
        "rigl": tiny.forever(rigl_keras.RigL, 2),
        "set": tiny.forever(rigl_keras.SET, 2),
        "pruning": rigl_keras.Pruning(schedule),
    }


@pytest.mark.parametrize("kind", [AtOnce, Beside])
@pytest.mark.parametrize("name", ["rigl", "set", "pruning"])
@tiny.too_short
def test_mask_updates_are_recorded(tmp_path, name, kind):
    model, _ = started(tmp_path)
    data = tiny.data(8)
    seen = recorded(tmp_path, updaters()[name], model, True, data, kind)

    assert list(seen) == [f"ckpt--{step}" for step in (1, 2, 3, 4)]
    norms = []
    for checkpoint, expected in seen.items():
        found = SavedModel(tmp_path / checkpoint).values
        assert found.keys() == expected.keys()
        for path, value in expected.items():
            np.testing.assert_array_equal(found[path], value, err_msg=path)
        for path, variable in named_variables(model).items():
            variable.assign(found[path])
        norms.append(norm(gradients(model, *data).values()))
    for before, after in (("ckpt--1", "ckpt--2"), ("ckpt--3", "ckpt--4")):
        masks = [path for path in seen[before] if path.endswith("/mask")]
        assert len(masks) == 2
        assert any((seen[before][p] != seen[after][p]).any() for p in masks)

    lines = (tmp_path / "mask_updates.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["step"] for record in records] == [2, 4]
    measured = [r[when] for r in records for when in ("before", "after")]
    assert measured == pytest.approx(norms, 1e-5)
    changes = [record["after"] - record["before"] for record in records]
    assert [record["change"] for record in records] == changes
    assert all(change != 0 for change in changes)
    assert events(tmp_path) == [
        (step, pytest.approx(change, 1e-6))
        for step, change in zip((2, 4), changes, strict=True)
    ]


def test_no_run_goes_on_from_checkpoints_around_updates(tmp_path):
    model, checkpoints = started(tmp_path)
    expected = [variable.numpy() for variable in model.variables]
    recorded(tmp_path, updaters()["set"], model, True, tiny.data(8))
    assert (tmp_path / "ckpt--4.index").exists()
    assert saved_steps(tmp_path) == [0]
    assert checkpoints.restore_last() == 0
    for variable, value in zip(model.variables, expected, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_an_update_that_is_not_made_leaves_no_record(tmp_path):
    model, _ = started(tmp_path)
    kernel = rigl_keras.sparse_kernels(model)[0].kernel
    kernel.assign(np.full(tuple(kernel.shape), np.nan))
    with pytest.warns(UserWarning, match="no mask update"):
        recorded(tmp_path, updaters()["set"], model, True, tiny.data(8))
    assert not (tmp_path / "mask_updates.jsonl").exists()
    assert events(tmp_path) == []
