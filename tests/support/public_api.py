"""What users of a version can name: functions, classes, gin bindings, help texts.

    python tests/support/public_api.py tests/repo/published

writes the files of a version that is about to be published.
"""

import ast
import contextlib
import importlib
import inspect
import io
import json
import sys
from pathlib import Path

import gin

MODULES = (
    "rigl_keras",
    "rigl_keras.analysis.distances",
    "rigl_keras.analysis.ensembles",
    "rigl_keras.analysis.hessian",
    "rigl_keras.analysis.interpolation",
    "rigl_keras.analysis.lanczos",
    "rigl_keras.analysis.mask_dynamics",
    "rigl_keras.analysis.signal_propagation",
    "rigl_keras.callbacks",
    "rigl_keras.cost",
    "rigl_keras.data",
    "rigl_keras.distributions",
    "rigl_keras.init_utils",
    "rigl_keras.layers",
    "rigl_keras.mask_updaters",
    "rigl_keras.metainit",
    "rigl_keras.networks",
    "rigl_keras.schedules",
    "rigl_keras.selection",
)
# With the modules that they were published with, by which gin finds them too.
GIN = (
    "rigl_keras.data.loading.data",
    "rigl_keras.experiment.mask_updater",
    "rigl_keras.experiment.pruning",
    "rigl_keras.experiment.seeds",
    "rigl_keras.experiment_network.masks",
    "rigl_keras.experiment_network.network",
    "rigl_keras.experiment_optimizer.optimizer",
    "rigl_keras.hessian_mode.hessian",
    "rigl_keras.init_utils.layer_scaled_init",
    "rigl_keras.init_utils.unit_scaled_init",
    "rigl_keras.interpolate.interpolate",
    "rigl_keras.networks.mobilenet.mobilenet_v1",
    "rigl_keras.networks.resnet.resnet50",
    "rigl_keras.networks.small.lenet5",
    "rigl_keras.networks.small.mlp",
    "rigl_keras.networks.vgg.vgg16",
    "rigl_keras.networks.wide_resnet.wide_resnet",
    "rigl_keras.strategies.strategy",
    "rigl_keras.training_config.training",
)
ABSL_COMMANDS = ("interpolate", "train")
ARGPARSE_COMMANDS = ("analyze", "cost_table", "report")


def names(module):
    """Names that a module defines or lists, without what it imports for itself."""
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return sorted(listed)
    tree = ast.parse(inspect.getsource(module))
    defined = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.append(node.name)
        elif isinstance(node, ast.Assign):
            targets = [name for target in node.targets for name in ast.walk(target)]
            defined += [name.id for name in targets if isinstance(name, ast.Name)]
    return sorted(name for name in defined if not name.startswith("_"))


def parameters(function):
    """A function's parameters as texts: "name", "name=default", "*, name=default"."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    marks = {"KEYWORD_ONLY": "*, ", "VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}
    return [
        marks.get(parameter.kind.name, "")
        + parameter.name
        + (
            f"={parameter.default!r}"
            if parameter.default is not parameter.empty
            else ""
        )
        for parameter in signature.parameters.values()
    ]


def described(thing):
    """A function's or class's parameters, a class's public methods too."""
    if not callable(thing):
        return type(thing).__name__
    if not inspect.isclass(thing):
        return parameters(thing)
    methods = {
        name: parameters(method)
        for name, method in inspect.getmembers(thing, inspect.isroutine)
        if not name.startswith("_")
        and getattr(method, "__module__", "").startswith("rigl_keras")
    }
    return {"parameters": parameters(thing), "methods": methods}


def python_api():
    """Module -> name -> what `described` says."""
    modules = {name: importlib.import_module(name) for name in MODULES}
    return {
        path: {name: described(getattr(module, name)) for name in names(module)}
        for path, module in modules.items()
    }


def gin_api():
    """Configurable -> the parameters that gin can bind, as `parameters` has them."""
    for name in ABSL_COMMANDS:
        importlib.import_module(f"rigl_keras.{name}")
    return {name: _bindable(name) for name in GIN}


def _bindable(configurable):
    found = []
    for parameter in parameters(gin.get_configurable(configurable)):
        with contextlib.suppress(ValueError), gin.unlock_config():
            name = parameter.removeprefix("*, ").partition("=")[0]
            gin.bind_parameter(f"{configurable}.{name}", None)
            found.append(parameter)
    gin.clear_config()
    return found


def help_texts():
    """Command -> what its --help says of its arguments, word by word."""
    from absl import flags

    texts = {}
    for name in ABSL_COMMANDS:
        module = importlib.import_module(f"rigl_keras.{name}")
        texts[name] = flags.FLAGS.module_help(module).partition(":\n")[2]
    for name in ARGPARSE_COMMANDS:
        module = importlib.import_module(f"rigl_keras.{name}")
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            module.main(["--help"])
        texts[name] = text.getvalue()
    return {name: " ".join(text.split()) for name, text in texts.items()}


def _one_line_a_name(content, depth=0):
    """JSON in which a change of one name changes one line."""
    if depth == 2 or not isinstance(content, dict):
        return json.dumps(content)
    indent = " " * (depth + 1)
    lines = [
        f"{indent}{json.dumps(name)}: {_one_line_a_name(value, depth + 1)}"
        for name, value in content.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n" + " " * depth + "}"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name, content in {
        "python": python_api(),
        "gin": gin_api(),
        "help": help_texts(),
    }.items():
        (folder / f"{name}.json").write_text(_one_line_a_name(content) + "\n")
