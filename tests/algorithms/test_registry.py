"""The algorithms by name, and callbacks of algorithms of one's own."""

import numpy as np
import pytest
import tensorflow as tf
import tiny

import rigl_keras
from rigl_keras import mask_updaters
from rigl_keras.algorithms import named, registry
from rigl_keras.mask_updaters import MaskUpdater, Pruner


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_ALGORITHMS", dict(registry._ALGORITHMS))


class Largest(MaskUpdater):
    """Drops the largest weights and grows the last connections."""

    name = "largest"

    def drop_scores(self, state):
        return -tf.abs(state.weights)

    def grow_scores(self, state):
        return tf.reshape(tf.range(tf.size(state.weights)), tf.shape(state.weights))


def trained_masks(callback):
    model = tiny.sparse_mlp()
    tiny.fit(model, callback)
    return rigl_keras.get_masks(model)


OPTIONS = {"update_freq": 2, "schedule": "constant", "last_update_step": -1}


def test_all_algorithms_are_registered_by_kind():
    assert list(named(MaskUpdater)) == ["set", "rigl", "rigl_inverted", "snfs"]
    assert list(named(Pruner)) == ["magnitude", "snip", "grasp"]
    assert named(MaskUpdater) == mask_updaters.ALGORITHMS
    assert named(Pruner) == mask_updaters.PRUNERS


def test_an_algorithm_is_given_as_an_object_a_class_or_a_name():
    registry.register(Largest)
    by_object, by_class, by_name = (
        trained_masks(rigl_keras.MaskUpdates(algorithm, **OPTIONS))
        for algorithm in (Largest(), Largest, "largest")
    )
    tiny.assert_same_masks(by_object, by_class)
    tiny.assert_same_masks(by_object, by_name)
    others = trained_masks(rigl_keras.MaskUpdates("rigl", **OPTIONS))
    assert any((by_object[path] != others[path]).any() for path in others)


@pytest.mark.parametrize("name", ["set", "rigl", "rigl_inverted", "snfs"])
def test_a_named_callback_is_mask_updates_by_that_algorithm(name):
    algorithm = mask_updaters.ALGORITHMS[name]
    callback = getattr(rigl_keras, algorithm.__name__)(**OPTIONS)
    assert isinstance(callback, rigl_keras.MaskUpdates)
    tiny.assert_same_masks(
        trained_masks(callback), trained_masks(rigl_keras.MaskUpdates(name, **OPTIONS))
    )


def test_a_subclass_of_a_callback_brings_its_algorithm():
    class Mine(rigl_keras.RigL):
        updater = Largest

    tiny.assert_same_masks(
        trained_masks(Mine(**OPTIONS)),
        trained_masks(rigl_keras.MaskUpdates(Largest, **OPTIONS)),
    )


def test_a_class_that_is_defined_again_replaces_itself():
    registry.register(Largest)
    again = type("Largest", (Largest,), {"__module__": __name__, "name": "largest"})
    assert registry.register(again) is again
    assert named(MaskUpdater)["largest"] is again


def test_what_cannot_be_registered_is_refused():
    with pytest.raises(ValueError, match="is registered as 'rigl' already"):
        registry.register(type("Other", (MaskUpdater,), {"name": "rigl"}))
    with pytest.raises(ValueError, match="has no name"):
        registry.register(type("Nameless", (MaskUpdater,), {}))
    with pytest.raises(TypeError, match="subclass of MaskUpdater or Pruner"):
        registry.register(np.ndarray)


def test_what_is_no_algorithm_is_refused():
    with pytest.raises(ValueError, match=r"\['set', 'rigl'.*got 'rigel'"):
        rigl_keras.MaskUpdates("rigel")
    with pytest.raises(TypeError, match="MaskUpdater"):
        rigl_keras.MaskUpdates(mask_updaters.Magnitude)
    with pytest.raises(ValueError, match="Give the noise to it"):
        rigl_keras.MaskUpdates(Largest(), drop_noise=0.1)


@pytest.mark.parametrize(
    ("algorithm", "reason"),
    [("set", "does not grow by a gradient"), ("snfs", "averages the gradients")],
)
def test_a_batch_to_grow_by_is_refused_where_it_would_not_be_used(algorithm, reason):
    with pytest.raises(ValueError, match=reason):
        rigl_keras.MaskUpdates(algorithm, grow_data=(np.ones(2), np.ones(2)))


def test_arguments_after_the_drop_fraction_are_given_by_name():
    for callback in (rigl_keras.RigL, rigl_keras.SET):
        with pytest.raises(TypeError, match="positional"):
            callback(1, 0.5, "constant")
