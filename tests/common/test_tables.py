import pytest

from rigl_keras.common import tables


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.5], "50.00"), ([0.1, 0.3], "20.00 ± 10.00"), ([0.25, 0.25], "25.00 ± 0.00")],
)
def test_mean_and_deviation(values, expected):
    assert tables.spread(values, 2, 100) == expected


def test_columns_of_a_table_line_up():
    text = tables.markdown([["run", "accuracy"], ["a long name", "1"], ["b", "22"]])
    assert text.splitlines() == [
        "| run         | accuracy |",
        "| ----------- | -------- |",
        "| a long name | 1        |",
        "| b           | 22       |",
    ]
