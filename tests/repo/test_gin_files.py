"""The gin files that come along: what they describe, what they say of themselves."""

import re
import shlex
from pathlib import Path

import gin
import numpy as np
import pytest
import tiny
from pruned_runs import PARENT_SEEDS, save_run

import rigl_keras
from rigl_keras.program import gin_files, run

[GIN_FOLDER] = gin_files.gin_search_paths()
FILES = sorted(
    str(path.relative_to(GIN_FOLDER)) for path in Path(GIN_FOLDER).glob("*/*.gin")
)
LABELS = ["Source", "Command", "Time", "Expected"]
# Of the folders' files, but for those with another one in their names.
SPARSITY = {
    "mnist": 0.95,
    "mnist_mlp": 0.98,
    "mnist_patterns": 0.95,
    "mnist_mlp_patterns": 0.95,
    "digits": 0.95,
    "imagenet_resnet50": 0.8,
    "imagenet_vgg16": 0.8,
    "imagenet_mobilenet_v1": 0.75,
    "cifar10_wide_resnet": 0.9,
}
# Data that need no download, and networks that take no time: their kernels, and so
# their paths, are the same in number and rank.
SMALL = [
    "data.name = 'digits'",
    "data.test_split = None",
    "data.image_size = (32, 32)",
    "training.batch_size = 64",
    "training.val_batch_size = 32",
    "resnet50.width_multiplier = 0.1",
    "vgg16.width_multiplier = 0.1",
    "mobilenet_v1.width_multiplier = 0.1",
    "wide_resnet.depth = 10",
]

# By name: whether sparse at first, what prunes before training, what trains the masks.
EXPECTED = {
    "dense": (False, "NoneType", "NoneType"),
    "small_dense": (False, "NoneType", "NoneType"),
    "static": (True, "NoneType", "Static"),
    "set": (True, "NoneType", "SET"),
    "rigl": (True, "NoneType", "RigL"),
    "compressed": (True, "NoneType", "RigL"),
    "rigl_inverted": (True, "NoneType", "RigLInverted"),
    "snfs": (True, "NoneType", "SNFS"),
    "prune": (False, "NoneType", "Pruning"),
    "snip": (False, "SNIP", "Static"),
    "grasp": (False, "GraSP", "Static"),
    "lottery": (True, "NoneType", "Static"),
    "lottery_late_rewinding": (True, "NoneType", "Static"),
    "prune_restart": (True, "NoneType", "Static"),
    "scratch": (True, "NoneType", "Static"),
}
BASES = [file for file in FILES if Path(file).stem == "base"]
OVERLAYS = [file for file in FILES if Path(file).stem == "pruned_masks"]
INITS = [file for file in FILES if Path(file).stem.endswith("_init")]
ANALYSES = [file for file in FILES if Path(file).stem in ("interpolate", "hessian")]
SMALLER = [file for file in FILES if Path(file).stem == "lab"]
SECOND = OVERLAYS + INITS + SMALLER
RUNS = [file for file in FILES if file not in BASES + SECOND + ANALYSES]


def is_large(file):
    return not file.startswith(("mnist", "digits"))


def marked(files):
    """Of large networks, which take seconds to build, the default tier has RigL's."""
    return [
        pytest.param(
            file,
            marks=pytest.mark.release
            if is_large(file) and Path(file).stem != "rigl"
            else (),
        )
        for file in files
    ]


