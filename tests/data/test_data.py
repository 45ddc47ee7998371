from itertools import chain

import numpy as np
import pytest
import tensorflow as tf
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from rigl_keras import data


def numbered(n, shape=(2, 2, 1)):
    """Images of one colour each and labels that tell the examples apart."""
    labels = np.arange(n, dtype=np.int32)
    pixels = (labels * 37 % 256).astype(np.uint8)
    return np.broadcast_to(pixels[:, None, None, None], (n, *shape)).copy(), labels


def label_lists(dataset):
    return [labels.tolist() for _, labels in dataset.as_numpy_iterator()]


@settings(deadline=None, max_examples=15)
@given(
    n=st.integers(1, 40),
    fraction=st.floats(0, 1),
    seed=st.integers(-(2**31), 2**31),
    steps=st.integers(0, 12),
    start=st.integers(0, 12),
)
def test_batches_are_a_stream_of_permutations(n, fraction, seed, steps, start):
    images, labels = numbered(n)
    batch_size = max(1, round(fraction * n))
    whole = label_lists(data.batches(images, labels, batch_size, 0, steps, seed))
    assert [len(batch) for batch in whole] == [batch_size] * steps
    stream = np.concatenate([[], *whole])
    for begin in range(0, len(stream), n):
        epoch = stream[begin : begin + n]
        assert len(set(epoch)) == len(epoch)
    start = min(start, steps)
    resumed = data.batches(images, labels, batch_size, start, steps, seed)
    assert label_lists(resumed) == whole[start:]


def test_epochs_and_seeds_are_independent_orders():
    n = 5000
    images, labels = numbered(n, (1, 1, 1))
    orders = np.concatenate(
        [
            label_lists(data.batches(images, labels, n, 0, 4, seed))
            for seed in (0, 1, -1)
        ]
    )
    correlation = np.corrcoef(np.vstack([np.arange(n), orders])) - np.eye(13)
    # Five standard deviations of independent permutations.
    assert np.abs(correlation).max() < 5 / np.sqrt(n)
    successors = [np.corrcoef(order[1:], order[:-1])[0, 1] for order in orders]
    assert np.abs(successors).max() < 5 / np.sqrt(n)


def test_every_order_is_equally_likely():
    images, labels = numbered(3, (1, 1, 1))
    orders = label_lists(data.batches(images, labels, 3, 0, 600, seed=0))
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 6
    # The 0.9999 quantile of chi squared with 5 degrees of freedom.
    assert ((counts - 100) ** 2 / 100).sum() < 25.7


def images_of(n):
    images, labels = numbered(n)
    return data.ImageData(images, labels, images, labels, n, "numbered")


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_share_each_training_batch(workers):
    images = images_of(20)
    order = (6, 2, 9, 5)  # batch size, first and last step, seed
    whole = label_lists(data.batches(images.train_images, images.train_labels, *order))
    shares = [
        label_lists(images.train_batches(*order, worker, workers))
        for worker in range(workers)
    ]
    assert [list(chain(*parts)) for parts in zip(*shares, strict=True)] == whole
    with pytest.raises(ValueError, match="cannot be shared by 4 workers"):
        images.train_batches(*order, 0, 4)
    with pytest.raises(ValueError, match="worker"):
        images.train_batches(*order, workers, workers)


