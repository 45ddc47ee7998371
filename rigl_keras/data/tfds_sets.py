"""Image classification sets of TensorFlow Datasets (TFDS), as they lie prepared."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from rigl_keras.data import record_files
from rigl_keras.data.record_files import Piece

_READ_BATCH = 256


@dataclass(frozen=True, eq=False)
class TfdsImages:
    """A prepared set of labelled images.

    Attributes:
      builder: TFDS's.
      name: the name it was found by.
      image_key: name of the image feature.
      label_key: name of the label feature.
      train_split: TFDS split to train on.
      test_split: TFDS split to test on.
    """

    builder: Any
    name: str
    image_key: str
    label_key: str
    train_split: str
    test_split: str

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.builder.info.features[self.label_key].num_classes

    @property
    def image_shape(self) -> tuple[int | None, int | None, int | None]:
        """(height, width, channels) of the images, None for sizes that vary."""
        return self.builder.info.features[self.image_key].shape

    @property
    def record_bytes(self) -> int:
        """The average size of a record of all splits, in bytes."""
        splits = self.builder.info.splits
        total = sum(split.num_bytes for split in splits.values())
        return max(1, total // splits.total_num_examples)

    def num_examples(self, split: str) -> int:
        """Number of examples of a split."""
        return self.builder.info.splits[split].num_examples

    def pieces(self, split: str) -> list[Piece]:
        """The records of a split, in the order of its files.

        Raises:
          ValueError: if its files are no TFRecord files.
        """
        file_format = self.builder.info.file_format.value
        if file_format != "tfrecord":
            raise ValueError(
                f"The data set {self.name!r} is prepared as {file_format} files, and "
                "only tfrecord files are streamed: prepare it again, with "
                "--file_format=tfrecord."
            )
        return [
            Piece(str(file.filename), file.skip, file.take)
            for file in self.builder.info.splits[split].file_instructions
        ]

    def parse(self, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Parses a serialised record, whose other features are not looked at.

        Args:
          record: string scalar.

        Returns:
          (string scalar, the encoded image; int32 scalar, its label).
        """
        import tensorflow_datasets as tfds

        keys = (self.image_key, self.label_key)
        wanted = {key: self.builder.info.features[key] for key in keys}
        example = tfds.features.FeaturesDict(wanted).deserialize_example(
            record, decoders={self.image_key: tfds.decode.SkipDecoding()}
        )
        return example[self.image_key], tf.cast(example[self.label_key], tf.int32)

    def read(
        self,
        split: str,
        shape: tuple[int, int, int],
        transform: Callable[[tf.Tensor], tf.Tensor],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Reads the images and labels of a split, in the order of its files.

        Args:
          split: which.
          shape: (height, width, channels) that the images will have.
          transform: function from a decoded image to one of that shape.

        Returns:
          (uint8 images [n, height, width, channels], int32 labels [n]).

        Raises:
          ValueError: if an example has no label.
        """

        def example(features):
            image = tf.ensure_shape(transform(features[self.image_key]), shape)
            return image, tf.cast(features[self.label_key], tf.int32)

        count, start = self.num_examples(split), 0
        images = np.empty((count, *shape), np.uint8)
        labels = np.empty(count, np.int32)
        examples = self._batches(split, example).prefetch(1)
        for image, label in examples.as_numpy_iterator():
            stop = start + len(label)
            images[start:stop], labels[start:stop] = image, label
            start = stop
        self.check_labels(split, labels)
        return images, labels

    def _batches(
        self, split: str, example: Callable[[Any], tuple[tf.Tensor, tf.Tensor]]
    ) -> tf.data.Dataset:
        """Batches of a split, one file after the other.

        So "records 1000 to 1999" always name the same.
        """
        options: dict = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}
        if self.builder.info.file_format.value == "tfrecord":
            # A batch at a time: tf.data's price of an element is that of a small image.
            features = self.builder.info.features
            records = record_files.in_order(self.pieces(split)).batch(_READ_BATCH)
            return records.map(
                lambda batch: tf.map_fn(
                    lambda record: example(features.deserialize_example(record)),
                    batch,
                    fn_output_signature=(tf.uint8, tf.int32),
                ),
                **options,
            )
        import tensorflow_datasets as tfds

        config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        records = self.builder.as_dataset(
            split=split, shuffle_files=False, read_config=config
        )
        return records.map(example, **options).batch(_READ_BATCH)

    def check_labels(self, split: str, labels: np.ndarray) -> None:
        """Raises ValueError if one of a split's labels is missing, which is -1."""
        if labels.min() < 0:
            raise ValueError(
                f"The split {split!r} of {self.name!r} has examples without a label: "
                "set data.train_split and data.test_split to others of "
                f"{list(self.builder.info.splits)}, or to parts of them."
            )


def find(
    name: str,
    data_dir: str | os.PathLike | None,
    download: bool,
    *,
    train_split: str,
    test_split: str | None,
) -> TfdsImages:
    """Finds a prepared set.

    Args:
      name: TFDS's name of it.
      data_dir: folder of prepared sets; None means TFDS's default.
      download: whether TFDS may prepare a set that is not there.
      train_split: TFDS split to train on.
      test_split: TFDS split to test on; None means "test" or else "validation".

    Raises:
      ValueError: if the set cannot be had, is not image classification with uint8
        images, or lacks a split.
    """
    builder = _prepared_builder(name, data_dir, download)
    info = builder.info
    image_key, label_key = _image_and_label(name, info)
    dtype = np.dtype(info.features[image_key].np_dtype)
    if dtype != np.uint8:
        raise ValueError(f"The images of {name!r} are {dtype}: only uint8 is read.")
    test_split = test_split or _default_test_split(name, info)
    for split in (train_split, test_split):
        _check_split(name, info, split)
    return TfdsImages(builder, name, image_key, label_key, train_split, test_split)


def _prepared_builder(name, data_dir, download):
    import tensorflow_datasets as tfds

    builder = None
    # TFDS lets through whatever its scripts and the network raise.
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        if download and not builder.is_prepared():
            builder.download_and_prepare()
        if not builder.is_prepared():
            raise FileNotFoundError(f"no prepared data in {builder.data_dir}")
    except Exception as error:
        folder = data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
        cause = str(error).partition("\n")[0]
        raise ValueError(
            f"The TFDS data set {name!r} cannot be had from {folder} with "
            f"download={download} ({type(error).__name__}: {cause}). "
            f"{_how_to_prepare(builder, folder)}"
        ) from error
    return builder


def _how_to_prepare(builder, folder):
    """Says what the user is to do about a set that is not there."""
    instructions = getattr(builder, "MANUAL_DOWNLOAD_INSTRUCTIONS", None)
    if not instructions:
        return (
            "Set data.name to a TFDS image classification set or to 'digits'; "
            "data.data_dir, or the environment variable TFDS_DATA_DIR, to the folder "
            "that holds it prepared; or data.download=True to let TFDS download it."
        )
    manual = Path(folder) / "downloads" / "manual"
    return (
        "Set data.data_dir, or the environment variable TFDS_DATA_DIR, to the folder "
        "that holds it prepared. To prepare it there, put its archives, which nobody "
        f"but you may download, into {manual} and run `tfds build {builder.name} "
        f"--data_dir={folder}`, or set data.download=True. What TFDS says of them: "
        + " ".join(instructions.split())
    )


def _image_and_label(name, info):
    """Returns the names of the image feature and of the label feature."""
    import tensorflow_datasets as tfds

    features = info.features
    images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
    labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    for keys in (info.supervised_keys or (), (*images, *labels)):
        if len(keys) == 2 and keys[0] in images and keys[1] in labels:
            return keys
    listed = ", ".join(f"{k}: {type(f).__name__}" for k, f in features.items())
    raise ValueError(
        f"The data set {name!r} is not image classification: one Image and one "
        f"ClassLabel are wanted, its features are {listed}. Set data.name to another."
    )


def _default_test_split(name, info):
    for split in ("test", "validation"):
        if split in info.splits:
            return split
    raise ValueError(
        f"The data set {name!r} has no split 'test' or 'validation', only "
        f"{list(info.splits)}: split one yourself, for example "
        "train_split='train[:90%]' and test_split='train[90%:]'."
    )


def _check_split(name, info, split):
    try:
        count = info.splits[split].num_examples
    except ValueError as error:
        raise ValueError(
            f"The data set {name!r} has no split {split!r}: use one of "
            f"{list(info.splits)} or a part of one, such as 'train[:90%]'."
        ) from error
    if not count:
        raise ValueError(f"The split {split!r} of {name!r} is empty: use a larger one.")
