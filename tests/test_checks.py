import numpy as np
import pytest

from rigl_keras.checks import check_int


@pytest.mark.parametrize("value", [3, np.int64(3)])
def test_whole_numbers_pass_as_ints(value):
    checked = check_int("size", value, minimum=3)
    assert checked == 3
    assert type(checked) is int


@pytest.mark.parametrize("value", [2, -1, 3.5, 4.0, True, "4", None])
def test_others_are_refused_by_name(value):
    with pytest.raises(ValueError, match="Expected size to be an int >= 3"):
        check_int("size", value, minimum=3)
