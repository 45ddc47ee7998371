"""Small image classification data sets, held in memory and read at random access.

Training batches are a function of the step alone, so that a resumed run sees the
batches it would have seen.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import tensorflow as tf

from rigl_keras.seeding import ALGORITHM, stateless_seed

# The most that the decoded images of a data set may take, in bytes.
MAX_BYTES = 4 * 2**30
# Multiplied, not divided: the same rounding in NumPy and in every graph optimiser.
_PIXEL_SCALE = np.float32(1 / 255)
_READ_BATCH = 256
_MAX_CACHE_BYTES = 2**29


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set of labelled images.

    Attributes:
      train_images: uint8 array [n, height, width, channels].
      train_labels: int32 array [n], values 0 ... num_classes - 1.
      test_images: uint8 array [m, height, width, channels].
      test_labels: int32 array [m].
      num_classes: number of classes.
      name: the name it was loaded by.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int
    name: str

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(height, width, channels) of one image."""
        return self.train_images.shape[1:]

    @property
    def num_train(self) -> int:
        """Number of training examples."""
        return len(self.train_images)

    @property
    def num_test(self) -> int:
        """Number of test examples."""
        return len(self.test_images)

    def train_batches(
        self,
        batch_size: int,
        start_step: int,
        total_steps: int,
        seed: int,
        worker: int = 0,
        workers: int = 1,
    ) -> tf.data.Dataset:
        """Makes a worker's share of the training batches, as `batches` does the whole.

        Args:
          batch_size: see `batches`; all workers together, a multiple of their number.
          start_step: see `batches`.
          total_steps: see `batches`.
          seed: see `batches`.
          worker: int in 0 ... workers - 1.
          workers: int >= 1.

        Returns:
          A `tf.data.Dataset` as of `batches`, of batch_size / workers examples each.

        Raises:
          ValueError: if an argument is outside the ranges above.
        """
        rows = _training_rows(
            self.train_images,
            self.train_labels,
            batch_size,
            start_step,
            total_steps,
            seed,
        )
        share = _share(batch_size, worker, workers)
        if workers > 1:
            rows = rows.map(lambda batch: batch[worker * share : (worker + 1) * share])
        return _gather(self.train_images, self.train_labels, rows)

    def test_batches(
        self, batch_size: int, worker: int = 0, workers: int = 1
    ) -> tf.data.Dataset:
        """Makes one pass over a worker's share of the test examples.

        Args:
          batch_size: int in 1 ... num_test, of all workers together and a multiple of
            their number.
          worker: int in 0 ... workers - 1.
          workers: int >= 1.

        Returns:
          A `tf.data.Dataset` as of `evaluation_batches`. For several workers all
          batches are full, and so of equal number everywhere: a third component, 1 for
          an example and 0 for a filling, weights them.

        Raises:
          ValueError: if an argument is outside the ranges above.
        """
        if workers == 1:
            return evaluation_batches(self.test_images, self.test_labels, batch_size)
        n = _check_examples(self.test_images, self.test_labels, batch_size)
        share = _share(batch_size, worker, workers)
        starts = np.arange(worker * share, n + worker * share, batch_size)
        wanted = starts[:, np.newaxis] + np.arange(share)
        rows = tf.data.Dataset.from_tensor_slices(np.minimum(wanted, n - 1))
        weights = tf.data.Dataset.from_tensor_slices((wanted < n).astype(np.float32))
        examples = _gather(self.test_images, self.test_labels, rows)
        return tf.data.Dataset.zip((examples, weights)).map(
            lambda example, weight: (*example, weight)
        )

    def train_records(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Takes training records start ... stop - 1, as `fixed_batch` does."""
        return fixed_batch(self.train_images, self.train_labels, start, stop)


def load(
    name: str = "mnist",
    data_dir: str | os.PathLike | None = None,
    download: bool = False,
    image_size: Sequence[int] | None = None,
    train_split: str = "train",
    test_split: str | None = None,
) -> ImageData:
    """Loads a data set into memory, in the order of its files.

    Args:
      name: "digits" for scikit-learn's 1,797 handwritten digits, which need no
        download, or the name of any TFDS image classification set.
      data_dir: the folder of prepared TFDS sets; None means TFDS's default, the
        environment variable TFDS_DATA_DIR or ~/tensorflow_datasets.
      download: whether TFDS may download and prepare a set that is not there.
      image_size: (height, width) in pixels to resize to, bilinear; None keeps the
        images of a TFDS set as they are and makes the digits 28x28.
      train_split: TFDS split to train on, such as "train" or "train[:90%]".
      test_split: TFDS split to test on; None means "test", or else "validation".

    Returns:
      The `ImageData`.

    Raises:
      ValueError: if an argument is out of range, the set cannot be had, is not image
        classification with uint8 images of one size, lacks a split, or its images
        would take more than `MAX_BYTES`.
      ImportError: if name="digits" and scikit-learn is not installed.
    """
    if image_size is not None:
        image_size = tuple(image_size)
        if len(image_size) != 2 or not all(_is_int(side, 1) for side in image_size):
            raise ValueError(
                "image_size must be None or (height, width), two positive ints, "
                f"got {image_size}."
            )
    if name != "digits":
        return _load_tfds(name, data_dir, download, image_size, train_split, test_split)
    if (train_split, test_split) != ("train", None):
        raise ValueError(
            "The data set 'digits' has one fixed split: leave train_split and "
            f"test_split at their defaults, got {train_split!r} and {test_split!r}."
        )
    return _load_digits(image_size or (28, 28))


def batches(
    images: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    start_step: int,
    total_steps: int,
    seed: int,
) -> tf.data.Dataset:
    """Makes the training batches of steps start_step ... total_steps - 1.

    Batch t holds samples t * batch_size ... (t + 1) * batch_size - 1 of an endless
    stream of epochs, each a permutation of all examples keyed by (seed, epoch). So
    every batch has the same size, batches cross the borders of epochs, and none
    depends on the step that the data set starts from.

    Args:
      images: uint8 array [n, height, width, channels].
      labels: integer array [n].
      batch_size: int in 1 ... n.
      start_step: int in 0 ... total_steps, the first step to make a batch for.
      total_steps: int >= 0, the step to stop before.
      seed: int, the seed of the data order.

    Returns:
      A `tf.data.Dataset` of (float32 images [batch_size, height, width, channels] in
      [0, 1], int32 labels [batch_size]), one element per step.

    Raises:
      ValueError: if an argument is outside the ranges above.
    """
    rows = _training_rows(images, labels, batch_size, start_step, total_steps, seed)
    return _gather(images, labels, rows)


def _training_rows(images, labels, batch_size, start_step, total_steps, seed):
    """Makes a data set of the row numbers of each step's batch."""
    n = _check_examples(images, labels, batch_size)
    if not _is_int(start_step, 0) or not _is_int(total_steps, start_step):
        raise ValueError(
            "Steps must be ints with 0 <= start_step <= total_steps, got "
            f"start_step={start_step!r}, total_steps={total_steps!r}."
        )
    first_epoch, skipped = divmod(start_step * batch_size, n)
    end_epoch = -(-total_steps * batch_size // n)

    # Not `index_shuffle`, which would need no array: its permutations of two epochs can
    # be much alike (correlation up to 0.9 on 60,000 examples, TensorFlow 2.21), and it
    # takes three times as long.
    def epoch_order(epoch):
        order = tf.random.experimental.stateless_shuffle(
            tf.range(n), stateless_seed("data order", seed, step=epoch), alg=ALGORITHM
        )
        begin = tf.where(epoch == first_epoch, skipped, 0)
        # A slice would share its buffer, of which `rebatch` logs an error.
        return tf.gather(order, tf.range(begin, n))

    steps = total_steps - start_step
    orders = tf.data.Dataset.range(first_epoch, end_epoch).map(epoch_order)
    rows = orders.rebatch(batch_size, drop_remainder=True).take(steps)
    # Their number is known here but lost by `rebatch`.
    return rows.apply(tf.data.experimental.assert_cardinality(steps))


def evaluation_batches(
    images: np.ndarray, labels: np.ndarray, batch_size: int
) -> tf.data.Dataset:
    """Makes one pass over all examples, in order.

    Args:
      images: uint8 array [n, height, width, channels].
      labels: integer array [n].
      batch_size: int in 1 ... n; the last batch is smaller if it does not divide n.

    Returns:
      A `tf.data.Dataset` of (float32 images [b, height, width, channels] in [0, 1],
      int32 labels [b]).

    Raises:
      ValueError: if an argument is outside the ranges above.
    """
    n = _check_examples(images, labels, batch_size)
    examples = _gather(images, labels, tf.data.Dataset.range(n).batch(batch_size))
    # The same pass is made again and again: kept as floats, LeNet5's test on MNIST
    # takes a seventh less time. A large set would take too much memory so.
    floats = images.size * np.dtype(np.float32).itemsize
    return examples.cache() if floats <= _MAX_CACHE_BYTES else examples


def fixed_batch(
    images: np.ndarray, labels: np.ndarray, start: int, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    """Takes records start ... stop - 1 as one batch, the same at every call.

    Args:
      images: uint8 array [n, height, width, channels].
      labels: integer array [n].
      start: int in 0 ... n - 1.
      stop: int > start; a set of fewer records gives those it has.

    Returns:
      (float32 images [b, height, width, channels] in [0, 1], int32 labels [b]), with
      b = min(stop, n) - start.

    Raises:
      ValueError: if no record lies in that range, or an argument is out of range.
    """
    n = _check_examples(images, labels)
    if not _is_int(start, 0) or not _is_int(stop, 1) or min(stop, n) <= start:
        raise ValueError(
            f"Records {start!r} ... {stop!r} - 1 of a set of {n} records: pass ints "
            f"with 0 <= start < min(stop, {n})."
        )
    pixels = np.asarray(images[start:stop]).astype(np.float32)
    return pixels * _PIXEL_SCALE, np.asarray(labels[start:stop]).astype(np.int32)


def _gather(images, labels, rows):
    """Maps a data set of row numbers to one of scaled images and their labels."""
    # Eager tensors are captured by the map as inputs: the images are held once, on the
    # host, and are no part of the graph, whose size is limited to 2 GB.
    with tf.device("CPU:0"):
        all_images = tf.convert_to_tensor(images)
        all_labels = tf.convert_to_tensor(np.asarray(labels, np.int32))

    def read(batch):
        # Gathering bytes and casting the batch moves a quarter of the memory.
        pixels = tf.cast(tf.gather(all_images, batch), tf.float32) * _PIXEL_SCALE
        return pixels, tf.gather(all_labels, batch)

    examples = rows.map(read, num_parallel_calls=2, deterministic=True).prefetch(4)
    # There is nothing to tune, and the thread that tunes holds up the iterator's end,
    # by as long as the iterator has lived in the worst case (TensorFlow 2.21).
    options = tf.data.Options()
    options.autotune.enabled = False
    return examples.with_options(options)


def _share(batch_size, worker, workers):
    """How many examples of a batch each of several workers has."""
    if not _is_int(workers, 1) or not _is_int(worker, 0) or worker >= workers:
        raise ValueError(
            f"Expected a worker in 0 ... workers - 1, got {worker!r} of {workers!r}."
        )
    if batch_size % workers:
        raise ValueError(
            f"A batch of {batch_size} examples cannot be shared by {workers} workers: "
            "use a multiple of their number."
        )
    return batch_size // workers


def _is_int(value, least):
    return isinstance(value, Integral) and value >= least


def _check_examples(images, labels, batch_size=1):
    """Returns the number of examples; raises ValueError if they are malformed."""
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(
            "images must be a uint8 array [n, height, width, channels], got "
            f"{images.dtype} of shape {tuple(images.shape)}."
        )
    n, found = len(images), np.shape(labels)
    if found != (n,):
        raise ValueError(f"labels must have shape [{n}] as the images, got {found}.")
    if not _is_int(batch_size, 1) or batch_size > n:
        raise ValueError(f"batch_size must be an int in 1 ... {n}, got {batch_size!r}.")
    return n


def _resize(images, image_size):
    """Resizes images [..., height, width, channels] of 0..255 to uint8."""
    # Antialiasing changes nothing when images grow.
    resized = tf.image.resize(images, image_size, antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def _load_digits(image_size):
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "The data set 'digits' comes with scikit-learn, which is not installed: "
            "pip install scikit-learn."
        ) from error
    digits = load_digits()
    _check_size("digits", len(digits.target), (*image_size, 1))
    pixels = digits.images[..., np.newaxis].astype(np.float32) * (255 / 16)
    images = _resize(pixels, image_size).numpy()
    labels = digits.target.astype(np.int32)
    # The one generator whose numbers NumPy promises never to change.
    order = np.random.RandomState(0).permutation(len(labels))
    train, test = np.split(order, [round(0.8 * len(order))])
    return ImageData(
        images[train], labels[train], images[test], labels[test], 10, "digits"
    )


def _load_tfds(name, data_dir, download, image_size, train_split, test_split):
    builder = _prepared_builder(name, data_dir, download)
    image_key, label_key = _image_and_label(name, builder.info)
    label = builder.info.features[label_key]
    shape = _image_shape(name, builder.info.features[image_key], image_size)
    test_split = test_split or _default_test_split(name, builder.info)
    counts = [_num_examples(name, builder.info, s) for s in (train_split, test_split)]
    _check_size(name, sum(counts), shape)

    def example(features):
        image = features[image_key]
        if image_size is not None:
            image = _resize(image, image_size)
        return tf.ensure_shape(image, shape), features[label_key]

    train = _read_split(builder, train_split, example, counts[0], shape)
    test = _read_split(builder, test_split, example, counts[1], shape)
    return ImageData(*train, *test, label.num_classes, name)


def _prepared_builder(name, data_dir, download):
    import tensorflow_datasets as tfds

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
            f"download={download} ({type(error).__name__}: {cause}). Set data.name to "
            "a TFDS image classification set or to 'digits'; data.data_dir, or the "
            "environment variable TFDS_DATA_DIR, to the folder that holds it prepared; "
            "or data.download=True to let TFDS download it."
        ) from error
    return builder


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


def _image_shape(name, feature, image_size):
    """Returns the (height, width, channels) that the images will have."""
    dtype = np.dtype(feature.np_dtype)
    if dtype != np.uint8:
        raise ValueError(f"The images of {name!r} are {dtype}: only uint8 is read.")
    shape = (*(image_size or feature.shape[:2]), feature.shape[2])
    if None in shape:
        raise ValueError(
            f"The images of {name!r} have no one shape {shape}: set data.image_size "
            "to (height, width) to resize them; the number of channels must be fixed."
        )
    return shape


def _default_test_split(name, info):
    for split in ("test", "validation"):
        if split in info.splits:
            return split
    raise ValueError(
        f"The data set {name!r} has no split 'test' or 'validation', only "
        f"{list(info.splits)}: split one yourself, for example "
        "train_split='train[:90%]' and test_split='train[90%:]'."
    )


def _num_examples(name, info, split):
    try:
        count = info.splits[split].num_examples
    except ValueError as error:
        raise ValueError(
            f"The data set {name!r} has no split {split!r}: use one of "
            f"{list(info.splits)} or a part of one, such as 'train[:90%]'."
        ) from error
    if not count:
        raise ValueError(f"The split {split!r} of {name!r} is empty: use a larger one.")
    return count


def _check_size(name, count, shape):
    size = count * int(np.prod(shape, dtype=np.int64))
    if size > MAX_BYTES:
        raise ValueError(
            f"The {count} images of {name!r} with shape {shape} would take "
            f"{size / 2**30:.1f} GiB of memory, more than {MAX_BYTES / 2**30:g} GiB: "
            "set a smaller data.image_size or smaller splits."
        )


def _read_split(builder, split, example, count, shape) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images and labels of a split, in the order of its files."""
    import tensorflow_datasets as tfds

    # One file after the other: "records 1000 to 1999" must name the same ones always.
    config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    records = builder.as_dataset(split=split, shuffle_files=False, read_config=config)
    examples = records.map(
        example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    images = np.empty((count, *shape), np.uint8)
    labels = np.empty(count, np.int32)
    start = 0
    for image, label in examples.batch(_READ_BATCH).prefetch(1).as_numpy_iterator():
        stop = start + len(label)
        images[start:stop], labels[start:stop] = image, label
        start = stop
    if labels.min() < 0:
        raise ValueError(
            f"The split {split!r} of {builder.name!r} has examples without a label: "
            "pass another, such as a part of its training split."
        )
    return images, labels
