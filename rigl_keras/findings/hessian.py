"""Hessian spectra of a saved run's checkpoints: `--mode=hessian` of the command line.

Example:
  python -m rigl_keras.train --mode=hessian --logdir=runs/rigl \
      --gin_config=mnist/hessian.gin --gin_bindings="hessian.ckpt_ids=[0, 11719]"
"""

import dataclasses
import glob
import os
import time
from typing import Any

import gin
import numpy as np

from rigl_keras.analysis import hessian, lanczos
from rigl_keras.common import tables
from rigl_keras.common.checks import check_choice, check_int
from rigl_keras.plots import hessian as plots
from rigl_keras.plots import style
from rigl_keras.program import algorithm, files
from rigl_keras.program.lock import FolderLock
from rigl_keras.program.saved_runs import SavedRun, network_at

FOLDER = "hessian"
_METHODS = ("exact", "lanczos")
_SECONDS = 10  # between two lines of progress
# An eigenvalue counts as negative from this part of the largest on: those of dead
# units are 0 but for rounding errors.
_NEGATIVE = 1e-3


@gin.configurable("hessian", module="rigl_keras.hessian_mode")
@dataclasses.dataclass(frozen=True)
class HessianConfig:
    """Which spectra to compute, and how.

    Attributes:
      ckpt_ids: the checkpoints' steps, ints; -t means `ckpt--t`, saved around the mask
        update at step t: `ckpt--<t-1>` before it, `ckpt--<t>` after it.
      overwrite: whether what is there already is computed again, from its first row on.
      batch_size: int >= 1, how many training records the loss is taken over, the first
        ones; where there are fewer, all.
      rows_at_once: int >= 1, rows of the Hessian for each forward pass.
      is_dense_spectrum: whether all weights count, unmasked. The paper's code then
        multiplies by the masks, which only adds eigenvalues of 0; here the gradients
        of masked weights, by which RigL grows, are differentiated like the others.
      method: this package's own, as are the following: "exact" for the whole Hessian,
        or "lanczos" for an estimate, which large networks need.
      lanczos_steps: int >= 1, products for each probe.
      num_probes: int >= 1, random vectors to start from.
      seed: int >= 0, of the probes.
      examples_at_once: int >= 1, records of a forward pass; fewer take less memory.
    """

    ckpt_ids: tuple[int, ...] = ()
    overwrite: bool = False
    batch_size: int = 1000
    rows_at_once: int = 10
    is_dense_spectrum: bool = False
    method: str = "exact"
    lanczos_steps: int = 100
    num_probes: int = 10
    seed: int = 0
    examples_at_once: int = hessian.EXAMPLES_AT_ONCE

    def __post_init__(self):
        """Refuses what is out of range.

        Raises:
          ValueError: naming it.
        """
        ids = self.ckpt_ids
        if not isinstance(ids, list | tuple) or not ids or not all(map(_is_int, ids)):
            raise ValueError(
                "Expected hessian.ckpt_ids to be a list of checkpoints' steps, such as "
                f"[0, 11719], got {ids!r}."
            )
        check_choice("hessian.method", self.method, _METHODS)
        for name in ("overwrite", "is_dense_spectrum"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(
                    f"Expected hessian.{name} to be True or False, got "
                    f"{getattr(self, name)!r}."
                )
        for name in (
            "batch_size",
            "rows_at_once",
            "lanczos_steps",
            "num_probes",
            "examples_at_once",
        ):
            check_int(f"hessian.{name}", getattr(self, name), minimum=1)
        check_int("hessian.seed", self.seed, minimum=0)

    @property
    def suffix(self):
        """What the names of the files say of the kind of spectrum."""
        dense = "-dense" if self.is_dense_spectrum else ""
        return dense + ("-lanczos" if self.method == "lanczos" else "")

    @property
    def setting(self):
        """What a spectrum depends on: dict by names."""
        names = ["batch_size", "is_dense_spectrum", "method"]
        if self.method == "lanczos":
            names += ["lanczos_steps", "num_probes", "seed"]
        return {name: getattr(self, name) for name in names}


def _is_int(value):
    return isinstance(value, int) and not isinstance(value, bool)


class HessianSpectra:
    """Computes the Hessian spectra of a run's checkpoints, into its folder `hessian`.

    Creating it checks everything; nothing is written.

    Args:
      logdir: path of the run's folder.
      parse_flags: function that reads gin's files and bindings of the command line;
        called after the run's own configuration is read, which they go over.

    Raises:
      ValueError: for what is no run, a checkpoint that is not there or too large, a
        setting that is out of range, or spectra of other settings in the folder.
      ImportError: without the libraries that figures need.
    """

    def __init__(self, logdir, parse_flags):
        style.check_installed()
        self._run = SavedRun(logdir)
        self._run.configure()
        parse_flags()
        self._config = HessianConfig()
        # Now, as opening a checkpoint's network changes it.
        self._description = {
            "run": self._run.name,
            "config": gin.config_str(),
            "setting": self._config.setting,
        }
        self._ids = list(dict.fromkeys(self._config.ckpt_ids))
        self._folder = os.path.join(logdir, FOLDER)
        self._check_checkpoints()
        self._images = algorithm.load_data()
        self._batch = self._images.train_records(0, self._config.batch_size)

    def compute(self):
        """Computes what is missing, draws the figure and prints a table of all."""
        os.makedirs(self._folder, exist_ok=True)
        self._lock = FolderLock(self._folder)
        by_label = {}
        for number in self._ids:
            if self._is_due(number):
                self._compute_one(number)
            else:
                print(f"{self._path(number)} is there already.")
            label, spectrum = _read(self._run, self._path(number))
            by_label[label] = spectrum
        figure = os.path.join(self._folder, f"spectrum{self._config.suffix}.png")
        plots.spectra(by_label, figure)
        print(tables.markdown([COLUMNS, *table_rows(by_label)]))
        print(f"Figure: {figure}")

    def _path(self, number, ending=".npz"):
        name = f"ckpt-{number}{self._config.suffix}{ending}"
        return os.path.join(self._folder, name)

    def _is_due(self, number):
        return self._config.overwrite or not os.path.exists(self._path(number))

    def _check_checkpoints(self):
        for number in self._ids:
            self._run.checkpoint(number)
            if not self._is_due(number):
                self._check_setting(number)
            elif self._config.method == "exact":
                hessian.check_size(self._size(number))

    def _check_setting(self, number):
        _, description = files.read_arrays(self._path(number))
        theirs, ours = description["setting"], self._description["setting"]
        if theirs != ours:
            raise ValueError(
                f"{self._path(number)} holds a spectrum with other settings: {theirs} "
                f"there, {ours} here. Use the same, or set hessian.overwrite=True."
            )

    def _size(self, number):
        """How many weights count, without building the network."""
        masks = {} if self._config.is_dense_spectrum else self._run.masks(number)
        return sum(
            int(masks[name].sum()) if name in masks else array.size
            for name, array in self._run.parameters(number).items()
        )

    def _compute_one(self, number):
        model = network_at(self._run.checkpoint(number), self._images)
        began = time.perf_counter()
        name = f"ckpt-{number}"
        if self._config.method == "exact":
            arrays, size = self._exact(model, number, Progress(name, "rows"))
        else:
            arrays, size = self._lanczos(model, Progress(name, "products"))
        description = {
            "checkpoint": number,
            "size": size,
            "examples": len(self._batch[0]),
            "seconds": time.perf_counter() - began,
            **self._description,
            **files.environment(),
        }
        files.write_arrays(self._path(number), arrays, description)

    def _exact(self, model, number, progress):
        config, rows = self._config, self._path(number, ".rows.npy")
        if config.overwrite and os.path.exists(rows):
            os.remove(rows)
        matrix = hessian.hessian(
            model,
            self._batch,
            rows,
            config.rows_at_once,
            config.is_dense_spectrum,
            config.examples_at_once,
            on_rows=progress,
        )
        values = hessian.eigenvalues(matrix)
        os.remove(rows)
        return {"eigenvalues": values}, len(values)

    def _lanczos(self, model, progress):
        config = self._config
        products = hessian.LossHessian(
            model, self._batch, config.is_dense_spectrum, config.examples_at_once
        )
        total = config.num_probes * min(config.lanczos_steps, products.size)
        done = 0

        def matvec(vector):
            nonlocal done
            product = products.matvec(vector)
            done += 1
            progress(done, total)
            return product

        values, weights = lanczos.spectrum(
            matvec, products.size, config.lanczos_steps, config.num_probes, config.seed
        )
        return {"ritz_values": values, "weights": weights}, products.size


class Progress:
    """Prints how far a computation is, every ten seconds and at its end.

    Args:
      name: what is computed.
      unit: what is counted, such as "rows".
    """

    def __init__(self, name, unit):
        self._name, self._unit = name, unit
        self._began = self._printed = time.monotonic()
        self._first: Any = None

    def __call__(self, done, total):
        """Notes how many of all are done."""
        now = time.monotonic()
        if self._first is None:
            # What a killed computation had done cost no time now, compiling did.
            self._first, self._began = done, now
        if done < total and now - self._printed < _SECONDS:
            return
        self._printed = now
        made = done - self._first
        left = (total - done) * (now - self._began) / made if made else 0.0
        print(
            f"{self._name}: {done} of {total} {self._unit}, {left:.0f} s left",
            flush=True,
        )


def _probes(arrays):
    """Values and weights [probes, m] of what a file holds."""
    if "eigenvalues" not in arrays:
        return arrays["ritz_values"], arrays["weights"]
    values = arrays["eigenvalues"][None]
    return values, np.full(values.shape, 1 / values.size)


def _label(run, number):
    """What a checkpoint is, in words."""
    if number >= 0:
        return f"step {number}"
    updates = {record["step"] for record in run.mask_updates}
    if -number in updates:
        return f"step {-number}, after the update"
    if 1 - number in updates:
        return f"step {1 - number}, before the update"
    return f"ckpt-{number}"


def _read(run, path):
    """The label and the spectrum `(values, weights, size)` of a file."""
    arrays, description = files.read_arrays(path)
    label = _label(run, description["checkpoint"])
    return label, (*_probes(arrays), description["size"])


def saved_spectra(run):
    """The spectra that lie in a run's folder, those of one setting.

    Args:
      run: `SavedRun`.

    Returns:
      A dict from labels to `(values, weights, size)` as `plots.hessian.spectra` takes
      them, in the order of the training.

    Raises:
      ValueError: when there is none, or they are of several settings.
    """
    paths = glob.glob(os.path.join(glob.escape(run.folder), FOLDER, "*.npz"))
    described = {path: files.read_arrays(path)[1] for path in paths}
    settings = [description["setting"] for description in described.values()]
    if not paths or any(setting != settings[0] for setting in settings):
        raise ValueError(
            f"Expected {os.path.join(run.folder, FOLDER)} to hold spectra of one "
            f"setting, got {settings}. `python -m rigl_keras.train --mode=hessian` "
            "makes them."
        )
    # Before an update comes `ckpt--<t-1>`, after it `ckpt--<t>`.
    paths.sort(key=lambda path: abs(described[path]["checkpoint"]))
    return dict(_read(run, path) for path in paths)


COLUMNS = ["checkpoint", "weights", "largest λ", "smallest λ", "λ < −largest/1000"]


def table_rows(by_label):
    """A row of strings for each spectrum, under `COLUMNS`.

    Args:
      by_label: what `saved_spectra` returned.
    """
    rows = []
    for label, (values, weights, size) in by_label.items():
        is_negative = values < -_NEGATIVE * values.max()
        count = size * (weights * is_negative).sum() / len(values)
        rows.append(
            [
                label,
                str(size),
                f"{values.max():.4g}",
                f"{values.min():.4g}",
                f"{count:.1f}" if len(values) > 1 else f"{count:.0f}",
            ]
        )
    return rows
