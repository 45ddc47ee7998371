import importlib
import shutil
import sys
from pathlib import Path

import pytest

from rigl_keras.program import gin_files

SOURCE = Path(gin_files.__file__)


def load_copy(monkeypatch, package):
    """Imports `config_path` alone from a package folder made for the test."""
    folder = package / "program"
    folder.mkdir(parents=True)
    shutil.copy(SOURCE, folder / "copied_config_path.py")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "copied_config_path", raising=False)
    return importlib.import_module("copied_config_path")


def write_config(folder):
    (folder / "mnist").mkdir(parents=True)
    (folder / "mnist" / "rigl.gin").write_text("train.seed = 0\n")


def test_checkout_uses_the_gin_folder_beside_the_package(monkeypatch, tmp_path):
    module = load_copy(monkeypatch, tmp_path / "rigl_keras")
    write_config(tmp_path / "gin")
    assert module.gin_search_paths() == [str(tmp_path / "gin")]


def test_installed_package_uses_its_own_configs(monkeypatch, tmp_path):
    module = load_copy(monkeypatch, tmp_path / "rigl_keras")
    write_config(tmp_path / "rigl_keras" / "configs")
    # The gin library, which lies beside an installed package.
    (tmp_path / "gin").mkdir()
    (tmp_path / "gin" / "__init__.py").write_text("")
    assert module.gin_search_paths() == [str(tmp_path / "rigl_keras" / "configs")]


def test_the_gin_library_is_not_taken_for_the_configs(monkeypatch, tmp_path):
    module = load_copy(monkeypatch, tmp_path / "rigl_keras")
    (tmp_path / "gin").mkdir()
    (tmp_path / "gin" / "__init__.py").write_text("")
    with pytest.raises(FileNotFoundError, match="reinstall rigl_keras"):
        module.gin_search_paths()


def test_the_package_under_test_finds_the_experiments():
    (folder,) = gin_files.gin_search_paths()
    assert (Path(folder) / "mnist" / "rigl.gin").is_file()
