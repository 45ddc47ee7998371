"""Trains a network as gin files say, or computes a trained one's Hessian spectra.

Example:
  python -m rigl_keras.train --logdir=/tmp/rigl --gin_config=mnist/rigl.gin \
      --gin_bindings="data.name='digits'"
  python -m rigl_keras.train --mode=hessian --logdir=/tmp/rigl \
      --gin_config=mnist/hessian.gin --gin_bindings="hessian.ckpt_ids=[0, 11719]"
"""

from absl import app, flags

from rigl_keras import command_line
from rigl_keras.hessian_mode import HessianSpectra
from rigl_keras.run import Run

FLAGS = flags.FLAGS

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
            HessianSpectra(FLAGS.logdir, command_line.parse_gin).compute()
            return 0
        command_line.parse_gin()
        run = Run(FLAGS.logdir, FLAGS.seed)
        run.begin()
    except command_line.USER_ERRORS as error:
        return command_line.refuse(error)
    result = run.train()
    print(
        f"test accuracy {result['test_accuracy']:.2%}, "
        f"sparsity {result['sparsity']['all']:.2%}, "
        f"{result['steps']} steps, {result['steps_per_second']:.1f} steps/s"
    )
    return 0


if __name__ == "__main__":
    app.run(main)
