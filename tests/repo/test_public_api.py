"""What users of a published version can name still works as it did.

`tests/support/public_api.py` writes the files in `published/`.
"""

import json
from pathlib import Path

import public_api
import pytest

FOLDER = Path(__file__).parent / "published"
PYTHON, GIN, HELP = (
    json.loads((FOLDER / f"{name}.json").read_text())
    for name in ("python", "gin", "help")
)
REMOVED = {
    # Nothing called it, in the package or in its documentation.
    "rigl_keras.analysis.mask_dynamics": {"iou_matrix"},
    # For the package itself, and never documented.
    "rigl_keras.layers": {
        "CONFIG_VERSION",
        "INITIALIZERS",
        "check_initializer",
        "initial_values",
    },
}
# None stands for the default of before where no pattern sets the sparsity.
NONE_NOW = {"sparsity=0.9"}
# After `drop_fraction` SET and RigL took different arguments in the same place.
KEYWORD_ONLY = {"SET", "RigL", "RigLInverted", "SNFS"}


@pytest.fixture(scope="module")
def python_now():
    return public_api.python_api()


@pytest.fixture(scope="module")
def gin_now():
    return public_api.gin_api()


def split(parameter):
    """ "*, name=default" → whether only by keyword, "name", "default" or None."""
    name, equals, default = parameter.removeprefix("*, ").partition("=")
    return parameter.startswith("*, "), name, default if equals else None


def incompatible(before, now, by_keyword=False):
    """What a call that was right before would run into, as a list of texts."""
    if before is None or now is None:
        return [] if before == now else [f"was {before}, is {now}"]
    after = {split(p)[1]: (place, *split(p)) for place, p in enumerate(now)}
    faults = []
    for place, parameter in enumerate(before):
        only_keyword, name, default = split(parameter)
        if name not in after:
            faults.append(f"{name} is gone")
            continue
        place_now, keyword_now, _, default_now = after[name]
        is_none_now = default_now == "None" and parameter in NONE_NOW
        if default_now != default and not is_none_now:
            faults.append(f"{name}={default} became {default_now}")
        is_rest = name.startswith("*")
        may_move = only_keyword or is_rest or (by_keyword and place > 1)
        if not may_move and (keyword_now or place_now != place):
            faults.append(f"{name} moved")
    known = {split(p)[1] for p in before}
    new = [split(p) for p in now if split(p)[1] not in known]
    return faults + [
        f"{name} is needed"
        for _, name, default in new
        if default is None and not name.startswith("*")
    ]


@pytest.mark.parametrize("module", PYTHON)
def test_published_names_are_there_and_take_the_same_calls(module, python_now):
    faults = {}
    for name, before in PYTHON[module].items():
        if name in REMOVED.get(module, ()):
            continue
        if name not in python_now[module]:
            faults[name] = "is gone"
            continue
        now = python_now[module][name]
        if isinstance(before, dict):
            by_keyword = name in KEYWORD_ONLY and "updaters" not in module
            faults[name] = incompatible(
                before["parameters"], now["parameters"], by_keyword
            )
            for method, parameters in before["methods"].items():
                faults[f"{name}.{method}"] = incompatible(
                    parameters, now["methods"].get(method)
                )
        elif isinstance(before, list):
            faults[name] = incompatible(before, now)
        elif now != before:
            faults[name] = f"was {before}, is {now}"
    assert not {name: fault for name, fault in faults.items() if fault}


@pytest.mark.parametrize("configurable", GIN)
def test_gin_binds_the_same_parameters(configurable, gin_now):
    """By the whole name; gin finds every shorter one where that one is found.

    Files may bind what is new.
    """

    def named(parameters):
        return {split(parameter)[1:] for parameter in parameters}

    assert named(gin_now[configurable]) >= named(GIN[configurable])


@pytest.mark.parametrize("command", HELP)
def test_help_says_the_same(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    without_master = HELP[command].replace(
        " --master: Address of a TPU worker; not available yet.", ""
    )
    assert public_api.help_texts()[command] == without_master


@pytest.mark.parametrize(
    ("before", "now", "faults"),
    [
        (["a", "b=1"], ["a", "b=1", "c=2"], []),
        (["a", "b=1"], ["a", "*, b=1"], ["b moved"]),
        (["a", "b=1"], ["b=1", "a"], ["a moved", "b moved"]),
        (["a", "b=1"], ["a"], ["b is gone"]),
        (["a", "b=1"], ["a", "b=2"], ["b=1 became 2"]),
        (["a"], ["a", "b"], ["b is needed"]),
        (["a", "*, b=1"], ["a", "*, c=1", "*, b=1"], []),
    ],
)
def test_incompatible_calls_are_found(before, now, faults):
    assert incompatible(before, now) == faults
