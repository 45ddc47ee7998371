"""Runs of the command line, opened again: settings, records, weights, networks."""

import glob
import os

import gin

from rigl_keras.program import algorithm, files
from rigl_keras.program.checkpoints import MASK, SavedModel, saved_steps
from rigl_keras.program.diagnostics import MASK_UPDATES_FILE
from rigl_keras.program.files import RESULTS_FILE, RUN_FILE
from rigl_keras.program.loggers import METRICS_FILE
from rigl_keras.program.network import NetworkConfig, compile_network, make_network
from rigl_keras.program.optimizer import OptimizerConfig

# What training does not change by its gradient: the averages of batch normalisation.
_AVERAGES = ("moving_mean", "moving_variance")
# What made the first masks and weights of a run, which its checkpoints hold.
_FIRST_STATE = {"masks.sparsity": None, "masks.overrides": None}
# However a run stores its kernels, its network is looked at with masks.
_STORAGE = {"masks.storage": "masked"}


class SavedRun:
    """The folder of a run.

    Args:
      folder: path of it.

    Attributes:
      folder: as given.
      name: last part of it.
      description: the content of its run.json.

    Raises:
      ValueError: when no run of the command line is there.
    """

    def __init__(self, folder):
        self.folder = os.path.normpath(folder)
        self.name = os.path.basename(self.folder)
        self.description = files.read_json(os.path.join(folder, RUN_FILE))
        if self.description is None:
            raise ValueError(
                f"{folder} holds no {RUN_FILE}; give the --logdir of a run of "
                "`python -m rigl_keras.train`."
            )

    @property
    def title(self):
        """The last two parts of its path: "rigl/seed0" says more than "seed0"."""
        return "/".join(os.path.abspath(self.folder).split(os.sep)[-2:])

    @property
    def result(self):
        """The content of its files.json.

        Raises:
          ValueError: when the run is not finished.
        """
        result = files.read_json(os.path.join(self.folder, RESULTS_FILE))
        if result is None:
            raise ValueError(
                f"{self.folder} holds no {RESULTS_FILE}: the run is not finished. "
                "Repeat its command to go on with it."
            )
        return result

    @property
    def records(self):
        """Its records of metrics: list of dicts with "step", in order."""
        return files.read_jsonl(os.path.join(self.folder, METRICS_FILE))

    @property
    def mask_updates(self):
        """What its mask updates did: dicts with "step", "before", "after", "change"."""
        return files.read_jsonl(os.path.join(self.folder, MASK_UPDATES_FILE))

    @property
    def steps(self):
        """The steps of its checkpoints, in order."""
        return sorted(saved_steps(self.folder))

    @property
    def mask_history(self):
        """What `masks` takes for every step at which masks were saved, in order.

        Beside the checkpoints of training those after each mask update, -t of step t.
        """
        history = {step: step for step in self.steps}
        for record in self.mask_updates:
            step = record["step"]
            path = os.path.join(self.folder, f"ckpt-{-step}.index")
            if os.path.exists(path):
                history[step] = -step
        return [history[step] for step in sorted(history)]

    def checkpoint(self, step=None):
        """The path of a checkpoint.

        Args:
          step: int, or None for the last; -t means `ckpt--t`, saved around the mask
            update at step t.

        Raises:
          ValueError: when it is not there.
        """
        if step is None:
            step = self.steps[-1] if self.steps else 0
        path = os.path.join(self.folder, f"ckpt-{step}")
        if not os.path.exists(f"{path}.index"):
            raise ValueError(
                f"{self.folder} has no checkpoint of step {step}; it has those of "
                f"{self.steps}."
            )
        return path

    def masks(self, step=None):
        """The masks in a checkpoint: dict from the kernels' paths to bool arrays."""
        return SavedModel(self.checkpoint(step)).masks

    def parameters(self, step=None):
        """Kernels, biases and what else is trained: dict from paths to arrays."""
        return {
            name: value
            for name, value in SavedModel(self.checkpoint(step)).values.items()
            if not name.endswith((MASK, *_AVERAGES))
        }

    @property
    def parent(self):
        """The run that its masks come from, by network.mask_init_path.

        Gin's configuration is that of this run afterwards.

        Raises:
          ValueError: when its masks come from no run, or that is not there any more.
        """
        self.configure()
        try:
            path = gin.query_parameter("network.mask_init_path")
        except ValueError:
            path = None
        if path is None:
            raise ValueError(
                f"The masks of {self.folder} come from no other run: its configuration "
                "has no network.mask_init_path. Name the run to compare it with."
            )
        return run_of(path)

    def configure(self):
        """Makes gin's configuration that of this run, in place of any other."""
        gin.clear_config()
        # What trains, `training`, is not needed, and may not be there.
        gin.parse_config(self.description["config"], skip_unknown=True)

    def open(self, step=None):
        """Loads the network of a checkpoint and the data it was trained on.

        Gin's configuration is that of this run afterwards.

        Args:
          step: see `checkpoint`.

        Returns:
          `(model, images)`: a compiled Keras model, and what `data.load` returns.

        Raises:
          ValueError: when checkpoint or data are not there.
        """
        self.configure()
        images = algorithm.load_data()
        return network_at(self.checkpoint(step), images), images


def find_runs(folder):
    """The run in a folder, or all runs below it.

    Args:
      folder: path of a run, or of a folder of runs.

    Returns:
      A list of `SavedRun`, by path.

    Raises:
      ValueError: when there is none.
    """
    folders = sorted(
        os.path.dirname(path)
        for path in glob.glob(
            os.path.join(glob.escape(str(folder)), "**", RUN_FILE), recursive=True
        )
    )
    if not folders:
        raise ValueError(
            f"There is no run in {folder}: neither it nor a folder below it holds "
            f"{RUN_FILE}. Give the --logdir of a run of `python -m rigl_keras.train`, "
            "or a folder of such folders."
        )
    return [SavedRun(path) for path in folders]


def run_of(checkpoint):
    """The run that a checkpoint belongs to.

    Args:
      checkpoint: its path, such as "runs/prune/ckpt-11719".

    Raises:
      ValueError: see `SavedRun`.
    """
    return SavedRun(os.path.dirname(checkpoint) or ".")


def network_at(checkpoint, images):
    """The network of a checkpoint, as gin's present configuration describes it.

    Args:
      checkpoint: path of it, or a `SavedModel`; its masks and weights are the
        network's.
      images: what `data.load` returns, for the shape of inputs and outputs.

    Returns:
      A compiled Keras model.

    Raises:
      ValueError: when checkpoint and configuration do not match.
    """
    with gin.unlock_config():
        for name, value in (_FIRST_STATE | _STORAGE).items():
            gin.bind_parameter(name, value)
    saved = SavedModel.of(checkpoint)
    config = NetworkConfig(
        mask_init_path=saved if saved.masks else None,
        shuffle_mask=False,
        weight_init_path=saved,
        weight_init_method=None,
        noise_stddev=0.0,
    )
    model = make_network(
        images.input_shape,
        images.num_classes,
        algorithm.make_seeds(0),
        is_scratch=False,
        config=config,
    )
    compile_network(model, OptimizerConfig().make(1, 1))
    return model
