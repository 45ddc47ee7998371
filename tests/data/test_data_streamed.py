"""Sets that are read from their files: what a batch holds, and when."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras
from tiny_tfds import NUM_TEST, NUM_TRAIN, NUMBERED_SHAPE, numbered_image

from rigl_keras import data
from rigl_keras.data import preprocessing, streamed, tfds_sets

pytestmark = pytest.mark.one_keras


@pytest.fixture(scope="module")
def images(tfds_dir):
    return data.load("tiny_numbers", tfds_dir, preprocessing="pad_and_crop")


@pytest.fixture
def several_windows(monkeypatch, images):
    """Makes what is shuffled at a time less than an epoch."""
    monkeypatch.setattr(streamed, "_WINDOW_BYTES", 9 * images._source.record_bytes)


def arrays(dataset):
    return list(dataset.as_numpy_iterator())


def labels_of(batches):
    return np.concatenate([batch[1] for batch in batches])


def assert_equal_batches(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        for mine, yours in zip(one, other, strict=True):
            np.testing.assert_array_equal(mine, yours)


class Places(preprocessing.Preprocessing):
    """For an image, the place that its random draws are keyed by."""

    def train(self, encoded, seeds):
        del encoded
        return tf.broadcast_to(tf.cast(seeds(0)[1], tf.float32), self.input_shape)

    def test(self, encoded):
        del encoded
        return tf.zeros(self.input_shape)


def test_what_is_known_before_reading(images):
    assert images.name == "tiny_numbers"
    assert images.num_classes == NUM_TRAIN + NUM_TEST
    assert images.input_shape == NUMBERED_SHAPE
    assert (images.num_train, images.num_test) == (NUM_TRAIN, NUM_TEST)
    train = images.train_batches(20, 3, 9, seed=0, worker=1, workers=2)
    assert train.cardinality() == 6
    assert train.element_spec == (
        tf.TensorSpec((10, *NUMBERED_SHAPE), tf.float32),
        tf.TensorSpec((10,), tf.int32),
    )
    test = images.test_batches(8, worker=1, workers=2)
    assert test.cardinality() == 3
    assert test.element_spec == (
        tf.TensorSpec((4, *NUMBERED_SHAPE), tf.float32),
        tf.TensorSpec((4,), tf.int32),
        tf.TensorSpec((4,), tf.float32),
    )


@pytest.mark.usefixtures("several_windows")
def test_every_epoch_has_each_example_once(images):
    stream = labels_of(arrays(images.train_batches(30, 0, 10, seed=0)))
    assert len(stream) == 300
    epochs = stream.reshape(3, NUM_TRAIN)
    np.testing.assert_array_equal(
        np.sort(epochs), np.tile(np.arange(NUM_TRAIN), (3, 1))
    )
    assert len(set(map(tuple, epochs))) == 3


@pytest.mark.usefixtures("several_windows")
@pytest.mark.parametrize(("worker", "workers"), [(0, 1), (1, 3)])
@pytest.mark.parametrize("start", [1, 6, 11])
def test_a_resumed_run_sees_the_batches_it_would_have_seen(
    images, worker, workers, start
):
    arguments = {"seed": 7, "worker": worker, "workers": workers}
    whole = arrays(images.train_batches(27, 0, 12, **arguments))
    resumed = arrays(images.train_batches(27, start, 12, **arguments))
    assert_equal_batches(resumed, whole[start:])


@pytest.mark.release
def test_batches_are_equal_in_another_process(images, tfds_dir):
    program = f"""
