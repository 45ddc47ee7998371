import itertools
import subprocess
import sys

import pytest
import tensorflow as tf

from rigl_keras.common.seeding import (
    ALGORITHM,
    random_integers,
    random_normal,
    stateless_seed,
)


def values(purpose, seed, index=0, step=0):
    return tuple(stateless_seed(purpose, seed, index, step=step).numpy().tolist())


def test_every_part_of_a_draws_name_makes_another_seed():
    names = itertools.product(("mask", "grow"), (0, 1, 2**40), (0, 1), (0, 7))
    seeds = [values(purpose, seed, index, step) for purpose, seed, index, step in names]
    assert len(set(seeds)) == len(seeds)


def test_parts_of_a_name_do_not_run_together():
    assert values("a", 1, 11) != values("a", 11, 1)
    assert values("a/1", 1, 1) != values("a", 1, 11)


def test_step_may_be_a_tensor_in_a_graph():
    traced = tf.function(lambda step: stateless_seed("grow", 3, 2, step=step))
    for dtype in (tf.int32, tf.int64):
        seed = traced(tf.constant(17, dtype))
        assert seed.dtype == tf.int64 and seed.shape == [2]
        assert tuple(seed.numpy()) == values("grow", 3, 2, 17)


@pytest.mark.slow
def test_a_seed_is_the_same_in_another_process():
    program = (
        "from rigl_keras.common.seeding import stateless_seed;"
        "print(stateless_seed('mask', 5, 1, step=9).numpy().tolist())"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == str(list(values("mask", 5, 1, 9)))


def test_draws_are_those_of_the_seed_under_xla_too():
    def draw(seed):
        return tf.random.stateless_uniform(
            [1000], seed, None, None, tf.int32, alg=ALGORITHM
        )

    seed = stateless_seed("grow", 0)
    expected = draw(seed).numpy()
    assert (tf.function(draw, jit_compile=True)(seed).numpy() == expected).all()
    other = draw(stateless_seed("grow", 0, step=1)).numpy()
    assert (expected != other).mean() > 0.99


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("first", [0, 1, 3, 4, 7, 30])
def test_a_part_of_a_draw_is_a_slice_of_the_whole(first, jit_compile):
    seed = stateless_seed("mask", 3)
    whole = random_integers([5, 10], seed).numpy()
    draw = tf.function(
        lambda at: random_integers([2, 7], seed, at), jit_compile=jit_compile
    )
    expected = whole.ravel()[first : first + 14].reshape(2, 7)
    assert (draw(tf.constant(first)).numpy() == expected).all()
    assert (random_integers([2, 7], seed, first).numpy() == expected).all()
    normal = random_normal([5, 10], seed).numpy().ravel()[first : first + 14]
    assert (random_normal([14], seed, first).numpy() == normal).all()


def test_a_whole_draw_is_that_of_tensorflow():
    seed = stateless_seed("mask", 3)
    options = {"seed": seed, "alg": ALGORITHM}
    expected = tf.random.stateless_uniform(
        [5, 7], minval=None, maxval=None, dtype=tf.int32, **options
    )
    assert (random_integers([5, 7], seed).numpy() == expected.numpy()).all()
    expected = tf.random.stateless_normal([5, 7], **options)
    assert (random_normal([5, 7], seed).numpy() == expected.numpy()).all()
