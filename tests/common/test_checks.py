import math

import numpy as np
import pytest

from rigl_keras.common.checks import check_int, check_not_negative


@pytest.mark.parametrize("value", [3, np.int64(3)])
def test_whole_numbers_pass_as_ints(value):
    checked = check_int("size", value, minimum=3)
    assert checked == 3
    assert type(checked) is int


@pytest.mark.parametrize("value", [2, -1, 3.5, 4.0, True, "4", None])
def test_others_are_refused_by_name(value):
    with pytest.raises(ValueError, match="Expected size to be an int >= 3"):
        check_int("size", value, minimum=3)


@pytest.mark.parametrize("value", [0, 0.25, 3, np.float32(0.25), np.int64(3)])
def test_numbers_that_are_not_negative_pass_as_floats(value):
    checked = check_not_negative("noise", value)
    assert checked == value
    assert type(checked) is float


@pytest.mark.parametrize(
    "value", [-1, -1e-9, math.nan, math.inf, -math.inf, True, "0.5", None, 1j, [1.0]]
)
def test_no_such_numbers_are_refused_by_name(value):
    with pytest.raises(ValueError, match=r"Expected noise to be a number >= 0, got"):
        check_not_negative("noise", value)
