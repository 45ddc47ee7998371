"""Where the gin files that come with the package lie."""

from pathlib import Path


def gin_search_paths() -> list[str]:
    """Folders in which a gin file such as `mnist/rigl.gin` is looked up by name.

    Returns:
      Absolute paths, for `gin.add_config_file_search_path`: the installed package's
      `configs` folder, or in a source checkout the `gin` folder beside the package.

    Raises:
      FileNotFoundError: the gin files were not installed with the package.
    """
    package = Path(__file__).resolve().parents[1]
    # In site-packages a folder `gin` beside this package is the gin library itself, so
    # the installed copy is looked for first.
    for folder in (package / "configs", package.parent / "gin"):
        if any(folder.glob("*/*.gin")):
            return [str(folder)]
    raise FileNotFoundError(
        f"expected the package's gin files in {package / 'configs'} or, in a source "
        f"checkout, in {package.parent / 'gin'}, but found none; reinstall rigl_keras"
    )
