"""Which packages are built; everything else is declared in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

# The gin files live at the top level, where a reader looks for experiments, and are
# installed inside the package, where `rigl_keras.program.gin_files` finds them. `gin/`
# must never hold an __init__.py: it would hide the gin library from a checkout.
FOLDERS = sorted(path.name for path in Path("gin").iterdir() if path.is_dir())
CONFIGS = ["rigl_keras.configs", *(f"rigl_keras.configs.{name}" for name in FOLDERS)]

setup(
    packages=[*find_packages(include=["rigl_keras", "rigl_keras.*"]), *CONFIGS],
    package_dir={"rigl_keras.configs": "gin"},
    package_data={
        "rigl_keras": ["py.typed"],
        **{config: ["*.gin"] for config in CONFIGS},
    },
)
