"""Small image classification data sets, held in memory and read at random access.

Training batches are a function of the step alone, so that a resumed run sees the
batches it would have seen.
"""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from rigl_keras.common.seeding import ALGORITHM, stateless_seed
from rigl_keras.data import batching
from rigl_keras.data.preprocessing import PIXEL_SCALE

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
            start_step=start_step,
            total_steps=total_steps,
            seed=seed,
        )
        share = batching.share(batch_size, worker, workers)
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
          A `tf.data.Dataset` as of `evaluation_batches`, but that all batches are full,
          so that devices get equal parts and workers equal numbers of them. Where they
          do not come out even, there is a third component of float32 weights [b]: 1
          for an example and 0 for a filling.

        Raises:
          ValueError: if an argument is outside the ranges above.
        """
        n = _check_examples(self.test_images, self.test_labels, batch_size)
        share = batching.share(batch_size, worker, workers)
        if workers == 1 and n % batch_size == 0:
            return evaluation_batches(self.test_images, self.test_labels, batch_size)
        starts = np.arange(worker * share, n + worker * share, batch_size)
        wanted = starts[:, np.newaxis] + np.arange(share)
        rows = tf.data.Dataset.from_tensor_slices(np.minimum(wanted, n - 1))
        weights = tf.data.Dataset.from_tensor_slices((wanted < n).astype(np.float32))
        examples = _gather(self.test_images, self.test_labels, rows)
        weighted = tf.data.Dataset.zip((examples, weights)).map(
            lambda example, weight: (*example, weight)
        )
        return _cached(weighted, self.test_images)

    def train_records(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Takes training records start ... stop - 1, as `fixed_batch` does."""
        return fixed_batch(self.train_images, self.train_labels, start, stop)

    def train_in_order(
        self, batch_size: int, count: int | None = None
    ) -> tf.data.Dataset:
        """One pass over the first training examples, as `evaluation_batches` makes.

        Args:
          batch_size: int >= 1; a set of fewer examples is one batch.
          count: int >= 1, how many examples; None means all.
        """
        return _in_order(self.train_images, self.train_labels, batch_size, count=count)

    def test_in_order(
        self, batch_size: int, count: int | None = None
    ) -> tf.data.Dataset:
        """One pass over the first test examples, as `train_in_order` makes."""
        return _in_order(self.test_images, self.test_labels, batch_size, count=count)

    def test_records(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Takes test records start ... stop - 1, as `fixed_batch` does."""
        return fixed_batch(self.test_images, self.test_labels, start, stop)


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
    rows = _training_rows(
        images,
        labels,
        batch_size,
        start_step=start_step,
        total_steps=total_steps,
        seed=seed,
    )
    return _gather(images, labels, rows)


def _training_rows(images, labels, batch_size, *, start_step, total_steps, seed):
    """Makes a data set of the row numbers of each step's batch."""
    n = _check_examples(images, labels, batch_size)
    batching.check_steps(start_step, total_steps)
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
    return _cached(examples, images)


def _cached(examples, images):
    """Keeps a pass over images that is made again and again, unless it is large."""
    # As floats: LeNet5's test on MNIST takes a seventh less time.
    floats = images.size * np.dtype(np.float32).itemsize
    return examples.cache() if floats <= _MAX_CACHE_BYTES else examples


def _in_order(images, labels, batch_size, *, count):
    images, labels = images[:count], labels[:count]
    return evaluation_batches(images, labels, min(batch_size, len(labels)))


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
    batching.check_records(start, stop, n)
    pixels = np.asarray(images[start:stop]).astype(np.float32)
    return pixels * PIXEL_SCALE, np.asarray(labels[start:stop]).astype(np.int32)


def _gather(images, labels, rows):
    """Maps a data set of row numbers to one of scaled images and their labels."""
    # Eager tensors are captured by the map as inputs: the images are held once, on the
    # host, and are no part of the graph, whose size is limited to 2 GB.
    with tf.device("CPU:0"):
        all_images = tf.convert_to_tensor(images)
        all_labels = tf.convert_to_tensor(np.asarray(labels, np.int32))

    def read(batch):
        # Gathering bytes and casting the batch moves a quarter of the memory.
        pixels = tf.cast(tf.gather(all_images, batch), tf.float32) * PIXEL_SCALE
        return pixels, tf.gather(all_labels, batch)

    examples = rows.map(read, num_parallel_calls=2, deterministic=True).prefetch(4)
    # There is nothing to tune, and the thread that tunes holds up the iterator's end,
    # by as long as the iterator has lived in the worst case (TensorFlow 2.21).
    options = tf.data.Options()
    options.autotune.enabled = False
    return examples.with_options(options)


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
    batching.check_batch_size(batch_size, n)
    return n