@settings(deadline=None, max_examples=15)
@given(
    n=st.integers(1, 40),
    batches=st.integers(1, 6),
    workers=st.sampled_from([1, 2, 3]),
)
def test_workers_share_the_test_set(n, batches, workers):
    images = images_of(n)
    size = max(1, n // batches // workers) * workers
    if size > n:
        return
    seen = []
    for worker in range(workers):
        steps = 0
        for _, labels, *weights in images.test_batches(size, worker, workers):
            assert len(labels) == size // workers
            counted = np.ones(len(labels)) if not weights else weights[0].numpy()
            seen += labels.numpy()[counted == 1].tolist()
            assert set(counted) <= {0, 1}
            steps += 1
        assert steps == -(-n // size)
    assert sorted(seen) == list(range(n))


def test_passes_in_order_are_the_first_records():
    images = images_of(10)
    for make in (images.train_in_order, images.test_in_order):
        assert label_lists(make(4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert label_lists(make(4, 5)) == [[0, 1, 2, 3], [4]]
        assert label_lists(make(100, 3)) == [[0, 1, 2]]


def test_batches_hold_scaled_images_with_their_labels():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (7, 3, 2, 2), np.uint8)
    images[3] = 255
    labels = np.arange(7)
    dataset = data.batches(images, labels, 4, 0, 5, seed=3)
    spec = dataset.element_spec
    assert spec[0] == tf.TensorSpec((4, 3, 2, 2), tf.float32)
    assert spec[1] == tf.TensorSpec((4,), tf.int32)
    assert dataset.cardinality() == 5
    for pixels, rows in dataset.as_numpy_iterator():
        np.testing.assert_allclose(pixels, images[rows] / 255, rtol=1e-6)
        assert pixels.max() <= 1


def test_replicas_share_the_batches_of_one_device():
    images, labels = numbered(50)
    strategy = tiny.two_replicas()
    for dataset in (
        data.batches(images, labels, 16, 3, 12, seed=0),
        data.evaluation_batches(images, labels, 16),
    ):
        shares = [
            strategy.experimental_local_results(rows)
            for _, rows in strategy.experimental_distribute_dataset(dataset)
        ]
        assert [len(share) for share in shares[0]] == [8, 8]
        joined = [np.concatenate(share).tolist() for share in shares]
        assert joined == label_lists(dataset)


def test_evaluation_covers_every_example_in_order():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (11, 3, 2, 2), np.uint8)
    dataset = data.evaluation_batches(images, np.arange(11), 4)
    assert label_lists(dataset) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    pixels = np.concatenate([pixels for pixels, _ in dataset.as_numpy_iterator()])
    np.testing.assert_allclose(pixels, images / 255, rtol=1e-6)
    assert pixels.dtype == np.float32
    assert dataset.element_spec[0].shape[1:] == (3, 2, 2)


def test_fixed_batch_takes_the_records_it_names():
    images = np.random.default_rng(0).integers(0, 256, (6, 2, 2, 1), np.uint8)
    pixels, labels = data.fixed_batch(images, np.arange(6), 2, 5)
    assert labels.tolist() == [2, 3, 4]
    np.testing.assert_allclose(pixels, images[2:5] / 255, rtol=1e-6)
    assert pixels.dtype == np.float32 and labels.dtype == np.int32
    _, labels = data.fixed_batch(images, np.arange(6), 4, 1000)
    assert labels.tolist() == [4, 5]


def test_every_reader_scales_alike():
    images, labels = numbered(256)
    fixed, _ = data.fixed_batch(images, labels, 0, 256)
    for dataset in (
        data.evaluation_batches(images, labels, 256),
        data.batches(images, labels, 256, 0, 1, seed=0),
    ):
        pixels, rows = next(dataset.as_numpy_iterator())
        np.testing.assert_array_equal(pixels, fixed[rows])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, r"batch_size must be an int in 1 \.\.\. 6"),
        ({"batch_size": 7}, r"batch_size must be an int in 1 \.\.\. 6"),
        ({"start_step": 4}, "0 <= start_step <= total_steps"),
        ({"start_step": -1}, "0 <= start_step <= total_steps"),
        ({"labels": np.arange(5)}, r"labels must have shape \[6\]"),
        ({"images": np.zeros((6, 2, 2, 1))}, "uint8 array .* got float64"),
        ({"images": np.zeros((6, 4), np.uint8)}, r"uint8 array .*\(6, 4\)"),
    ],
)
def test_batches_refuse(changes, message):
    images, labels = numbered(6)
    arguments = {"images": images, "labels": labels, "batch_size": 2, "seed": 0}
    arguments |= {"start_step": 0, "total_steps": 3}
    with pytest.raises(ValueError, match=message):
        data.batches(**(arguments | changes))


@pytest.mark.parametrize(("start", "stop"), [(6, 9), (3, 3), (4, 2), (-2, 4)])
def test_an_empty_fixed_batch_is_refused(start, stop):
    images, labels = numbered(6)
    with pytest.raises(ValueError, match="of a set of 6 records"):
        data.fixed_batch(images, labels, start, stop)
