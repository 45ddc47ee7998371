"""What the command lines with gin share: flags, reading of gin, report of errors."""

import sys

import gin
from absl import flags, logging

from rigl_keras.program.gin_files import gin_search_paths

FLAGS = flags.FLAGS

flags.DEFINE_string("logdir", None, "Folder of the run: checkpoints, logs, result.")
flags.DEFINE_enum("mode", "train_eval", ["train_eval", "hessian"], "What to do.")
flags.DEFINE_bool("use_tpu", False, "Train on a TPU: strategy.name='tpu'.")
flags.DEFINE_string(
    "tpu_job_name", None, "Name of the TPU's job: strategy.tpu_job_name."
)
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

# What a wrong command raises.
USER_ERRORS = (ValueError, TypeError, SyntaxError, OSError, ImportError)


def check(argv):
    """Refuses arguments that are no flags.

    Args:
      argv: what absl left of the command line, the program's name first.

    Raises:
      ValueError: naming the argument.
    """
    if len(argv) > 1:
        raise ValueError(f"unexpected arguments {argv[1:]}; flags begin with --")


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
    bindings = [*FLAGS.gin_bindings, *_bindings_of_flags()]
    gin.parse_config_files_and_bindings(FLAGS.gin_config, bindings)
    logging.set_verbosity(logging.WARNING)


def _bindings_of_flags():
    bindings = []
    if FLAGS.use_tpu:
        bindings.append("strategy.name = 'tpu'")
    if FLAGS.tpu_job_name is not None:
        bindings.append(f"strategy.tpu_job_name = {FLAGS.tpu_job_name!r}")
    return bindings


def refuse(error):
    """Reports one of `USER_ERRORS` on one line.

    Returns:
      The exit code.
    """
    # Gin appends where it was called from, which is of no use to the caller.
    message = str(error).split("\n  In call to configurable")[0]
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2
