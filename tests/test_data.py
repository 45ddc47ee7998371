import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from rigl_keras import data
from rigl_keras.data import loading

GREY_SHAPE = (4, 5, 1)


def numbered(n, shape=(2, 2, 1)):
    """Images of one colour each and labels that tell the examples apart."""
    labels = np.arange(n, dtype=np.int32)
    pixels = (labels * 37 % 256).astype(np.uint8)
    return np.broadcast_to(pixels[:, None, None, None], (n, *shape)).copy(), labels


def label_lists(dataset):
    return [labels.tolist() for _, labels in dataset.as_numpy_iterator()]


def grey_image(number):
    return np.random.default_rng(number).integers(0, 256, GREY_SHAPE, np.uint8)


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    """A folder of small TFDS sets: fixed and varying size, odd features and splits."""
    import tensorflow_datasets as tfds

    class Tiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(self.features),
                supervised_keys=self.supervised_keys,
            )

        def _split_generators(self, dl_manager):
            return {name: enumerate(split) for name, split in self.splits().items()}

        def _generate_examples(self):
            raise NotImplementedError("The splits are given whole.")

    def make(name, features, splits, supervised_keys=None):
        body = {"features": features, "supervised_keys": supervised_keys}
        return type(name, (Tiny,), body | {"splits": staticmethod(splits)})

    def grey(start, stop, hidden=False):
        return [
            {"image": grey_image(i), "label": -1 if hidden else i % 3, "number": i}
            for i in range(start, stop)
        ]

    def colour(count):
        return [
            {"photo": np.full((3 + i, 9 - i, 3), 20 * i, np.uint8), "kind": i % 2}
            for i in range(count)
        ]

    def offline():
        raise ConnectionError("no network")

    image, label = tfds.features.Image, tfds.features.ClassLabel(num_classes=3)
    builders = [
        make(
            "TinyGrey",
            {"image": image(shape=GREY_SHAPE), "label": label, "number": np.int64},
            lambda: {
                "train": grey(0, 100),
                "test": grey(100, 110),
                "hidden": grey(110, 113, hidden=True),
            },
            supervised_keys=("image", "label"),
        ),
        # Found by the types of its features; no split "test".
        make(
            "TinyColour",
            {
                "photo": image(shape=(None, None, 3)),
                "kind": tfds.features.ClassLabel(names=["even", "odd"]),
            },
            lambda: {"train": colour(7), "validation": colour(4)},
        ),
        make(
            "TinyDeep",
            {"image": image(shape=(2, 2, 1), dtype=np.uint16), "label": label},
            lambda: {"train": [{"image": np.zeros((2, 2, 1), np.uint16), "label": 1}]},
        ),
        make(
            "TinyText",
            {"text": tfds.features.Text(), "label": label},
            lambda: {"train": [{"text": "one", "label": 1}]},
        ),
    ]
    make("TinyOffline", {"label": label}, offline)  # Registered, never prepared.
    folder = tmp_path_factory.mktemp("tfds")
    # TFDS would interleave files by 16 records, were it not told to keep their order.
    config = tfds.download.DownloadConfig(num_shards=2)
    for builder in builders:
        shards = config if builder.name == "tiny_grey" else None
        builder(data_dir=folder).download_and_prepare(download_config=shards)
    return folder


def numbers_in_file_order(folder, split):
    """Reads the feature "number" of every record, one file after the other."""
    files = sorted((folder / "tiny_grey" / "1.0.0").glob(f"*-{split}.tfrecord*"))
    assert len(files) == 2
    numbers = []
    for record in tf.data.TFRecordDataset([str(file) for file in files]):
        example = tf.train.Example.FromString(record.numpy())
        numbers.append(example.features.feature["number"].int64_list.value[0])
    return np.array(numbers)


def test_tfds_set_is_read_in_the_order_of_its_files(tfds_dir):
    loaded = data.load("tiny_grey", data_dir=tfds_dir)
    for split, images, labels, members in (
        ("train", loaded.train_images, loaded.train_labels, range(100)),
        ("test", loaded.test_images, loaded.test_labels, range(100, 110)),
    ):
        numbers = numbers_in_file_order(tfds_dir, split)
        assert sorted(numbers) == list(members)
        np.testing.assert_array_equal(images, [grey_image(i) for i in numbers])
        np.testing.assert_array_equal(labels, numbers % 3)
        assert images.dtype == np.uint8 and labels.dtype == np.int32
    assert loaded.input_shape == GREY_SHAPE
    assert (loaded.num_classes, loaded.name) == (3, "tiny_grey")


def test_tfds_split_may_be_a_part(tfds_dir):
    loaded = data.load("tiny_grey", tfds_dir, test_split="train[90%:]")
    numbers = numbers_in_file_order(tfds_dir, "train")
    np.testing.assert_array_equal(
        loaded.test_images, [grey_image(i) for i in numbers[90:]]
    )