def header(file):
    """The comment that a file begins with, by label."""
    text = (Path(GIN_FOLDER) / file).read_text().split("\n\n")[0]
    text = re.sub(r"^# ?", "", text, flags=re.MULTILINE)
    parts = re.split(rf"^({'|'.join(LABELS)}): ", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def command(file):
    """The files and the seed of the command in a file's header."""
    words = shlex.split(header(file)["Command"].partition(" after ")[0])
    files = [w.partition("=")[2] for w in words if w.startswith("--gin_config=")]
    seeds = [int(w.partition("=")[2]) for w in words if w.startswith("--seed=")]
    return files, seeds[0] if seeds else 0


def described(files, seed):
    """The run that files describe, on data that need no download."""
    gin.add_config_file_search_path(GIN_FOLDER)
    large = is_large(files[0])
    if large and not tiny.IS_KERAS_3:
        pytest.skip("files describe the same in both Kerases; large networks take long")
    try:
        gin.parse_config_files_and_bindings(files, SMALL if large else SMALL[:1])
        return run.Run("runs/new", seed)
    finally:
        gin.clear_config()


def trained_by(made):
    """What results call the training; "NoneType" for a dense one."""
    return getattr(made._updater, "method", "NoneType")


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """A folder with the runs that headers name, and their masks by folder of files."""
    root, masks = tmp_path_factory.mktemp("work"), {}
    for overlay in OVERLAYS:
        if is_large(overlay) and not tiny.IS_KERAS_3:
            continue  # See `described`.
        folder = Path(overlay).parent
        logdir = re.search(r"\s--logdir=(runs/[\w/]+);", header(overlay)["Command"])[1]
        before = described([f"{folder}/static.gin"], PARENT_SEEDS.init_seed)
        (root / logdir).parent.mkdir(parents=True, exist_ok=True)
        # What `prune` saves: what others begin from.
        for step in (0, 5000, before._config.total_steps):
            save_run(root / logdir, before._model, step)
        masks[str(folder)] = rigl_keras.get_masks(before._model)
    return root, masks


@pytest.mark.parametrize("file", marked(RUNS))
def test_a_file_describes_what_its_name_says(file, pruned, monkeypatch):
    monkeypatch.chdir(pruned[0])
    files, seed = command(file)
    assert files == [file]
    made = described(files, seed)
    name, _, percent = re.fullmatch(
        r"(\w+?)(_erk)?(?:_(\d+))?", Path(file).stem
    ).groups()
    is_sparse, *names = EXPECTED[name]
    assert [type(made._one_shot).__name__, trained_by(made)] == names
    sparsity = rigl_keras.summary(made._model, print_fn=None).kernel_sparsity
    expected = int(percent) / 100 if percent else SPARSITY[str(Path(file).parent)]
    expected = expected if is_sparse else 0
    # Kernels that ERK leaves dense have no mask, and the others are sparser for it.
    assert sparsity == pytest.approx(expected, abs=2e-3 if "mnist" in file else 2e-2)
    assert not Path("runs/new").exists()


def test_the_small_static_run_has_the_first_masks_of_rigl():
    static, rigl = (described([f"digits/{name}.gin"], 0) for name in ("static", "rigl"))
    tiny.assert_same_masks(
        rigl_keras.get_masks(static._model), rigl_keras.get_masks(rigl._model)
    )
    assert static._config.total_steps == rigl._config.total_steps


@pytest.mark.parametrize("name", ["scratch", "lottery", "prune_restart"])
def test_what_begins_from_a_pruned_run_has_its_masks(name, pruned, monkeypatch):
    monkeypatch.chdir(pruned[0])
    made = described([f"mnist/{name}.gin"], seed=100)
    tiny.assert_same_masks(rigl_keras.get_masks(made._model), pruned[1]["mnist"])


@pytest.mark.parametrize("file", marked(OVERLAYS))
@pytest.mark.parametrize("name", ["set", "rigl"])
def test_a_second_file_changes_the_masks_only(file, name, pruned, monkeypatch):
    monkeypatch.chdir(pruned[0])
    [first, second], seed = command(file)
    assert second == file
    folder = str(Path(file).parent)
    assert first in RUNS and first.startswith(f"{folder}/")
    made = described([f"{folder}/{name}.gin", second], seed)
    assert trained_by(made) == EXPECTED[name][-1]
    tiny.assert_same_masks(rigl_keras.get_masks(made._model), pruned[1][folder])


@pytest.mark.parametrize("file", marked(INITS))
def test_a_second_file_changes_the_initial_weights_only(file):
    files, seed = command(file)
    assert files[1] == file
    before, after = described(files[:1], seed)._model, described(files, seed)._model
    tiny.assert_same_masks(rigl_keras.get_masks(before), rigl_keras.get_masks(after))
    for one, other in zip(
        rigl_keras.sparse_kernels(before),
        rigl_keras.sparse_kernels(after),
        strict=True,
    ):
        assert not np.array_equal(one.kernel.numpy(), other.kernel.numpy())


@pytest.mark.parametrize("file", SMALLER)
def test_a_second_file_makes_a_run_smaller(file):
    [first, second], seed = command(file)
    assert second == file
    made = described([first, second], seed)
    assert made._images.name == "digits"
    assert made._config.total_steps < described([first], seed)._config.total_steps


@pytest.mark.parametrize("file", FILES)
def test_a_header_says_all_there_is_to_say(file):
    found = header(file)
    assert list(found) == LABELS
    assert all(text.strip() for text in found.values())
    assert (file in BASES) == found["Command"].startswith("none")
    lines = (Path(GIN_FOLDER) / file).read_text().splitlines()
    assert max(map(len, lines)) <= 88
    for other in re.findall(r"\w+/\w+\.gin", found["Command"]):
        assert other in FILES
