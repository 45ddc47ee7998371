"""Imports point one way, and the library works without what only programs need."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "rigl_keras"

# A module imports only from the package's modules of earlier layers. A module of a
# subpackage is written "analysis.hessian", the subpackage itself "analysis".
LAYERS = [
    {
        "checks",
        "compat",
        "config_path",
        "distributions",
        "networks.stack",
        "observers",
        "schedules",
        "seeding",
        "tfmot_wrappers",
        "version",
    },
    {
        "data.batching",
        "data.preprocessing",
        "data.record_files",
        "kernels",
        "learning_rates",
        "networks.mobilenet",
        "networks.resnet",
        "networks.small",
        "networks.vgg",
        "networks.wide_resnet",
        "selection",
    },
    {"data.in_memory", "data.tfds_sets", "networks"},
    {"data.streamed"},
    {"data.loading"},
    {"data"},
    {"init_utils", "mask_updaters"},
    {"masks"},
    {"kernel_uses"},
    {"cost", "layers"},
    {"sparse_model"},
    {"model_copies"},
    {"batch_gradients", "conversion", "gradient_hook", "optimizer_state", "summary"},
    {"attachment", "gradient_flow", "gradient_regularization", "metainit", "oneshot"},
    {"session", "tfmot"},
    {"sparse_training"},
    {"callbacks", "pruning"},
    {"analysis"},
    {
        "analysis.distances",
        "analysis.ensembles",
        "analysis.interpolation",
        "analysis.lanczos",
        "analysis.mask_dynamics",
        "analysis.signal_propagation",
    },
    {"analysis.hessian"},
    {"__init__"},
]
# The command line: the same rule holds among these, and they come after all others.
PROGRAM_LAYERS = [
    {"checkpoints", "experiment", "results"},
    {
        "diagnostics",
        "experiment_network",
        "experiment_optimizer",
        "loggers",
        "strategies",
        "training_config",
    },
    {"command_line", "findings", "plots", "run", "saved_runs", "tables"},
    {"plots.style"},
    {"plots.flow"},
    {
        "plots.distances",
        "plots.ensembles",
        "plots.hessian",
        "plots.interpolation",
        "plots.masks",
        "plots.signals",
        "plots.training",
    },
    {"hessian_mode", "interpolate", "report_page", "report_tables", "run_groups"},
    {"analyses", "comparisons", "report_analyses", "signals"},
    {"report"},
    {"analyze", "cost_table", "train"},
]
PROGRAMS = set().union(*PROGRAM_LAYERS)
# Only programs import these, anywhere in their code.
PROGRAM_LIBRARIES = {"absl", "gin", "matplotlib"}
# Not loaded by `import rigl_keras`, though functions of the library may import them.
HEAVY_LIBRARIES = {
    "gin",
    "matplotlib",
    "sklearn",
    "tensorflow_datasets",
    "tensorflow_model_optimization",
}


def module_name(path):
    """`.../rigl_keras/analysis/hessian.py` → "analysis.hessian"."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if len(parts) > 1 and parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def absolute_imports(source, package):
    """Every dotted name that the source imports, relative ones resolved."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            if node.level:
                parents = package.split(".")
                base = parents[: len(parents) - node.level + 1] + base
            names.update(".".join([*base, alias.name]) for alias in node.names)
    return names


def own_modules(names, modules):
    """The package's modules among imported names, each as in `LAYERS`."""
    found = set()
    for name in names:
        top, _, inside = name.partition(".")
        if top != "rigl_keras":
            continue
        # `from rigl_keras.x import y`: y is a module, or something defined in x.
        while inside and inside not in modules:
            inside = inside.rpartition(".")[0]
        found.add(inside or "__init__")
    return found


def imports_of(module):
    path = MODULES[module]
    package = ".".join(path.relative_to(ROOT).parent.parts)
    return absolute_imports(path.read_text(), package)


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_from_earlier_layers_only(module):
    earlier = set()
    for layer in [*LAYERS, *PROGRAM_LAYERS]:
        if module in layer:
            break
        earlier |= layer
    else:
        pytest.fail(f"rigl_keras/{module} has no place in LAYERS or PROGRAM_LAYERS")
    later = own_modules(imports_of(module), MODULES) - earlier
    assert not later, f"{module} may not import {sorted(later)}"


@pytest.mark.parametrize("module", sorted(set(MODULES) - PROGRAMS))
def test_only_programs_import_gin_absl_and_matplotlib(module):
    libraries = {name.partition(".")[0] for name in imports_of(module)}
    assert libraries & PROGRAM_LIBRARIES == set()


def test_no_module_stands_in_two_layers():
    names = [name for layer in [*LAYERS, *PROGRAM_LAYERS] for name in layer]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("import rigl_keras", {"__init__"}),
        ("import rigl_keras.layers as own", {"layers"}),
        ("from rigl_keras import layers", {"layers"}),
        ("from rigl_keras import RigL", {"__init__"}),
        ("from rigl_keras.layers import Sparse", {"layers"}),
        ("from rigl_keras.analysis import hessian", {"analysis.hessian"}),
        ("from . import hessian", {"analysis.hessian"}),
        ("from .hessian import spectrum", {"analysis.hessian"}),
        ("from .. import layers", {"layers"}),
        ("from ..layers import Sparse", {"layers"}),
        ("def f():\n  from rigl_keras import layers", {"layers"}),
        ("from tensorflow.keras import layers", set()),
    ],
)
def test_checker_sees_every_form_of_import(statement, expected):
    modules = {"__init__", "layers", "analysis", "analysis.hessian"}
    names = absolute_imports(statement, package="rigl_keras.analysis")
    assert own_modules(names, modules) == expected


def test_importing_the_library_loads_no_heavy_library():
    # Keras 3 itself loads matplotlib and sklearn where they are installed.
    program = """
import sys
from tensorflow import keras
keras.Model
before = set(sys.modules)
import rigl_keras
print(rigl_keras.__file__, *set(sys.modules) - before, sep="\\n")
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    file, *loaded = result.stdout.splitlines()
    assert Path(file) == PACKAGE / "__init__.py"
    assert HEAVY_LIBRARIES & set(loaded) == set()