def test_tfds_images_of_varying_size_are_resized(tfds_dir):
    with pytest.raises(ValueError, match=r"set data\.image_size"):
        data.load("tiny_colour", tfds_dir, preprocessing="none")
    loaded = data.load("tiny_colour", tfds_dir, image_size=(6, 5), preprocessing="none")
    assert loaded.train_images.shape == (7, 6, 5, 3)
    assert loaded.num_classes == 2
    # Images of one colour keep it, and 20 * i tells which they are; no split "test".
    for images, labels, count in (
        (loaded.train_images, loaded.train_labels, 7),
        (loaded.test_images, loaded.test_labels, 4),
    ):
        colours = images[:, 0, 0, 0]
        assert (images == colours[:, None, None, None]).all()
        assert sorted(colours) == [20 * i for i in range(count)]
        np.testing.assert_array_equal(labels, colours // 20 % 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "tiny_deep"}, "uint16: only uint8"),
        ({"name": "tiny_text"}, "not image classification.*text: Text"),
        ({"name": "tiny_grey", "train_split": "all_of_it"}, "no split 'all_of_it'"),
        ({"name": "tiny_grey", "test_split": "train[:0]"}, "is empty"),
        ({"name": "tiny_grey", "test_split": "hidden"}, "without a label"),
        ({"name": "tiny_grey", "image_size": (28,)}, "image_size must be None or"),
        ({"name": "tiny_grey", "image_size": (28, 0)}, "image_size must be None or"),
    ],
)
def test_load_refuses(tfds_dir, arguments, message):
    with pytest.raises(ValueError, match=message):
        data.load(data_dir=tfds_dir, **arguments)


def test_load_says_how_to_make_a_test_split(tfds_dir, monkeypatch):
    import tensorflow_datasets as tfds

    builder = tfds.builder("tiny_grey", data_dir=tfds_dir)
    only_train = {"train": builder.info.splits["train"]}
    monkeypatch.setattr(type(builder.info), "splits", only_train)
    with pytest.raises(ValueError, match=r"train_split='train\[:90%\]'"):
        data.load("tiny_grey", tfds_dir)


@pytest.mark.parametrize(
    ("name", "download", "cause"),
    [
        ("no_such_set", False, "no_such_set not found"),
        ("mnist", False, "no prepared data"),
        ("tiny_offline", True, "no network"),
    ],
)
def test_a_set_that_cannot_be_had(tfds_dir, tmp_path, name, download, cause):
    with pytest.raises(ValueError, match=r"data\.data_dir.*data\.download") as raised:
        data.load(name, data_dir=tmp_path, download=download)
    assert str(tmp_path) in str(raised.value) and cause in str(raised.value)
    assert cause in str(raised.value.__cause__)


def test_sets_beyond_the_memory_limit_are_streamed(tfds_dir, monkeypatch):
    monkeypatch.setattr(loading, "MAX_BYTES", 110 * 4 * 5)
    held = data.load("tiny_grey", tfds_dir)
    assert isinstance(held, data.ImageData)
    monkeypatch.setattr(loading, "MAX_BYTES", 110 * 4 * 5 - 1)
    streamed = data.load("tiny_grey", tfds_dir)
    assert isinstance(streamed, data.StreamedImages)
    for ours, theirs in zip(
        streamed.train_records(20, 100), held.train_records(20, 100), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_digits_beyond_the_memory_limit_are_refused():
    pytest.importorskip("sklearn")
    with pytest.raises(ValueError, match=r"1797 digits .* smaller data\.image_size"):
        data.load("digits", image_size=(4000, 4000))


def test_tfds_is_not_imported_with_the_module():
    code = (
        "import sys, rigl_keras.data; assert 'tensorflow_datasets' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_digits_are_those_of_scikit_learn():
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    digits = sklearn_datasets.load_digits()
    loaded = data.load("digits", image_size=(8, 8))
    assert loaded.num_classes == 10
    assert len(loaded.test_labels) == 359  # 1,797 less four fifths
    images = np.concatenate([loaded.train_images, loaded.test_images])[..., 0]
    labels = np.concatenate([loaded.train_labels, loaded.test_labels])
    expected = np.rint(digits.images * 255 / 16)

    def records(images, labels):
        return sorted(map(tuple, np.column_stack([images.reshape(1797, 64), labels])))

    assert records(images, labels) == records(expected, digits.target)
    assert (labels != digits.target).any()  # The order of the files is not kept.
    np.testing.assert_array_equal(
        loaded.train_images, data.load("digits", image_size=(8, 8)).train_images
    )


def test_digits_are_28_by_28_by_default():
    pytest.importorskip("sklearn")
    loaded = data.load("digits")
    small = data.load("digits", image_size=(8, 8))
    assert loaded.input_shape == (28, 28, 1) and loaded.train_images.dtype == np.uint8
    # Bilinear: the centres of the new pixels in the old image, clamped at its border.
    centres = np.clip((np.arange(28) + 0.5) * 8 / 28 - 0.5, 0, 7)
    weights = np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(8)))
    old = small.train_images[0, ..., 0]
    expected = weights @ old @ weights.T
    # One for the rounding of each.
    assert np.abs(loaded.train_images[0, ..., 0] - expected).max() <= 1


def test_digits_have_one_split():
    with pytest.raises(ValueError, match="one fixed split"):
        data.load("digits", test_split="train[90%:]")


def test_digits_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        data.load("digits")


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
