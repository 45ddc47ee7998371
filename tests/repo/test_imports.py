"""Imports point one way, and the library works without what only programs need."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "rigl_keras"

# Package -> the packages that it may import besides itself. Of the modules directly
# under rigl_keras/ the "faces" give public names of the library again; the "commands"
# are run by `python -m`.
LIBRARY = {
    "version": "",
    "compat": "",
    "common": "",
    "networks": "common",
    "data": "common",
    "core": "compat common",
    "algorithms": "common core",
    "layers": "compat common core",
    "conversion": "compat common core layers",
    "costs": "compat common core",
    "training": "compat common core algorithms",
    "faces": "core algorithms costs training",
    "__init__": "common core layers conversion costs training faces version",
    "analysis": "compat common core layers conversion training",
}
PROGRAMS = {
    "plots": "analysis",
    "program": " ".join(LIBRARY),
    "findings": "common networks analysis plots program",
    "reporting": "common plots program",
    "commands": " ".join([*LIBRARY, "plots program findings reporting"]),
}
PACKAGES = {
    name: set(others.split()) | {name} for name, others in (LIBRARY | PROGRAMS).items()
}
FACES = {
    "callbacks",
    "cost",
    "distributions",
    "init_utils",
    "mask_updaters",
    "metainit",
    "patterns",
    "schedules",
    "selection",
}
COMMANDS = {"analyze", "cost_table", "interpolate", "report", "train"}
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


def package_of(module):
    """The package of a module, as in `PACKAGES`; None where it has no place."""
    top = module.partition(".")[0]
    if top in FACES:
        return "faces"
    if top in COMMANDS:
        return "commands"
    return top if top in PACKAGES else None


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_what_its_package_may(module):
    package = package_of(module)
    assert package, f"rigl_keras/{module} has no place in PACKAGES"
    imported = own_modules(imports_of(module), MODULES)
    others = {name for name in imported if package_of(name) not in PACKAGES[package]}
    assert not others, f"{module} may not import {sorted(others)}"


def test_packages_import_in_one_direction():
    places = list(PACKAGES)
    for package, others in PACKAGES.items():
        assert all(places.index(name) <= places.index(package) for name in others)


def test_modules_of_a_package_import_each_other_in_one_direction():
    graph = {module: own_modules(imports_of(module), MODULES) for module in MODULES}
    order = graphlib.TopologicalSorter(
        {module: names - {module} for module, names in graph.items()}
    )
    order.prepare()  # which refuses a circle


@pytest.mark.parametrize("module", [m for m in MODULES if package_of(m) in LIBRARY])
def test_only_programs_import_gin_absl_and_matplotlib(module):
    libraries = {name.partition(".")[0] for name in imports_of(module)}
    assert libraries & PROGRAM_LIBRARIES == set()


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


@pytest.mark.slow
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
