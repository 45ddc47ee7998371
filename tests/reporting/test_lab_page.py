"""What the laboratory says of itself, against its gin files and data."""

import re

import gin
import lab
import pytest

from rigl_keras import data
from rigl_keras.program import gin_files

NOTES = " ".join(lab.NOTES)

pytestmark = pytest.mark.one_keras


def setting(cell, name):
    """What the files of a cell bind a gin parameter to."""
    [folder] = gin_files.gin_search_paths()
    gin.add_config_file_search_path(folder)
    try:
        gin.parse_config_files_and_bindings(cell.configs, [], skip_unknown=True)
        return gin.query_parameter(name)
    finally:
        gin.clear_config()


def test_it_says_how_many_seeds_and_images_there_are():
    assert f"{data.load('digits').num_test} images" in NOTES
    assert {cell.name for cell in lab.CELLS if len(cell.seeds) == 3} == {*lab.SIMILAR}
    assert f"{' and '.join(lab.SIMILAR)} have three seeds, the others one" in NOTES
    assert all(len(cell.seeds) in (1, 3) for cell in lab.CELLS)


def test_it_says_whose_masks_are_the_pruned_networks():
    [names] = re.findall("differ: (.*?) start on the masks of the pruned", NOTES)
    children = {cell.name for cell in lab.CELLS if cell.parent == "Pruned"}
    assert set(re.split(", | and ", names)) == children


def test_it_says_whose_weight_decay_and_learning_rate_are_others():
    for name in ("network.weight_decay", "optimizer.learning_rate"):
        found = {cell.name: setting(cell, name) for cell in lab.CELLS}
        snip = found.pop("SNIP")
        [others] = set(found.values())
        assert (
            f"{snip} for SNIP and {others}" in NOTES or f"{snip} and {others}" in NOTES
        )


def test_an_experiment_has_one_name_on_its_page(tmp_path):
    for arguments in lab.analyses(tmp_path):
        for index, word in enumerate(arguments):
            if word == "--group":
                label, folder = arguments[index + 1 : index + 3]
                assert folder == str(tmp_path / label)
