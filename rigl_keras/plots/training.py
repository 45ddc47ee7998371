"""Figures of training runs."""

from rigl_keras.plots import style

# name in the records, title of the axis, factor to its unit
_PANELS = (
    ("cross_entropy", "cross-entropy (nats)", 1),
    ("accuracy", "accuracy (%)", 100),
)


def training_curves(histories, path):
    """Draws loss and accuracy over the training steps.

    Args:
      histories: mapping from a run's label to its records, as `metrics.jsonl` holds
        them: dicts with "step", "cross_entropy", "accuracy" and, of the test set,
        "test_cross_entropy" and "test_accuracy".
      path: where to write the figure; the ending says the format.
    """
    with style.figure(path, columns=2) as axes:
        for axis, (name, label, factor) in zip(axes, _PANELS, strict=True):
            for index, (run, records) in enumerate(histories.items()):
                # The record of step 0 has no training metrics.
                records = [record for record in records if name in record]
                steps = [record["step"] for record in records]
                for prefix, line, which in (("", ":", "train"), ("test_", "-", "test")):
                    values = [factor * record[prefix + name] for record in records]
                    axis.plot(
                        steps, values, line, color=f"C{index}", label=f"{run}, {which}"
                    )
            axis.set_xlabel("training step")
            axis.set_ylabel(label)
        axes[0].set_yscale("log")
        axes[1].legend(loc="lower right")
