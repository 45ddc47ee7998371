"""Which data set is read, and how."""

import os
from collections.abc import Sequence

import numpy as np

from rigl_keras.data import batching, preprocessing, tfds_sets
from rigl_keras.data.in_memory import ImageData
from rigl_keras.data.streamed import StreamedImages

# The most that the decoded images of a data set in memory may take, in bytes.
MAX_BYTES = 4 * 2**30


def load(
    name: str = "mnist",
    data_dir: str | os.PathLike | None = None,
    download: bool = False,
    image_size: Sequence[int] | None = None,
    train_split: str = "train",
    test_split: str | None = None,
    preprocessing: str | None = None,
) -> ImageData | StreamedImages:
    """Loads a data set: into memory, or to be read as training goes.

    Args:
      name: "digits" for scikit-learn's 1,797 handwritten digits, which need no
        download, or the name of any TFDS image classification set.
      data_dir: the folder of prepared TFDS sets; None means TFDS's default, the
        environment variable TFDS_DATA_DIR or ~/tensorflow_datasets.
      download: whether TFDS may download and prepare a set that is not there.
      image_size: (height, width) in pixels of the network's input; None keeps the
        images of a TFDS set as they are, makes the digits 28x28, and those of
        preprocessing="inception" 224x224.
      train_split: TFDS split to train on, such as "train" or "train[:90%]".
      test_split: TFDS split to test on; None means "test", or else "validation".
      preprocessing: "none" reads images as they are, or resized, in [0, 1];
        "pad_and_crop" and "inception" augment and normalise them, see
        `rigl_keras.data.preprocessing`. None means "pad_and_crop" for cifar10 and
        cifar100, "inception" for imagenet2012 and sets whose images vary in size, and
        "none" for others.

    Returns:
      `ImageData`, in the order of the set's files, for preprocessing="none" and images
      that take `MAX_BYTES` at most; else `StreamedImages`.

    Raises:
      ValueError: if an argument is out of range, the set cannot be had, is not image
        classification with uint8 images, or lacks a split, or the preprocessing cannot
        make its images ones of one size.
      ImportError: if name="digits" and scikit-learn is not installed.
    """
    if image_size is not None:
        image_size = tuple(image_size)
        if len(image_size) != 2 or not all(batching.is_int(s, 1) for s in image_size):
            raise ValueError(
                "image_size must be None or (height, width), two positive ints, "
                f"got {image_size}."
            )
    if name == "digits":
        _check_digits(train_split, test_split, preprocessing)
        return _load_digits(image_size or (28, 28))
    source = tfds_sets.find(
        name, data_dir, download, train_split=train_split, test_split=test_split
    )
    return _load_tfds(source, image_size, preprocessing)


def _load_tfds(source: tfds_sets.TfdsImages, image_size, chosen):
    # Without the version that the user's name may have.
    name, images = source.builder.name, source.image_shape
    chosen = chosen or preprocessing.default_name(name, images)
    reading = preprocessing.make(chosen, name, images, image_size=image_size)
    shape = reading.input_shape
    count = sum(map(source.num_examples, (source.train_split, source.test_split)))
    if chosen != "none" or _size(count, shape) > MAX_BYTES:
        return StreamedImages(source, reading)

    def transform(image):
        return image if image_size is None else preprocessing.resize(image, image_size)

    train = source.read(source.train_split, shape, transform)
    test = source.read(source.test_split, shape, transform)
    return ImageData(*train, *test, source.num_classes, source.name)


def _check_digits(train_split, test_split, chosen):
    if (train_split, test_split) != ("train", None):
        raise ValueError(
            "The data set 'digits' has one fixed split: leave train_split and "
            f"test_split at their defaults, got {train_split!r} and {test_split!r}."
        )
    if chosen not in (None, "none"):
        raise ValueError(
            "The data set 'digits' is read as it is: leave preprocessing at None, got "
            f"{chosen!r}."
        )


def _load_digits(image_size):
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "The data set 'digits' comes with scikit-learn, which is not installed. "
            "Install it by `pip install scikit-learn`, or this package with its extra "
            "`plots`."
        ) from error
    digits = load_digits()
    size = _size(len(digits.target), (*image_size, 1))
    if size > MAX_BYTES:
        raise ValueError(
            f"The {len(digits.target)} digits of {image_size} pixels would take "
            f"{size / 2**30:.1f} GiB of memory, more than {MAX_BYTES / 2**30:g} GiB: "
            "set a smaller data.image_size."
        )
    pixels = digits.images[..., np.newaxis].astype(np.float32) * (255 / 16)
    images = preprocessing.resize(pixels, image_size).numpy()
    labels = digits.target.astype(np.int32)
    # The one generator whose numbers NumPy promises never to change.
    order = np.random.RandomState(0).permutation(len(labels))
    train, test = np.split(order, [round(0.8 * len(order))])
    return ImageData(
        images[train], labels[train], images[test], labels[test], 10, "digits"
    )


def _size(count, shape):
    """The bytes that images take."""
    return count * int(np.prod(shape, dtype=np.int64))
