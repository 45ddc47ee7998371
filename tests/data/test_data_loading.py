import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tiny_tfds import GREY_SHAPE, grey_image

from rigl_keras import data
from rigl_keras.data import loading

pytestmark = pytest.mark.one_keras


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


@pytest.mark.release
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
    with pytest.raises(ImportError, match=r"pip install scikit-learn.*extra `plots`"):
        data.load("digits")
