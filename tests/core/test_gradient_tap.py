"""Gradients of all units of a large kernel, some groups at a time."""

import numpy as np
import pytest
import tensorflow as tf

from rigl_keras.core import compressed_units
from rigl_keras.core.gradient_tap import add_unit_gradients, set_to_zero

ROWS, GROUPS, BLOCK, UNITS = 5, 6, 4, 10


@pytest.mark.parametrize("jit_compile", [False, True])
def test_in_parts_they_are_those_of_the_whole(monkeypatch, jit_compile):
    random = np.random.RandomState(0)
    rows = random.randn(ROWS, GROUPS * BLOCK).astype(np.float32)
    upstream = random.randn(ROWS, UNITS).astype(np.float32)
    dense = (rows.T @ upstream).reshape(GROUPS, BLOCK, UNITS).sum(axis=1)
    for most in (2**22, 2 * UNITS, 1):
        monkeypatch.setattr(compressed_units, "_UNITS_A_PART", most)
        kept = tf.Variable(tf.ones([GROUPS, UNITS]))

        @tf.function(jit_compile=jit_compile, autograph=False)
        def add(rows, upstream, kept=kept):
            add_unit_gradients(kept, rows, upstream, block=BLOCK)

        add(rows, upstream)
        add(rows, upstream)
        np.testing.assert_allclose(kept.numpy(), 1 + 2 * dense, rtol=1e-4, atol=1e-4)
        kept.assign(kept * np.nan)
        set_to_zero(kept)
        assert (kept.numpy() == 0).all()
