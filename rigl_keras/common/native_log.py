"""Keeps TensorFlow's native log out of what the commands print."""

import contextlib
import glob
import itertools
import os
import re
import sys
import tempfile
from collections.abc import Iterator

_VARIABLE = "TF_CPP_MIN_LOG_LEVEL"
# TensorFlow 2.21 logs these while it is imported, whatever the variable says.
_NOISE = re.compile(rb"WARNING: All log messages before absl|[IW]\d{4} |To enable the ")
_NO_GPU = re.compile(rb"E\d{4} .*cuInit")


def quieten_commands() -> None:
    """Has a command of this package, `python -m rigl_keras.*`, log errors only.

    Other programs that import this package, and users who have set
    TF_CPP_MIN_LOG_LEVEL, see what TensorFlow logs.
    """
    pairs = itertools.pairwise(sys.orig_argv)
    is_command = any(a == "-m" and b.startswith("rigl_keras.") for a, b in pairs)
    if not is_command or _VARIABLE in os.environ:
        return
    os.environ[_VARIABLE] = "2"
    try:
        with _without_noise():
            import tensorflow as tf

            tf.config.list_physical_devices("GPU")
    finally:
        del os.environ[_VARIABLE]  # TensorFlow has read it.


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    """Holds back what is written to stderr meanwhile, and writes the rest of it."""
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            for line in held:
                if not _is_noise(line):
                    os.write(2, line)


def _is_noise(line: bytes) -> bool:
    # Where there is no GPU, that none can be used is no error.
    has_gpu = bool(glob.glob("/dev/nvidia[0-9]*"))
    return bool(_NOISE.match(line) or (not has_gpu and _NO_GPU.match(line)))
