import importlib
import shutil
import sys
from pathlib import Path

import gin
import pytest

from rigl_keras.program import gin_files, run

SOURCE = Path(gin_files.__file__)
assert run  # It registers what gin can bind.


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


@pytest.fixture
def clean():
    yield
    gin.clear_config()


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(
    ("files", "bindings", "message"),
    [
        (
            ["mnist/rgil.gin"],
            [],
            r"no gin file 'mnist/rgil.gin'.*mean 'mnist/rigl.gin'",
        ),
        ([], ["trainng.total_steps=3"], "Did you mean 'training'"),
        ([], ["training.total_step=3"], "Did you mean 'total_steps'"),
        ([], ["seeds.colour=3"], r"It has \['data_seed', 'init_seed', 'mask_seed'"),
        ([], ["data.name=mnist"], r"'data.name=mnist' .* needs quotes.*name='mnist'"),
        ([], ["data.name='mnist"], "NAME=VALUE with a Python value"),
        ([], ["training.total_steps=[1,"], "NAME=VALUE with a Python value"),
        ([], ["training.total_steps"], "NAME=VALUE with a Python value"),
    ],
)
def test_what_gin_cannot_read_is_explained(files, bindings, message):
    with pytest.raises((ValueError, OSError), match=message) as caught:
        gin_files.read(files, bindings)
    assert "object at 0x" not in str(caught.value)


@pytest.mark.usefixtures("clean")
def test_later_files_and_bindings_win():
    gin_files.read(
        ["mnist/base.gin", "digits/rigl.gin"],
        ["training.total_steps=3", "training.total_steps=4"],
    )
    assert gin.query_parameter("training.total_steps") == 4
    assert gin.query_parameter("data.name") == "digits"


@pytest.mark.usefixtures("clean")
def test_a_folder_that_gin_takes_for_a_package(monkeypatch, tmp_path):
    (tmp_path / "mnist").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="a folder of the same name"):
        gin_files.read(["mnist/rigl.gin"], [])
