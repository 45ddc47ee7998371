"""Which packages are built; everything else is declared in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["rigl_keras", "rigl_keras.*"]),
        "rigl_keras.configs",
    ],
    # The gin files live at the top level, where a reader looks for experiments, and are
    # installed inside the package, where `rigl_keras.config_path` finds them. `gin/`
    # must never hold an __init__.py: it would hide the gin library from a checkout.
    package_dir={"rigl_keras.configs": "gin"},
    package_data={"rigl_keras.configs": ["**/*.gin"]},
)
