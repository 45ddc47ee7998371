"""The order in which the records of TFRecord files are read.

Records stay serialised here: to put them in order, or to skip them, nothing is decoded.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from rigl_keras.common.seeding import ALGORITHM, stateless_seed

# Files read at a time, and records read of one before the next one's turn.
_FILES = 16
_BLOCK = 16


class Piece(NamedTuple):
    """Records skip ... skip + take - 1 of a file."""

    path: str
    skip: int
    take: int


def count(pieces: Sequence[Piece]) -> int:
    """Counts the records of all pieces."""
    return sum(piece.take for piece in pieces)


def cut(pieces: Sequence[Piece], start: int, stop: int) -> list[Piece]:
    """Takes records start ... stop - 1 of all, in the order of the pieces."""
    found = []
    for path, skip, take in pieces:
        first, last = max(start, 0), min(stop, take)
        if first < last:
            found.append(Piece(path, skip + first, last - first))
        start, stop = start - take, stop - take
    return found


def share(pieces: Sequence[Piece], worker: int, workers: int) -> list[Piece]:
    """Takes a worker's records: all workers' are disjoint, and differ by one at most.

    Args:
      pieces: what is to be shared.
      worker: int in 0 ... workers - 1.
      workers: int >= 1.
    """
    n = count(pieces)
    return cut(pieces, worker * n // workers, (worker + 1) * n // workers)


def in_order(pieces: Sequence[Piece]) -> tf.data.Dataset:
    """Reads all records, one piece after the other."""
    return _each(*_columns(pieces)).flat_map(_read)


def interleaved(pieces: Sequence[Piece]) -> tf.data.Dataset:
    """Reads all records, of several pieces in turns, always in the same order."""
    return _take_turns(_each(*_columns(pieces)))


def shuffled(
    pieces: Sequence[Piece],
    start: int,
    stop: int,
    *,
    window: int,
    seed: int,
    worker: int,
) -> tf.data.Dataset:
    """Reads records start ... stop - 1 of an endless stream of shuffled epochs.

    An epoch takes the files in random order, `_FILES` of them at a time: these are read
    in turns of `_BLOCK` records, and every `window` records read are shuffled.
    The stream is a function of the pieces, the window, the seed and the worker.

    Whole epochs, and whole groups of files, are skipped by arithmetic. Of the group in
    which the stream starts, the records before it are read, though never decoded.

    Args:
      pieces: what an epoch consists of, one record at least.
      start: int >= 0.
      stop: int >= start.
      window: int >= 1; that many records are held in memory a few times.
      seed: int, the seed of the data order.
      worker: int, whose stream it is.

    Returns:
      A `tf.data.Dataset` of string scalars.
    """
    paths, skips, takes = _columns(pieces)
    n, groups = count(pieces), -(-len(pieces) // _FILES)
    # No group has as many: a number of its own for every window.
    windows = 1 + n // window

    def file_order(epoch):
        key = stateless_seed("file order", seed, worker, step=epoch)
        return _stateless_order(len(pieces), key)

    def read_windows(number):
        order = file_order(number // groups)
        begin = number % groups * _FILES
        chosen = order[begin : begin + _FILES]
        files = _each(*(tf.gather(column, chosen) for column in (paths, skips, takes)))
        return _take_turns(files).batch(window).enumerate(number * windows)

    def shuffle_window(number, records):
        key = stateless_seed("record order", seed, worker, step=number)
        return tf.gather(records, _stateless_order(tf.size(records), key))

    epoch, position = divmod(start, n)
    sizes = np.add.reduceat(takes[file_order(epoch)], np.arange(0, len(takes), _FILES))
    ends = np.cumsum(sizes)
    group = int(np.searchsorted(ends, position, side="right"))
    skipped = position - int(ends[group] - sizes[group])
    numbers = tf.data.Dataset.range(epoch * groups + group, -(-stop // n) * groups)
    # One window is made while the one before is used, also between groups and epochs.
    ordered = numbers.flat_map(read_windows).map(shuffle_window).prefetch(1)
    return ordered.unbatch().skip(skipped).take(stop - start)


def _stateless_order(n, key):
    """A permutation of 0 ... n - 1."""
    return tf.random.experimental.stateless_shuffle(tf.range(n), key, alg=ALGORITHM)


def _columns(pieces):
    """Paths, skips and takes of the pieces, each an array."""
    paths, skips, takes = zip(*pieces, strict=True)
    return np.array(paths), np.array(skips, np.int64), np.array(takes, np.int64)


def _each(paths, skips, takes):
    return tf.data.Dataset.from_tensor_slices((paths, skips, takes))


def _read(path, skip, take):
    return tf.data.TFRecordDataset(path).skip(skip).take(take)


def _take_turns(pieces):
    return pieces.interleave(
        _read, _FILES, _BLOCK, num_parallel_calls=_FILES, deterministic=True
    )
