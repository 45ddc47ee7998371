"""What the command lines with gin share: flags, reading of gin, report of errors."""

import errno
import os
import signal
import sys
import warnings

import gin
import tensorflow as tf
from absl import app, flags, logging

from rigl_keras.program import gin_files
from rigl_keras.program.checkpoints import check_no_pattern, saved_steps

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

# What a wrong command raises.
USER_ERRORS = (ValueError, TypeError, SyntaxError, OSError, ImportError)


class Terminated(BaseException):
    """SIGTERM, as an exception like that of Ctrl-C."""


def start(main):
    """Runs a command, and ends the process with its exit code.

    --help lists the package's gin files too. Ctrl-C and SIGTERM, wrong flags, and a
    disk that is full end in one line.

    Args:
      main: function of what absl left of the command line; returns the exit code.
    """
    signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        app.run(lambda argv: _call(main, argv), flags_parser=_parse_flags)
    except (KeyboardInterrupt, Terminated) as stop:
        _end_as_stopped(stop)


def _raise_terminated(*_):
    raise Terminated


def _parse_flags(argv):
    try:
        return FLAGS(argv)
    except flags.Error as error:
        print(f"error: {' '.join(str(error).split())} See --help.", file=sys.stderr)
        sys.exit(2)
    except SystemExit:
        # Absl has printed its help, and calls that a failure.
        names = "\n  ".join(gin_files.packaged())
        print(f"\ngin files of the package, for --gin_config:\n  {names}")
        sys.exit(0)


def _call(main, argv):
    warnings.showwarning = _print_warning
    try:
        return main(argv)
    except (OSError, tf.errors.OpError) as error:
        if not _is_disk_full(error):
            raise
        return _say_disk_is_full()


def _print_warning(message, *_args, **_options):
    """Prints a warning on one line: where the code that warns lies helps nobody."""
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr, flush=True)


def _is_disk_full(error):
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return os.strerror(errno.ENOSPC) in str(error)


def _say_disk_is_full():
    where = f" of {_logdir()}" if _logdir() else ""
    print(
        f"error: no space is left on the disk{where}. Free some. {_how_to_go_on()}",
        file=sys.stderr,
    )
    return 1


def _end_as_stopped(stop):
    """Ends the process by the signal that stopped it, as a shell expects."""
    number = signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM
    print(f"\nstopped by {number.name}. {_how_to_go_on()}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _how_to_go_on():
    steps = saved_steps(_logdir()) if _logdir() else []
    if not steps:
        return "The same command starts again."
    return f"The same command goes on from step {max(steps)} of {_logdir()}."


def _logdir():
    """None for a command without this flag."""
    return FLAGS.logdir if FLAGS.is_parsed() else None


def check(argv):
    """Refuses arguments that are no flags, and a folder that cannot be one.

    Args:
      argv: what absl left of the command line, the program's name first.

    Raises:
      ValueError: naming the argument.
    """
    if len(argv) > 1:
        raise ValueError(f"unexpected arguments {argv[1:]}; flags begin with --")
    if not FLAGS.logdir:
        raise ValueError(
            "--logdir is needed: the folder of the run, such as --logdir=runs/rigl. "
            "It has no default, so that no run ends up in another's folder."
        )
    check_no_pattern("--logdir", FLAGS.logdir)
    if os.path.exists(FLAGS.logdir) and not os.path.isdir(FLAGS.logdir):
        raise ValueError(
            f"--logdir={FLAGS.logdir} is a file. Give the path of a folder, which need "
            "not be there yet."
        )


def parse_gin():
    """Reads the gin files and bindings of the flags.

    Raises:
      ValueError: for a name that gin does not know.
      OSError: for a file that cannot be read.
    """
    # Gin logs an error for each folder that it looks for a file in vain.
    logging.set_verbosity(logging.FATAL)
    files = [*FLAGS.preload_gin_config, *FLAGS.gin_config]
    gin_files.read(files, [*FLAGS.gin_bindings, *_bindings_of_flags()])
    gin.finalize()
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
    if _is_disk_full(error):
        return _say_disk_is_full()
    # Gin appends where it was called from, which is of no use to the caller.
    message = str(error).split("\n  In call to configurable")[0]
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2
