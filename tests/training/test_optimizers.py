"""Every optimizer that Keras has: its state follows the masks, or it is refused."""

import numpy as np
import pytest
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import RigL

# Each Keras has its own.
pytestmark = pytest.mark.both_kerases

NO_OPTIMIZERS = {"Optimizer", "OptimizerMap", "LossScaleOptimizer", "Loss"}
NAMES = sorted(
    name
    for name, value in vars(keras.optimizers).items()
    if isinstance(value, type)
    and issubclass(value, keras.optimizers.Optimizer)
    and name not in NO_OPTIMIZERS
)
# The state of these does not have one entry for each weight.
REFUSED = {"Adafactor", "MultiOptimizer"}
STARTS_AT = {"Adagrad": 0.1, "Ftrl": 0.1}


def make(name, **options):
    if name == "MultiOptimizer":
        optimizers = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.01))
        return keras.optimizers.MultiOptimizer(optimizers, **options)
    return getattr(keras.optimizers, name)(0.01, **options)


def test_the_refused_ones_exist():
    """That one is no longer there is to be seen."""
    assert REFUSED & set(NAMES) == (REFUSED if tiny.IS_KERAS_3 else {"Adafactor"})


@pytest.mark.parametrize("name", sorted(REFUSED & set(NAMES)))
def test_an_optimizer_of_other_state_is_refused_by_name(name):
    model = tiny.sparse_mlp(make(name))
    with pytest.raises(ValueError, match=name):
        tiny.fit(model, tiny.forever(RigL))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in REFUSED])
def test_state_off_the_masks_stays_as_new(name):
    model = tiny.sparse_mlp(make(name))
    before = rigl_keras.get_masks(model)

    def check(model):
        tiny.assert_zero_off_masks(model)
        for path, mask in rigl_keras.get_masks(model).items():
            slots = tiny.slots(model, path)
            assert name == "SGD" or slots, path
            for slot in slots:
                off = set(slot[~mask].tolist())
                assert off <= {0.0, np.float32(STARTS_AT.get(name, 0.0))}, path

    tiny.fit(model, tiny.forever(RigL, 2), tiny.EveryStep(check), epochs=2)
    check(model)
    after = rigl_keras.get_masks(model)
    assert any((before[path] != after[path]).any() for path in after)
    assert tiny.counts(model) == {path: m.sum() for path, m in before.items()}
