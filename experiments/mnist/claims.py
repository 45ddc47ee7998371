"""The paper's claims about LeNet5 as checks of what was measured."""

import json

import numpy as np

from rigl_keras.program import files

HEAD = ["claim", "paper", "measured", "holds"]
# A network with more has left the plateau: the most frequent digit's share is 11.35 %.
_LEFT_PLATEAU = 0.2


def claims(runs, figures):
    """Checks every claim that the runs and analyses at hand can answer.

    Args:
      runs: path of the folder of the runs.
      figures: path of the folder of the analyses of `figures.analyses`.

    Returns:
      Rows of a table: claim, what the paper says, what was measured, "yes" or "no".
    """

    def arrays(name):
        return files.read_arrays(figures / f"{name}.npz")[0]

    return [
        plateau(runs),
        *gradient_flows(arrays("fig_2_gradient_flow")),
        *improvements(arrays("fig_3_mask_updates")),
        *distances(arrays("fig_5b_distances")),
        *barriers(arrays("fig_5c_interpolation")),
        *ensembles(arrays("table_3_ensembles")),
        hessian(arrays("hessian")),
        sparser_rigl(runs),
    ]


def row(claim, paper, measured, *, holds):
    """A row of the table."""
    return [claim, paper, measured, "yes" if holds else "no"]


def plateau(runs):
    """Dense-initialised scratch sits on a plateau that unit-scaled scratch leaves."""
    late = [leaving(path) for path in histories(runs / "scratch95_dense")]
    early = [leaving(path) for path in histories(runs / "scratch95_unit_fanavg")]
    left = [step for step in late if step is not None]
    return row(
        "Scratch with the dense init sits on the initial plateau; unit-scaled it does "
        "not",
        "leaves it near step 1,000",
        f"test accuracy above 20 % first at steps {listed(late)}; unit-scaled "
        f"{listed(early)}",
        holds=None not in early and min([*left, np.inf]) > max(early),
    )


def histories(folder):
    """The files of metrics of all seeds."""
    return sorted(folder.glob("seed*/metrics.jsonl"))


def leaving(path):
    """The first recorded step beyond the plateau; None when there is none."""
    for record in files.read_jsonl(path):
        if record.get("test_accuracy", 0) > _LEFT_PLATEAU:
            return record["step"]
    return None


def listed(steps):
    """Steps as text."""
    return ", ".join("never" if step is None else str(step) for step in steps)


def gradient_flows(arrays):
    """The lottery ticket's gradient flow is as poor at first as that of scratch."""
    first = {
        label: float(arrays[f"{label}/gradient_norms"][:, 0].mean())
        for label in ("Lottery", "Scratch", "Scratch+")
    }
    spans = {}
    for label in ("Lottery", "Scratch+", "SET+", "RigL+", "Dense"):
        norms = arrays[f"{label}/gradient_norms"]
        spans[label] = float(np.log10(norms).std(1).mean())
    others = [span for label, span in spans.items() if label != "Lottery"]
    return [
        row(
            "Lottery tickets start with as little gradient flow as scratch with the "
            "dense init",
            "Figure 2",
            "gradient norm at step 0: "
            + ", ".join(f"{label} {norm:.3f}" for label, norm in first.items()),
            holds=first["Lottery"] < 1.5 * first["Scratch"] < first["Scratch+"],
        ),
        row(
            "Their gradient flow stays flat",
            "Figure 2",
            "standard deviation of log10 of the gradient norm over the training: "
            + ", ".join(f"{label} {span:.2f}" for label, span in spans.items()),
            holds=spans["Lottery"] < min(others),
        ),
    ]


def improvements(arrays):
    """RigL's updates raise the gradient norm, most in the first half, unlike SET's."""
    halves = {}
    for label in ("RigL+", "SET+", "RigL-Inverted+"):
        steps, changes = arrays[f"{label}/steps"], arrays[f"{label}/changes"]
        first = steps <= steps[-1] / 2
        halves[label] = changes[:, first].mean(), changes[:, ~first].mean()
    first, second = halves["RigL+"]
    means = {label: float(np.mean(values)) for label, values in halves.items()}
    return [
        row(
            "RigL's updates raise the gradient norm most in the first half",
            "Figure 3",
            f"mean change {first:+.4f} in the first half, {second:+.4f} in the second",
            holds=first > second and first > 0,
        ),
        row(
            "They raise it more than those of SET and RigL-Inverted",
            "Figure 3",
            ", ".join(f"{label} {mean:+.4f}" for label, mean in means.items()),
            holds=means["RigL+"] > max(means["SET+"], means["RigL-Inverted+"]),
        ),
    ]


