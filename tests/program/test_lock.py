"""One process a folder."""

import errno
import fcntl

import pytest

from rigl_keras.program.lock import FolderLock


def test_a_folder_is_held_until_it_is_given_back(tmp_path):
    first = FolderLock(tmp_path)
    with pytest.raises(BlockingIOError, match=r"number \d+\) is working in"):
        FolderLock(tmp_path)
    first.release()
    FolderLock(tmp_path).release()


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="cannot be locked .Operation not supported"):
        FolderLock(tmp_path).release()