import sys
import numpy as np
import tensorflow as tf
tf.random.set_seed(5)
tf.config.threading.set_inter_op_parallelism_threads(1)
from rigl_keras import data
images = data.load("tiny_numbers", {str(tfds_dir)!r}, preprocessing="pad_and_crop")
x, y = zip(*images.train_batches(30, 2, 5, seed=3).as_numpy_iterator())
np.savez(sys.argv[1], x=x, y=y)
"""
    file = tfds_dir / "batches.npz"
    subprocess.run([sys.executable, "-c", program, file], check=True)
    found = np.load(file)
    assert_equal_batches(
        arrays(images.train_batches(30, 2, 5, seed=3)),
        list(zip(found["x"], found["y"], strict=True)),
    )


def test_seeds_order_and_augment_differently(images):
    one, other = (arrays(images.train_batches(100, 0, 1, seed))[0] for seed in (0, 1))
    assert (one[1] != other[1]).any()
    # The same example, at whatever place.
    pixels = one[0][np.argsort(one[1])] != other[0][np.argsort(other[1])]
    assert pixels.any(axis=(1, 2, 3)).mean() > 0.9


def test_an_example_is_augmented_by_its_place_in_the_stream(images):
    small = arrays(images.train_batches(10, 0, 6, seed=0))
    large = arrays(images.train_batches(30, 0, 2, seed=0))
    for part in (0, 1):
        np.testing.assert_array_equal(
            np.concatenate([batch[part] for batch in small]),
            np.concatenate([batch[part] for batch in large]),
        )


def test_no_two_examples_of_a_run_share_their_draws(tfds_dir):
    source = tfds_sets.find(
        "tiny_numbers", tfds_dir, False, train_split="train", test_split=None
    )
    places = data.StreamedImages(source, Places(NUMBERED_SHAPE, (1, 1, 1)))
    shares = [
        np.array([x for x, _ in arrays(places.train_batches(12, 2, 5, 0, worker, 3))])
        for worker in range(3)
    ]
    joined = np.concatenate(shares, axis=1)
    np.testing.assert_array_equal(joined.ravel(), np.arange(24, 60))


@pytest.mark.usefixtures("several_windows")
@pytest.mark.parametrize("workers", [2, 3, 7])
def test_workers_train_on_disjoint_examples_that_are_all(images, workers):
    shares = []
    for worker in range(workers):
        # At least an epoch of the largest share.
        steps = -(-NUM_TRAIN // workers)
        share = labels_of(
            arrays(images.train_batches(workers, 0, steps + 2, 0, worker, workers))
        )
        n = (worker + 1) * NUM_TRAIN // workers - worker * NUM_TRAIN // workers
        assert len(set(share[:n])) == n
        assert set(share) == set(share[:n])
        shares.extend(share[:n])
    assert sorted(shares) == [*range(NUM_TRAIN)]


def test_replicas_share_the_batches_of_one_device(images):
    strategy = tiny.two_replicas()
    for dataset in (images.train_batches(16, 3, 8, seed=0), images.test_batches(16)):
        shares = [
            [strategy.experimental_local_results(part) for part in batch]
            for batch in strategy.experimental_distribute_dataset(dataset)
        ]
        assert [len(labels) for labels in shares[0][1]] == [8, 8]
        joined = [[np.concatenate(part) for part in batch] for batch in shares]
        assert_equal_batches(joined, arrays(dataset))


@pytest.mark.parametrize(("batch_size", "workers"), [(22, 1), (8, 1), (8, 2), (9, 3)])
def test_test_batches_are_full_and_weights_count_each_example_once(
    images, batch_size, workers
):
    seen = []
    for worker in range(workers):
        batches = arrays(images.test_batches(batch_size, worker, workers))
        assert len(batches) == -(-NUM_TEST // batch_size)
        for pixels, labels, weights in batches:
            assert len(pixels) == len(labels) == len(weights) == batch_size // workers
            assert set(weights) <= {0, 1}
            seen.extend(labels[weights == 1])
    assert sorted(seen) == [*range(NUM_TRAIN, NUM_TRAIN + NUM_TEST)]


def test_weighted_metrics_are_those_of_the_examples(images):
    model = keras.Sequential([keras.Input(NUMBERED_SHAPE), keras.layers.Flatten()])
    model.add(keras.layers.Dense(images.num_classes))
    cross_entropy = keras.metrics.SparseCategoricalCrossentropy(from_logits=True)
    # Of random guesses, about half are so right.
    accuracy = keras.metrics.SparseTopKCategoricalAccuracy(images.num_classes // 2)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, weighted_metrics=[cross_entropy, accuracy])
    x, y = images.test_records(0, NUM_TEST)
    logits = model.predict(x, verbose=0).astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    right = probabilities[np.arange(NUM_TEST), y]
    ranks = (probabilities > right[:, None]).sum(1)
    found = model.evaluate(images.test_batches(8), verbose=0)[1:]
    expected = [-np.log(right).mean(), (ranks < images.num_classes // 2).mean()]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_records_are_in_the_order_of_the_files_and_not_augmented(images, tfds_dir):
    pixels, labels = images.train_records(0, NUM_TRAIN)
    files = sorted((tfds_dir / "tiny_numbers" / "1.0.0").glob("*-train.tfrecord*"))
    in_files = [
        tf.train.Example.FromString(record.numpy())
        .features.feature["label"]
        .int64_list.value[0]
        for record in tf.data.TFRecordDataset(list(map(str, files)))
    ]
    assert len(files) == 20
    np.testing.assert_array_equal(labels, in_files)
    mean, deviation = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    expected = [(numbered_image(i) / 255 - mean) / deviation for i in in_files]
    np.testing.assert_allclose(pixels, expected, rtol=1e-4, atol=1e-5)
    for mine, yours in zip(images.train_records(7, 30), (pixels, labels), strict=True):
        np.testing.assert_array_equal(mine, yours[7:30])
    assert len(images.test_records(20, 1000)[1]) == NUM_TEST - 20


def test_parts_of_splits_are_streamed(tfds_dir):
    parts = data.load(
        "tiny_numbers",
        tfds_dir,
        train_split="train[:90%]",
        test_split="train[90%:]",
        preprocessing="pad_and_crop",
    )
    assert (parts.num_train, parts.num_test) == (90, 10)
    train = labels_of(arrays(parts.train_batches(45, 0, 2, seed=0)))
    test = labels_of(arrays(parts.test_batches(10)))
    assert sorted([*train, *test]) == [*range(NUM_TRAIN)]


def test_without_augmentation_a_stream_holds_what_memory_would(tfds_dir, monkeypatch):
    held = data.load("tiny_grey", tfds_dir, image_size=(7, 3))
    monkeypatch.setattr(data.loading, "MAX_BYTES", 1)
    stream = data.load("tiny_grey", tfds_dir, image_size=(7, 3))
    assert isinstance(stream, data.StreamedImages)
    for records in ("train_records", "test_records"):
        assert_equal_batches(
            [getattr(stream, records)(0, 100)], [getattr(held, records)(0, 100)]
        )
    pixels, labels = arrays(stream.train_batches(100, 0, 1, seed=0))[0]
    known = {
        image.tobytes(): label
        for image, label in zip(*held.train_records(0, 100), strict=True)
    }
    assert [known[image.tobytes()] for image in pixels] == labels.tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, r"batch_size must be an int in 1 \.\.\. 100"),
        ({"batch_size": 101}, r"batch_size must be an int in 1 \.\.\. 100"),
        ({"start_step": 4}, "0 <= start_step <= total_steps"),
        ({"worker": 2, "workers": 2}, r"worker in 0 \.\.\. workers - 1"),
        ({"workers": 3}, "cannot be shared by 3 workers"),
    ],
)
def test_train_batches_refuse(images, changes, message):
    arguments = {"batch_size": 20, "start_step": 0, "total_steps": 3, "seed": 0}
    with pytest.raises(ValueError, match=message):
        images.train_batches(**(arguments | changes))


def test_test_batches_and_records_refuse(images):
    with pytest.raises(ValueError, match=r"batch_size must be an int in 1 \.\.\. 22"):
        images.test_batches(23)
    with pytest.raises(ValueError, match="of a set of 100 records"):
        images.train_records(100, 120)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preprocessing": "random"}, "preprocessing must be None or one of"),
        ({"image_size": (3, 8)}, r"larger ones, or data\.preprocessing='none'"),
        ({"name": "tiny_colour"}, r"set data\.image_size"),
        ({"name": "tiny_grey", "test_split": "hidden"}, "without a label"),
        ({"name": "tiny_grey", "test_split": "train[:0]"}, "is empty"),
        ({"name": "tiny_grey", "train_split": "all_of_it"}, "no split 'all_of_it'"),
        ({"name": "digits"}, "leave preprocessing at None"),
    ],
)
def test_load_refuses_what_cannot_be_streamed(tfds_dir, arguments, message):
    defaults = {"name": "tiny_numbers", "preprocessing": "pad_and_crop"}
    with pytest.raises(ValueError, match=message):
        data.load(data_dir=tfds_dir, **(defaults | arguments))


def test_files_of_other_formats_are_refused(tfds_dir, tmp_path):
    pytest.importorskip("array_record")
    import tensorflow_datasets as tfds

    builder = tfds.builder(
        "tiny_numbers", data_dir=tmp_path, file_format="array_record"
    )
    builder.download_and_prepare()
    with pytest.raises(ValueError, match=r"array_record .* --file_format=tfrecord"):
        data.load("tiny_numbers", tmp_path, preprocessing="pad_and_crop")


@pytest.mark.parametrize("part", ["train", "test"])
def test_passes_in_order_are_the_records_of_the_files(part, images):
    make = getattr(images, f"{part}_in_order")
    count = getattr(images, f"num_{part}")
    x, y = getattr(images, f"{part}_records")(0, count)
    batches = arrays(make(7))
    assert [len(batch[1]) for batch in batches[:-1]] == [7] * (count // 7)
    np.testing.assert_array_equal(np.concatenate([b[0] for b in batches]), x)
    np.testing.assert_array_equal(labels_of(batches), y)
    assert_equal_batches(arrays(make(4, 5)), [(x[:4], y[:4]), (x[4:5], y[4:5])])
