"""The limits of size that keep every file and function readable at one sitting."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE_FOLDERS = ("rigl_keras", "benchmarks", "experiments", "scripts")
FILE_LINES, BODY_LINES, ARGUMENTS, POSITIONAL = 400, 40, 8, 3

# Public functions whose callers may pass what they could pass when the function was
# first published: they keep more arguments, or more positional ones, than a new one.
PUBLISHED = {
    "base.SparseTraining.attached",
    "convert.sparsify",
    "counting.training_flops",
    "dynamic.MaskUpdates.__init__",
    "named._ByClass.__init__",
    "hessian.LossHessian.__init__",
    "hessian.hessian",
    "in_memory.ImageData.train_batches",
    "in_memory.batches",
    "in_memory.fixed_batch",
    "initializers.layer_scaled_init",
    "initializers.unit_scaled_init",
    "interpolation.interpolate",
    "lanczos.density",
    "lanczos.spectrum",
    "loading.load",
    "masked_kernel.surviving",
    "metainit.meta_init",
    "mobilenet.mobilenet_v1",
    "one_shot.prune_once",
    "resnet.resnet50",
    "schedules.constant_sparsity",
    "schedules.cosine",
    "schedules.polynomial_decay",
    "schedules.update_inside_execution",
    "signal_propagation.signal_propagation",
    "small.lenet5",
    "small.mlp",
    "sparse.Sparse.__init__",
    "streamed.StreamedImages.train_batches",
    "vgg.vgg16",
    "wide_resnet.wide_resnet",
}


def python_files(*folders):
    return sorted(path for name in folders for path in (ROOT / name).rglob("*.py"))


def functions(tree, prefix=""):
    """Yields the qualified name and the node of every function, inner ones too."""
    for node in ast.iter_child_nodes(tree):
        name = prefix
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{prefix}{node.name}"
            if not isinstance(node, ast.ClassDef):
                yield name, node
            name += "."
        yield from functions(node, name)


def body_lines(function):
    """Lines from the first statement after the docstring to the last."""
    statements = function.body
    if ast.get_docstring(function) is not None:
        statements = statements[1:]
    return statements[-1].end_lineno - statements[0].lineno + 1 if statements else 0


def arguments(function):
    """How many arguments there are without `self`, and how many can be positional."""
    positional = [arg.arg for arg in function.args.posonlyargs + function.args.args]
    if positional and positional[0] in ("self", "cls"):
        positional = positional[1:]
    return len(positional) + len(function.args.kwonlyargs), len(positional)


COMMAND_LINES, FACE_LINES = 120, 40
COMMANDS = ("analyze", "cost_table", "interpolate", "report", "train")

SOURCES = {str(p.relative_to(ROOT)): p for p in python_files(*SOURCE_FOLDERS)}
TESTS = {str(p.relative_to(ROOT)): p for p in python_files("tests")}


@pytest.mark.parametrize("file", [*SOURCES, *TESTS])
def test_files_are_short(file):
    lines = (ROOT / file).read_text().count("\n")
    assert lines <= FILE_LINES, f"{file} has {lines} lines: split it by subject"


def test_what_lies_beside_the_packages_is_short():
    for path in (ROOT / "rigl_keras").glob("*.py"):
        if path.name == "__init__.py":
            continue
        limit = COMMAND_LINES if path.stem in COMMANDS else FACE_LINES
        lines = path.read_text().count("\n")
        assert lines <= limit, f"{path.name} has {lines} lines"


@pytest.mark.parametrize("file", SOURCES)
def test_functions_are_short_and_have_few_arguments(file):
    faults = []
    for name, function in functions(ast.parse(SOURCES[file].read_text())):
        lines, (count, positional) = body_lines(function), arguments(function)
        if lines > BODY_LINES:
            faults.append(f"{name}: a body of {lines} lines")
        if f"{Path(file).stem}.{name}" in PUBLISHED:
            continue
        if count > ARGUMENTS:
            faults.append(f"{name}: {count} arguments")
        if positional > POSITIONAL:
            faults.append(f"{name}: {positional} positional arguments")
    assert not faults


def test_exceptions_are_still_needed():
    needed = set()
    for file, path in SOURCES.items():
        for name, function in functions(ast.parse(path.read_text())):
            count, positional = arguments(function)
            if count > ARGUMENTS or positional > POSITIONAL:
                needed.add(f"{Path(file).stem}.{name}")
    assert needed >= PUBLISHED, sorted(PUBLISHED - needed)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('def f(a, b=1, *, c):\n    """Text.\n\n    More.\n    """\n    return a', 1),
        ("def f():\n    x = [\n        1,\n    ]\n    return x", 4),
        ('def f():\n    """Only text."""', 0),
    ],
)
def test_bodies_are_counted_without_docstrings(source, expected):
    [(_, function)] = functions(ast.parse(source))
    assert body_lines(function) == expected


def test_self_is_no_argument_and_inner_functions_count():
    source = "class A:\n  def f(self, a, *, b):\n    def g(c, d): ...\n    return g"
    found = {name: arguments(node) for name, node in functions(ast.parse(source))}
    assert found == {"A.f": (2, 1), "A.f.g": (2, 2)}
