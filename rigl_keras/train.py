r"""Trains a network as gin files say, or computes a trained one's Hessian spectra.

Example:
  python -m rigl_keras.train --logdir=/tmp/rigl --gin_config=mnist/rigl.gin \
      --gin_bindings="data.name='digits'"
  python -m rigl_keras.train --mode=hessian --logdir=/tmp/rigl \
      --gin_config=mnist/hessian.gin --gin_bindings="hessian.ckpt_ids=[0, 11719]"
"""

import os
import sys

import tensorflow as tf
from absl import flags

from rigl_keras.findings.hessian import HessianSpectra
from rigl_keras.program import command_line
from rigl_keras.program.devices import StrategyConfig
from rigl_keras.program.run import Run

FLAGS = flags.FLAGS
# Of `train` as a program, as sysexits.h has it: the same command may go on later.
EX_TEMPFAIL = 75
# What the collective operations of the other workers raise when one is gone.
_WORKER_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)

# Its flags are in the --help of this program too.
flags.adopt_module_key_flags(command_line)
flags.DEFINE_integer(
    "seed", 0, "Seed of everything that gin's `seeds` leaves open.", lower_bound=0
)


def main(argv):
    """Runs the command line.

    Returns:
      The exit code.
    """
    try:
        command_line.check(argv)
        if FLAGS.mode == "hessian":
            if FLAGS.use_tpu:
                raise ValueError("--use_tpu is for training; leave it out.")
            HessianSpectra(FLAGS.logdir, command_line.parse_gin).compute()
            return 0
        command_line.parse_gin()
        if StrategyConfig().needs_other_keras:
            _start_again_with_keras_2()
        run = Run(FLAGS.logdir, FLAGS.seed)
        run.begin()
    except command_line.USER_ERRORS as error:
        return command_line.refuse(error)
    except _WORKER_LOST as error:
        _leave(error)
    try:
        result = run.train()
    except _WORKER_LOST as error:
        _leave(error)
    print(
        f"test accuracy {result['test_accuracy']:.2%}, "
        f"sparsity {result['sparsity']['all']:.2%}, "
        f"{result['steps']} steps, {result['steps_per_second']:.1f} steps/s"
    )
    return 0


def _start_again_with_keras_2():
    """Starts this program anew: which Keras `tf.keras` is, is decided at its import."""
    print(
        f"strategy.name={StrategyConfig().resolved!r} trains with Keras 2: starting "
        "again with TF_USE_LEGACY_KERAS=1.",
        flush=True,
    )
    command = [sys.executable, "-m", "rigl_keras.train", *sys.argv[1:]]
    os.execve(command[0], command, {**os.environ, "TF_USE_LEGACY_KERAS": "1"})


def _leave(error):
    """Ends the process of a worker that has lost the others."""
    print(
        f"error: another worker or device is gone ({type(error).__name__}). The same "
        "command on all workers goes on from the last checkpoint.",
        file=sys.stderr,
        flush=True,
    )
    sys.stdout.flush()
    # An ordinary exit waits for the others.
    os._exit(EX_TEMPFAIL)


if __name__ == "__main__":
    command_line.start(main)
