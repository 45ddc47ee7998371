import pytest

from rigl_keras.common import tables


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.5], "50.00"), ([0.1, 0.3], "20.00 ± 10.00"), ([0.25, 0.25], "25.00 ± 0.00")],
)
def test_mean_and_deviation(values, expected):
    assert tables.spread(values, 2, 100) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.000123, 0.000101], "0.000112 ± 0.000011"),
        ([2.0, 3.5], "2.75 ± 0.75"),
        ([1234], "1234"),
        ([3e-7, 5e-7], "4.00e-07 ± 1.00e-07"),
        ([9.9996e-5], "0.000100"),
        ([0.0, 0.0], "0.000 ± 0.000"),
    ],
)
def test_small_means_keep_their_digits(values, expected):
    assert tables.significant(values) == expected


def test_columns_of_a_table_line_up():
    text = tables.markdown([["run", "accuracy"], ["a long name", "1"], ["b", "22"]])
    assert text.splitlines() == [
        "| run         | accuracy |",
        "| ----------- | -------- |",
        "| a long name | 1        |",
        "| b           | 22       |",
    ]
