"""Data sets that are read from their files as training goes."""

import os

import numpy as np
import tensorflow as tf

from rigl_keras.common.seeding import stateless_seed
from rigl_keras.data import batching, record_files
from rigl_keras.data.preprocessing import Preprocessing
from rigl_keras.data.tfds_sets import TfdsImages

# Serialised records that are shuffled at a time, in bytes.
_WINDOW_BYTES = 2**28
_BATCHES_AHEAD = 2


class StreamedImages:
    """A data set of labelled images, read from TFDS's TFRecord files.

    It has the methods of `ImageData`, and holds no more in memory than the next batches
    and a few windows of 256 MiB of encoded images.

    Attributes:
      name: the name it was loaded by.
      num_classes: number of classes.
      input_shape: (height, width, channels) of the network's input.
      num_train: number of training examples.
      num_test: number of test examples.
    """

    def __init__(self, source: TfdsImages, preprocessing: Preprocessing):
        """Looks the files up, and reads a record of each split.

        Args:
          source: the prepared set.
          preprocessing: how its images are read.

        Raises:
          ValueError: if the files cannot be streamed, or have no labels.
        """
        self.name = source.name
        self.num_classes = source.num_classes
        self.input_shape = preprocessing.input_shape
        self._source = source
        self._preprocessing = preprocessing
        self._train = source.pieces(source.train_split)
        self._test = source.pieces(source.test_split)
        self.num_train = record_files.count(self._train)
        self.num_test = record_files.count(self._test)
        self._check_labels()

    def train_batches(
        self,
        batch_size: int,
        start_step: int,
        total_steps: int,
        seed: int,
        worker: int = 0,
        workers: int = 1,
    ) -> tf.data.Dataset:
        """Makes a worker's share of the training batches of a range of steps.

        Each worker reads a part of its own of the records, in an endless stream of
        shuffled epochs (see `record_files.shuffled`), of which a batch takes the next:
        every batch has the same size, and batches cross the borders of epochs. What is
        drawn to augment an example is keyed by (seed, its place in the stream of
        global batches). So batch t is a function of (seed, t, worker, workers) alone.

        To start at a later step, the stream skips all but the last 16 files by
        arithmetic; up to that many are read without being decoded, for ImageNet 2.3 GB
        of 147.

        Args:
          batch_size: int in 1 ... num_train, of all workers together and a multiple of
            their number.
          start_step: int in 0 ... total_steps, the first step to make a batch for.
          total_steps: int >= 0, the step to stop before.
          seed: int, the seed of the data order and of augmentation.
          worker: int in 0 ... workers - 1.
          workers: int >= 1.

        Returns:
          A `tf.data.Dataset` of (float32 images [batch_size / workers, height, width,
          channels], int32 labels [batch_size / workers]), one element per step.

        Raises:
          ValueError: if an argument is outside the ranges above.
        """
        batching.check_batch_size(batch_size, self.num_train)
        batching.check_steps(start_step, total_steps)
        share = batching.share(batch_size, worker, workers)
        start, stop = start_step * share, total_steps * share
        records = record_files.shuffled(
            record_files.share(self._train, worker, workers),
            start,
            stop,
            # As many, for a set that all workers' windows hold.
            window=max(1, _WINDOW_BYTES // self._source.record_bytes),
            seed=seed,
            worker=worker,
        )

        def read(position, record):
            encoded, label = self._source.parse(record)
            place = position // share * batch_size + worker * share + position % share

            def seeds(draw):
                return stateless_seed("augmentation", seed, draw, step=place)

            return self._preprocessing.train(encoded, seeds), label

        steps = total_steps - start_step
        return _batches(records.enumerate(start), read, share, steps=steps)

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
          A `tf.data.Dataset` of (float32 images [batch_size / workers, height, width,
          channels], int32 labels [batch_size / workers], float32 weights [batch_size /
          workers]), as many for each worker: all are full, and the weights are 1 for an
          example and 0 for a filling.

        Raises:
          ValueError: if an argument is outside the ranges above.
        """
        batching.check_batch_size(batch_size, self.num_test)
        share = batching.share(batch_size, worker, workers)
        pieces = record_files.share(self._test, worker, workers)
        steps = -(-self.num_test // batch_size)
        n = record_files.count(pieces)
        filling = record_files.in_order(pieces[:1]).take(1).repeat(steps * share - n)
        records = record_files.interleaved(pieces).concatenate(filling)

        def read(position, record):
            encoded, label = self._source.parse(record)
            weight = tf.cast(position < n, tf.float32)
            return self._preprocessing.test(encoded), label, weight

        return _batches(records.enumerate(), read, share, steps=steps)

    def train_records(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Takes training records start ... stop - 1, in the order of the files.

        Args:
          start: int in 0 ... num_train - 1.
          stop: int > start; a set of fewer records gives those it has.

        Returns:
          (float32 images [b, height, width, channels], int32 labels [b]), with
          b = min(stop, num_train) - start, and nothing augmented.

        Raises:
          ValueError: if no record lies in that range, or an argument is out of range.
        """
        return self._records(self._train, start, stop)

    def test_records(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Takes test records start ... stop - 1, as `train_records` does."""
        return self._records(self._test, start, stop)

    def train_in_order(
        self, batch_size: int, count: int | None = None
    ) -> tf.data.Dataset:
        """One pass over the first training examples, in the order of the files.

        Args:
          batch_size: int >= 1; the last batch may be smaller.
          count: int >= 1, how many examples; None means all.

        Returns:
          A `tf.data.Dataset` of (float32 images [b, height, width, channels], int32
          labels [b]); nothing is augmented.

        Raises:
          ValueError: if an argument is outside the ranges above.
        """
        return self._in_order(self._train, batch_size, 0, stop=count or self.num_train)

    def test_in_order(
        self, batch_size: int, count: int | None = None
    ) -> tf.data.Dataset:
        """One pass over the first test examples, as `train_in_order` makes."""
        return self._in_order(self._test, batch_size, 0, stop=count or self.num_test)

    def _records(self, pieces, start, stop):
        batch = self._in_order(pieces, record_files.count(pieces), start, stop=stop)
        return next(batch.as_numpy_iterator())

    def _in_order(self, pieces, batch_size, start, *, stop):
        n = record_files.count(pieces)
        batching.check_records(start, stop, n)
        wanted = min(stop, n) - start

        def read(_, record):
            encoded, label = self._source.parse(record)
            return self._preprocessing.test(encoded), label

        records = record_files.in_order(record_files.cut(pieces, start, stop))
        batches = -(-wanted // batch_size)
        return _batches(
            records.enumerate(), read, batch_size, steps=batches, full=False
        )

    def _check_labels(self):
        """Refuses a split without labels, of which no example has one."""
        for split, pieces in (
            (self._source.train_split, self._train),
            (self._source.test_split, self._test),
        ):
            record = next(iter(record_files.in_order(pieces[:1]).take(1)))
            self._source.check_labels(split, self._source.parse(record)[1].numpy())


def _batches(records, read, batch_size, *, steps, full=True):
    """Maps numbered records to examples, in parallel and in order, in batches."""
    cores = os.cpu_count() or 1
    examples = records.map(read, num_parallel_calls=cores, deterministic=True)
    # Next to each other, TensorFlow makes one of the two: images are not copied.
    batches = examples.batch(batch_size, drop_remainder=full).prefetch(_BATCHES_AHEAD)
    options = tf.data.Options()
    # There is nothing to tune, see `in_memory`.
    options.autotune.enabled = False
    # Decoding keeps to threads of its own, one for each image.
    options.threading.private_threadpool_size = cores
    options.threading.max_intra_op_parallelism = 1
    batches = batches.with_options(options)
    return batches.apply(tf.data.experimental.assert_cardinality(steps))
