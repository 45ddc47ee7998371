"""Checkpoints of a run: written whole or not at all, restored only where they match."""

import os
import re
import shutil

import tensorflow as tf

from rigl_keras import compat
from rigl_keras.core import kernels
from rigl_keras.core.masks import sparse_kernels
from rigl_keras.program.compressed_values import INDICES, in_full, layouts
from rigl_keras.program.compressed_values import MASK as MASK

_WRITING = "ckpt.writing"


class Checkpoints:
    """The checkpoints `ckpt-<step>` in a folder.

    A checkpoint holds the model's variables by path, masks as "<kernel's path>/mask",
    compressed kernels as `compressed_values` says, the optimizer's variables by
    position, and what else a run needs to go on. It is in
    TensorFlow's format, for `tf.train.load_checkpoint`.

    Args:
      folder: path of the folder.
      model: the model, built.
      optimizer: its optimizer, built.
      state: None, or a trackable object with the state of the training, such as the
        `state` of a callback.
      keep: False removes each checkpoint once it is written: saving is an act of all
        workers of a run together, but only one's files are wanted.

    Raises:
      FileExistsError: when something else is where checkpoints are written.
    """

    def __init__(self, folder, model, optimizer, *, state=None, keep=True):
        self._folder = folder
        if os.path.isfile(os.path.join(folder, _WRITING)):
            raise FileExistsError(
                f"{os.path.join(folder, _WRITING)} is a file, where a folder is to be "
                "in which checkpoints are written. Remove it."
            )
        self._keep = keep
        parts = {
            "model": {**named_variables(model), **layouts(model)},
            "optimizer": _numbered(optimizer.variables),
            "random": _numbered(compat.random_states(model)),
        }
        if state is not None:
            parts["training"] = state
        self._checkpoint = tf.train.Checkpoint(**parts)

    def save(self, step):
        """Writes the checkpoint of a step; an interruption leaves none or all of it."""
        self._save(f"ckpt-{step}")

    def save_around_update(self, step):
        """Writes `ckpt--<step>`, which a run never goes on from."""
        self._save(f"ckpt--{step}")

    def _save(self, name):
        writing = os.path.join(self._folder, _WRITING)
        shutil.rmtree(writing, ignore_errors=True)
        self._checkpoint.write(os.path.join(writing, name))
        if not self._keep:
            shutil.rmtree(writing)
            return
        # The index last: without it the rest is no checkpoint.
        files = sorted(os.listdir(writing), key=lambda file: file.endswith(".index"))
        for file in files:
            os.replace(os.path.join(writing, file), os.path.join(self._folder, file))
        os.rmdir(writing)

    def restore_last(self):
        """Restores the last checkpoint that can be read whole.

        Returns:
          Its step, or None when there is no checkpoint.

        Raises:
          ValueError: when a checkpoint belongs to another model.
        """
        for step in sorted(saved_steps(self._folder), reverse=True):
            path = os.path.join(self._folder, f"ckpt-{step}")
            damage = _damage(path)
            if damage is None:
                self._restore(path)
                return step
            print(f"{path} cannot be read, trying an earlier one: {damage}")
        return None

    def _restore(self, path):
        try:
            self._checkpoint.read(path).assert_consumed()
        except (AssertionError, ValueError) as error:
            raise ValueError(
                f"Checkpoint {path} does not match this run's model and optimizer: "
                f"{error}. Use another --logdir."
            ) from error


def _damage(path):
    """What keeps a checkpoint from being read whole; None when nothing does."""
    try:
        reader = tf.train.load_checkpoint(path)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    # TensorFlow's reader has no common class for what it raises: an IndexError for a
    # short file, a DataLossError for other contents, and more.
    except Exception as error:
        return _on_one_line(error)
    return None


class SavedModel:
    """The model in a checkpoint, each of its tensors read once.

    Args:
      path: the checkpoint's, such as "runs/prune/ckpt-11719".

    Attributes:
      path: as a str.
      values: dict from paths, as in `named_variables` but sorted, to arrays; kernels
        that are compressed there have their zeros and a mask here.
      masks: dict from the kernels' paths to masks; empty for a dense model.

    Raises:
      ValueError: when there is no checkpoint that can be read, or not of this package's
        command line.
    """

    def __init__(self, path):
        self.path = str(path)
        check_no_pattern("a checkpoint's path", self.path)
        self.values = dict(sorted(in_full(self._read()).items()))
        if not self.values:
            raise ValueError(
                f"Checkpoint {path} holds no model of this package's command line."
            )
        self.masks = {
            name.removesuffix(MASK): value
            for name, value in self.values.items()
            if name.endswith(MASK)
        }

    def __repr__(self):
        """The path, as errors show it."""
        return repr(self.path)

    @classmethod
    def of(cls, checkpoint):
        """The model of a checkpoint, which may have been read already.

        Args:
          checkpoint: a path, or a `SavedModel`, which is returned.
        """
        return checkpoint if isinstance(checkpoint, cls) else cls(checkpoint)

    def _read(self):
        try:
            reader = tf.train.load_checkpoint(self.path)
            # All of it, the optimizer's part too: a checkpoint is whole or refused.
            tensors = {
                key: reader.get_tensor(key)
                for key in reader.get_variable_to_shape_map()
            }
        # TensorFlow's reader has no common class for what it raises.
        except Exception as error:
            raise ValueError(
                f"Checkpoint {self.path} cannot be read: {_on_one_line(error)}. Give "
                "the path of one that the command line wrote, such as "
                "'runs/prune/ckpt-11719'."
            ) from error
        # A "/" of a name is escaped; other checkpoints have it between objects.
        pattern = re.compile(r"model/([^/]+)/\.ATTRIBUTES/VARIABLE_VALUE")
        matches = filter(None, map(pattern.fullmatch, tensors))
        return {_unescaped(match.group(1)): tensors[match.group()] for match in matches}


def _on_one_line(error):
    return " ".join(str(error).split())


def _unescaped(key):
    """A name as it was before TensorFlow wrote "/" as ".S" and "." as ".."."""
    return re.sub(r"\.(.)", lambda m: "/" if m.group(1) == "S" else ".", key)


def check_no_pattern(what, path):
    """Refuses a path that TensorFlow takes for a pattern of paths.

    Args:
      what: what the caller knows the path by.
      path: as a str.

    Raises:
      ValueError: naming the characters.
    """
    found = sorted(set(path) & set("*?[]{}\\"))
    if found:
        raise ValueError(
            f"Expected {what} without {' '.join(found)}, which TensorFlow takes for a "
            f"pattern, got {path!r}. Use another folder."
        )


def saved_steps(folder):
    """The steps of the checkpoints in a folder, in any order."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    matches = (re.fullmatch(r"ckpt-(\d+)\.index", name) for name in names)
    return [int(match.group(1)) for match in matches if match]


def named_variables(model):
    """A model's variables by path; those of masks are "<kernel's path>/mask".

    The places of a compressed kernel's weights are "<kernel's path>/indices".

    Args:
      model: a built model.

    Returns:
      A dict from paths to `tf.Variable`.
    """
    names = {
        id(variable): kernel.path + (INDICES if kernel.is_compressed else MASK)
        for kernel in sparse_kernels(model)
        for variable in kernel.index_variables
    }
    named = {}
    for path, _, weight in kernels.named_weights(model):
        named[names.get(id(weight), path)] = compat.raw(weight)
    return named


def _numbered(variables):
    return {
        str(index): compat.raw(variable) for index, variable in enumerate(variables)
    }
