"""pytest plugin: which tests run, the default tier or all.

Where no test is named, by a path or by `-k`, the default tier runs: all tests but those
marked `release`, and in Keras 2 only the folders below and what is marked
`both_kerases`. What is named runs whatever its marks, and so do all tests under
`--tier=all`. A test marked `one_keras` is never run in Keras 2.
"""

import importlib.metadata
import os
import platform

import pytest

IS_LEGACY = os.environ.get("TF_USE_LEGACY_KERAS") in ("1", "true", "True")
# Their code differs between the two Kerases, or must not.
IN_BOTH_KERASES = ("compat", "layers", "conversion", "contract")


def pytest_addoption(parser):
    """Adds `--tier`."""
    parser.addoption(
        "--tier",
        choices=("default", "all"),
        help="which tests run: `all` where some are named, else `default`",
    )


def pytest_configure(config):
    """Decides on the tier in the controller of pytest-xdist: workers have its options.

    A worker is given paths even where the user named none.
    """
    if config.option.tier is None:
        by_path = config.args_source is config.ArgsSource.ARGS
        is_named = by_path or config.option.keyword
        config.option.tier = "all" if is_named else "default"


def pytest_report_header(config):
    """Says at the head of the run what is tested, and on what."""
    packages = ["tf_keras" if IS_LEGACY else "keras", "tensorflow", "numpy"]
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return [
        f"on: {', '.join(versions)}, Python {platform.python_version()}",
        f"tier: {config.option.tier}",
    ]


def pytest_collection_modifyitems(config, items):
    """Leaves the tests that are not of the tier unselected."""
    if config.option.tier == "all":
        return
    chosen = [item for item in items if _is_default(item)]
    others = set(items) - set(chosen)
    config.hook.pytest_deselected(items=[item for item in items if item in others])
    items[:] = chosen


def pytest_runtest_setup(item):
    """Skips in Keras 2 what is the same code in both Kerases."""
    if IS_LEGACY and item.get_closest_marker("one_keras"):
        pytest.skip("the same code in both Kerases")


def _is_default(item):
    if item.get_closest_marker("release"):
        return False
    if not IS_LEGACY or item.get_closest_marker("both_kerases"):
        return True
    folder = item.path.relative_to(item.config.rootpath / "tests").parts[0]
    return folder in IN_BOTH_KERASES and not item.get_closest_marker("one_keras")
