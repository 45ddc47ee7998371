import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from rigl_keras.data import record_files
from rigl_keras.data.record_files import Piece

pytestmark = pytest.mark.one_keras

SIZES = (5, 1, 7, 3, 4, 6, 2)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of numbered records: 0 ... 4, 5, 6 ... 12 and so on."""
    folder, number, paths = tmp_path_factory.mktemp("records"), 0, []
    for i, size in enumerate(SIZES):
        paths.append(str(folder / f"{i}.tfrecord"))
        with tf.io.TFRecordWriter(paths[-1]) as writer:
            for _ in range(size):
                writer.write(str(number).encode())
                number += 1
    return paths


@pytest.fixture(scope="module", autouse=True)
def three_files_at_a_time():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_files, "_FILES", 3)
        patch.setattr(record_files, "_BLOCK", 2)
        yield


def whole(files):
    return [Piece(path, 0, size) for path, size in zip(files, SIZES, strict=True)]


def numbers(dataset):
    return [int(record) for record in dataset.as_numpy_iterator()]


@settings(max_examples=15)
@given(start=st.integers(-3, 32), stop=st.integers(-3, 32))
def test_a_cut_is_a_slice_of_the_records(files, start, stop):
    pieces = record_files.cut(whole(files), start, stop)
    expected = list(range(28))[max(start, 0) : max(stop, 0)]
    assert record_files.count(pieces) == len(expected)
    if pieces:
        assert numbers(record_files.in_order(pieces)) == expected
        # Of a part, too, records count from the part's first.
        inner = record_files.cut(pieces, 1, 4)
        assert not inner or numbers(record_files.in_order(inner)) == expected[1:4]


@given(workers=st.integers(1, 28))
def test_workers_shares_are_disjoint_cover_all_and_are_even(workers):
    starts = dict(zip("abcdefg", np.cumsum((0, *SIZES[:-1])), strict=True))
    pieces = whole("abcdefg")
    shares = [record_files.share(pieces, worker, workers) for worker in range(workers)]
    read = [
        starts[path] + record
        for share in shares
        for path, skip, take in share
        for record in range(skip, skip + take)
    ]
    assert read == [*range(28)]
    sizes = [record_files.count(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_interleaved_files_are_read_in_turns_and_each_record_once(files):
    read = numbers(record_files.interleaved(whole(files)))
    assert sorted(read) == [*range(28)]
    # Two of each of the first three files; the fourth, when the second has no more.
    assert read[:9] == [0, 1, 5, 6, 7, 2, 3, 13, 14]
    assert numbers(record_files.interleaved(whole(files))) == read


@pytest.mark.slow
@settings(max_examples=20)
@given(
    cuts=st.tuples(st.integers(0, 27), st.integers(1, 28)).filter(
        lambda c: c[0] < c[1]
    ),
    start=st.integers(0, 90),
    length=st.integers(0, 70),
    window=st.integers(1, 30),
    seed=st.integers(-(2**31), 2**31),
    worker=st.integers(0, 3),
)
def test_a_shuffled_stream_is_one_of_permutations_read_from_anywhere(
    files, cuts, start, length, window, seed, worker
):
    pieces = record_files.cut(whole(files), *cuts)
    n = cuts[1] - cuts[0]

    def read(start, stop):
        return numbers(
            record_files.shuffled(
                pieces, start, stop, window=window, seed=seed, worker=worker
            )
        )

    stop = start + length
    stream = read(0, stop)
    assert len(stream) == stop
    for begin in range(0, stop - n + 1, n):
        assert sorted(stream[begin : begin + n]) == list(range(*cuts))
    assert len(set(stream[stop // n * n :])) == stop % n
    assert read(start, stop) == stream[start:]


def test_epochs_seeds_and_workers_have_orders_of_their_own(files):
    pieces = whole(files)
    orders = [
        tuple(
            numbers(
                record_files.shuffled(
                    pieces, *range_, window=100, seed=seed, worker=worker
                )
            )
        )
        for range_ in ((0, 28), (28, 56))
        for seed in (0, 1)
        for worker in (0, 1)
    ]
    assert len(set(orders)) == 8


@pytest.mark.slow
def test_files_are_shuffled_and_so_are_the_records_of_a_window(files):
    owner = np.repeat(np.arange(7), SIZES)
    first_files, descents = set(), 0
    for seed in range(30):
        read = np.array(
            numbers(
                record_files.shuffled(
                    whole(files), 0, 28, window=28, seed=seed, worker=0
                )
            )
        )
        first_files.add(owner[read[0]])
        descents += sum((np.diff(read[owner[read] == i]) < 0).sum() for i in range(7))
    assert first_files == set(range(7))
    # Of 28 - 7 neighbours of one file, half are in descending order: five standard
    # deviations, of a uniform permutation's number of descents, (n + 1) / 12.
    deviation = np.sqrt(30 * sum((size + 1) / 12 for size in SIZES))
    assert abs(descents - 30 * 21 / 2) < 5 * deviation


def test_every_window_is_shuffled_in_a_way_of_its_own(files):
    # One file of 7 records: two whole windows of 3 and a part of one in an epoch.
    pieces = [Piece(files[2], 0, 7)]
    stream = np.array(
        numbers(record_files.shuffled(pieces, 0, 7 * 300, window=3, seed=0, worker=0))
    )
    windows = stream.reshape(300, 7)[:, :6].reshape(600, 3)
    assert set(windows[::2].ravel()) == {6, 7, 8}
    orders, counts = np.unique(windows.argsort(axis=1), axis=0, return_counts=True)
    # The 0.9999 quantile of chi squared with 5 degrees of freedom.
    assert len(orders) == 6 and ((counts - 100) ** 2 / 100).sum() < 25.7
    assert (windows[::2].argsort(axis=1) != windows[1::2].argsort(axis=1)).any()


def test_the_order_does_not_depend_on_the_global_seed(files):
    read = []
    for seed in (1, 2):
        tf.random.set_seed(seed)
        read.append(
            numbers(
                record_files.shuffled(whole(files), 3, 60, window=4, seed=0, worker=0)
            )
        )
    assert read[0] == read[1]
