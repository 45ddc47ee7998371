"""Callbacks, algorithms, kernels and layers, printed."""

import copy

import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import SNFS, GradientFlow, MaskUpdates, Pruning, RigL, Sparse, Static
from rigl_keras import mask_updaters as updaters
from rigl_keras.core import kernels
from rigl_keras.core.masked_kernel import MaskedKernel
from rigl_keras.schedules import constant_sparsity, polynomial_decay

pytestmark = pytest.mark.both_kerases
DATA = tiny.data()
RIGL = "update_freq=100, drop_fraction=0.3, schedule='cosine'"
ARRAYS = "(<array of shape (32, 6)>, <array of shape (32, 3)>)"


class Mine(RigL):
    def __init__(self, extra, **options):
        super().__init__(**options)
        self.extra = extra


class Careless(RigL):
    def __init__(self):
        self.other = 1


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (RigL, f"RigL({RIGL})"),
        (lambda: SNFS(50), f"SNFS({RIGL.replace('100', '50')})"),
        (lambda: RigL(drop_noise=0.5, seed=3), f"RigL({RIGL}, seed=3, drop_noise=0.5)"),
        (lambda: RigL(grow_data=DATA), f"RigL({RIGL}, grow_data={ARRAYS})"),
        (lambda: Mine(7, kernels="h*"), f"Mine(extra=7, {RIGL}, kernels='h*')"),
        (Careless, "Careless()"),
        (
            lambda: MaskUpdates("set", drop_noise=0.5),
            f"MaskUpdates(algorithm=SET(drop_noise=0.5), {RIGL})",
        ),
        (
            lambda: Pruning(constant_sparsity(0.5, 2), "global"),
            "Pruning(schedule=ConstantSparsity(target_sparsity=0.5, begin_step=2, "
            "end_step=-1, frequency=100), ranking='global')",
        ),
        (
            lambda: Pruning(polynomial_decay(0.0, 0.9, 2, 9)),
            "Pruning(schedule=PolynomialDecay(initial_sparsity=0.0, final_sparsity=0.9,"
            " power=3, begin_step=2, end_step=9, frequency=100), ranking='layer')",
        ),
        (lambda: GradientFlow(DATA, 5), f"GradientFlow(data={ARRAYS}, every=5)"),
        (lambda: Static("out/*"), "Static(kernels='out/*')"),
        (updaters.RigL, "RigL()"),
        (lambda: updaters.SET(0.25), "SET(drop_noise=0.25)"),
        (updaters.Magnitude, "Magnitude(ranking='layer')"),
    ],
)
def test_what_is_printed_is_the_call_that_makes_it(make, text):
    thing = make()
    assert repr(thing) == text
    if not isinstance(thing, Careless):
        assert repr(copy.deepcopy(thing)) == text


def test_a_callback_that_trains():
    texts = []
    rigl = tiny.forever(RigL)
    tiny.fit(
        tiny.sparse_mlp(), rigl, tiny.EveryStep(lambda _: texts.append(repr(rigl)))
    )
    expected = "RigL(update_freq=1, drop_fraction=0.5, schedule='constant', last_upd"
    assert all(text.startswith(expected) for text in [*texts, repr(rigl)])


def test_kernels_are_printed_without_their_weights():
    model = tiny.sparse_mlp(sparsity=0.75)
    sparse = rigl_keras.sparse_kernels(model)
    assert repr(sparse) == (
        "[SparseKernel(path='hidden/kernel', shape=(6, 8), sparsity=0.75), "
        "SparseKernel(path='out/kernel', shape=(8, 3), sparsity=0.75)]"
    )
    traced = []
    tf.function(lambda: traced.append(repr(sparse[0])))()
    assert traced == ["SparseKernel(path='hidden/kernel', shape=(6, 8))"]
    assert repr(MaskedKernel(sparse[1])) == (
        "MaskedKernel(path='out/kernel', shape=(8, 3))"
    )
    assert repr(kernels.find_kernels(model)[1]) == (
        "Kernel(path='out/kernel', shape=(8, 3))"
    )
    constraint = sparse[0].kernel.constraint
    assert repr(constraint) == "MaskConstraint(shape=(6, 8))"


def test_layers_are_printed_with_their_sparsity():
    layer = Sparse(keras.layers.Dense(3, name="out"), 0.9)
    text = "<Sparse name=sparse_out, layer=Dense 'out', sparsity={}, built={}>"
    assert repr(layer) == text.format(0.9, False)
    layer(tiny.data()[0])
    assert repr(layer) == text.format(0.9, True)
    layer = tiny.sparse_mlp().layers[-1]
    assert repr(layer) == text.format({"kernel": 0.5}, True)
