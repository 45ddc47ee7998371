"""Trains a network as gin files say.

Example:
  python -m rigl_keras.train --logdir=/tmp/rigl --gin_config=mnist/rigl.gin \
      --gin_bindings="data.name='digits'"
"""

import sys

import gin
from absl import app, flags, logging

from rigl_keras.config_path import gin_search_paths
from rigl_keras.run import Run

FLAGS = flags.FLAGS

flags.DEFINE_string("logdir", None, "Folder of the run: checkpoints, logs, result.")
flags.DEFINE_integer(
    "seed", 0, "Seed of everything that gin's `seeds` leaves open.", lower_bound=0
)
flags.DEFINE_enum("mode", "train_eval", ["train_eval", "hessian"], "What to do.")
flags.DEFINE_bool("use_tpu", False, "Train on a TPU; not available yet.")
flags.DEFINE_string("tpu_job_name", "tpu_worker", "Name of the TPU job.")
flags.DEFINE_multi_string(
    "gin_config",
    [],
    "Gin file, by path or by its name in the package, such as mnist/rigl.gin; "
    "repeatable, later ones win.",
)
flags.DEFINE_multi_string(
    "gin_bindings", [], "Gin binding, such as training.batch_size=64; repeatable."
)
flags.DEFINE_multi_string(
    "preload_gin_config",
    [],
    "Gin file that is read before --gin_config, such as the operative_config.gin of "
    "an earlier run; repeatable.",
)
flags.mark_flag_as_required("logdir")


def parse_gin():
    """Reads the gin files and bindings of the flags.

    Raises:
      ValueError: for a name that gin does not know.
      OSError: for a file that cannot be read.
    """
    for folder in gin_search_paths():
        gin.add_config_file_search_path(folder)
    # Gin logs an error for each folder that it looks for a file in vain.
    logging.set_verbosity(logging.FATAL)
    gin.parse_config_files_and_bindings(FLAGS.preload_gin_config, [], False)
    gin.parse_config_files_and_bindings(FLAGS.gin_config, FLAGS.gin_bindings)
    logging.set_verbosity(logging.WARNING)


def check_flags():
    """Refuses flags whose function is not available yet.

    Raises:
      ValueError: naming the flag.
    """
    if FLAGS.use_tpu:
        raise ValueError("--use_tpu is not available yet; leave it out.")
    if FLAGS.mode == "hessian":
        raise ValueError("--mode=hessian is not available yet; use train_eval.")


def main(argv):
    """Runs the command line.

    Returns:
      The exit code.
    """
    try:
        if len(argv) > 1:
            raise ValueError(f"unexpected arguments {argv[1:]}; flags begin with --")
        check_flags()
        parse_gin()
        run = Run(FLAGS.logdir, FLAGS.seed)
        run.begin()
    except (ValueError, TypeError, SyntaxError, OSError, ImportError) as error:
        # Gin appends where it was called from, which is of no use to the caller.
        message = str(error).split("\n  In call to configurable")[0]
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
        return 2
    result = run.train()
    print(
        f"test accuracy {result['test_accuracy']:.2%}, "
        f"sparsity {result['sparsity']['all']:.2%}, "
        f"{result['steps']} steps, {result['steps_per_second']:.1f} steps/s"
    )
    return 0


if __name__ == "__main__":
    app.run(main)
