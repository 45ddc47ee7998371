"""Keeps a folder to one process at a time."""

import fcntl
import os
import warnings
from pathlib import Path

_LOCK_FILE = ".lock"


class FolderLock:
    """Holds a folder until the process ends, however it ends.

    The operating system gives the lock back, so that a killed process leaves nothing to
    clean up. Its number stays in the file `.lock`, for the error of another one.

    Args:
      folder: path of a folder that is there.

    Raises:
      BlockingIOError: when another process holds it.
    """

    def __init__(self, folder):
        # "a" leaves the number of the process that holds it.
        self._file = (Path(folder) / _LOCK_FILE).open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise BlockingIOError(
                f"Another process (number {holder}) is working in {folder}. Wait until "
                "it ends, or use another --logdir."
            ) from None
        except OSError as error:  # Some network file systems have no locks.
            warnings.warn(
                f"{folder} cannot be locked ({error.strerror}): see to it that no "
                "other process works in it.",
                stacklevel=2,
            )
            return
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self):
        """Gives the folder back."""
        self._file.close()