def distances(arrays):
    """Lottery tickets start and end nearer to the pruned solution."""
    mean = {key: float(values.mean()) for key, values in arrays.items()}
    start = mean["Lottery/l2_start"], mean["Scratch/l2_start"]
    end = mean["Lottery/l2_end"], mean["Scratch/l2_end"]
    return [
        row(
            "Lottery tickets start nearer to the pruned solution than scratch",
            "13.61 against 17.46",
            f"L2 distance {start[0]:.2f} against {start[1]:.2f}",
            holds=start[0] < start[1],
        ),
        row(
            "They end at least twice as near",
            "8.03 against 25.64",
            f"{end[0]:.2f} against {end[1]:.2f}, {end[1] / end[0]:.1f} times",
            holds=end[1] >= 2 * end[0],
        ),
    ]


def barriers(arrays):
    """There is a barrier between scratch and the pruned solution, none for lottery.

    "None" is less than a tenth of scratch's; 0.1 nats are the least to be called one.
    """
    measures = {}
    for label in ("Lottery", "Scratch"):
        for moment, measure in (("start", "climb"), ("end", "barrier")):
            measures[label, moment] = arrays[f"{label}, from its {moment}/{measure}"]
    return [
        row(
            f"From its {moment}, scratch meets a barrier on the line to the pruned "
            "solution and the lottery ticket none",
            "Figure 5c",
            f"{measure} of the loss: lottery at most "
            f"{measures['Lottery', moment].max():.3f}, scratch at least "
            f"{measures['Scratch', moment].min():.3f} nats",
            holds=measures["Scratch", moment].min()
            > max(0.1, 10 * measures["Lottery", moment].max()),
        )
        for moment, measure in (("start", "climb"), ("end", "barrier"))
    ]


def ensembles(arrays):
    """Lottery tickets agree with each other, and gain little as an ensemble."""
    scratch = ("Scratch", "Scratch, different init")
    disagreement, gain = {}, {}
    for label in ("Lottery", *scratch):
        disagreement[label] = float(arrays[f"{label}/disagreement"].mean())
        alone = arrays[f"{label}/accuracies"].mean()
        gain[label] = 100 * float(arrays[f"{label}/ensemble_accuracy"] - alone)
    ratios = {label: disagreement[label] / disagreement["Lottery"] for label in scratch}
    return [
        *(
            row(
                f"Lottery tickets disagree at least 4 times less than: {label}",
                paper,
                f"{disagreement['Lottery']:.4f} against {disagreement[label]:.4f}, "
                f"{ratios[label]:.1f} times",
                holds=ratios[label] >= 4,
            )
            for label, paper in zip(
                scratch,
                ("0.0043 against 0.0316", "0.0043 against 0.0352"),
                strict=True,
            )
        ),
        row(
            "Ensembles of networks from scratch gain more than those of tickets",
            "+0.96 against +0.06 points",
            f"{gain['Scratch']:+.2f}, with different init "
            f"{gain['Scratch, different init']:+.2f}, against {gain['Lottery']:+.2f} "
            "points",
            holds=min(gain[label] for label in scratch) > gain["Lottery"],
        ),
    ]


def hessian(arrays):
    """An update of RigL makes new negative eigenvalues of the Hessian."""
    # In this order: before the update, after it.
    before, after = (arrays[key] for key in arrays if key.endswith("/values"))
    new = int((after < before.min()).sum())
    return row(
        "RigL's update makes new negative eigenvalues of the Hessian",
        "extended version",
        f"smallest {before.min():.3f} before and {after.min():.3f} after; {new} lie "
        "below all of before",
        holds=new > 0,
    )


def sparser_rigl(runs):
    """RigL with the unit-scaled init trains at 98 % sparsity."""
    accuracies = [
        100 * json.loads(path.read_text())["test_accuracy"]
        for path in sorted(runs.glob("rigl98_unit_fanavg/seed*/results.json"))
    ]
    mean = float(np.mean(accuracies))
    return row(
        "At 98 % RigL with the unit-scaled init reaches 96.3 %",
        "96.72 ± 0.23",
        f"{mean:.2f} ± {np.std(accuracies):.2f}, {len(accuracies)} seeds",
        holds=mean >= 96.3,
    )
