"""Analyses that compare saved runs with a reference, such as the pruned network.

Every function takes groups, a dict from labels to lists of `SavedRun`, and returns a
`Finding`.
"""

import dataclasses

import numpy as np

from rigl_keras.analysis import distances, ensembles, interpolation
from rigl_keras.common.tables import spread
from rigl_keras.findings.finding import Finding
from rigl_keras.findings.line import InterpolationConfig, interpolate_checkpoints
from rigl_keras.plots import distances as distance_plots
from rigl_keras.plots import ensembles as ensemble_plots
from rigl_keras.plots import interpolation as interpolation_plots
from rigl_keras.program import algorithm


def distance_to_reference(groups, reference=None):
    """Distances of first and last weights to a reference (Evci et al. 2022, Fig. 5b).

    Args:
      groups: see above.
      reference: a `SavedRun`, at its last step, such as the pruned network; None for
        the run that each run's masks come from.
    """
    goals: dict[str, dict[str, np.ndarray]] = {}

    def goal(run):
        of = reference or run.parent
        if of.folder not in goals:
            goals[of.folder] = of.parameters()
        return goals[of.folder]

    arrays: dict[str, np.ndarray] = {}
    rows, l2 = [], {}
    for label, runs in groups.items():
        values = {}
        for moment, step in (("start", 0), ("end", None)):
            pairs = [(run.parameters(step), goal(run)) for run in runs]
            values[f"l2_{moment}"] = [distances.l2_distance(*pair) for pair in pairs]
            values[f"cosine_{moment}"] = [
                distances.cosine_distance(*pair) for pair in pairs
            ]
        arrays |= {f"{label}/{name}": np.array(v) for name, v in values.items()}
        l2[label] = {"start": values["l2_start"], "end": values["l2_end"]}
        rows.append(
            [
                label,
                str(len(runs)),
                spread(values["l2_start"], 2),
                spread(values["l2_end"], 2),
                spread(values["cosine_start"], 3),
                spread(values["cosine_end"], 3),
            ]
        )
    return Finding(
        "Distance to the reference solution",
        "L2 and cosine distance (1 minus the cosine of the angle) between all trained "
        "parameters, biases included, of each run and the last ones of the reference "
        f"run ({_name(reference)}).",
        ["group", "runs", "L2, start", "L2, end", "cosine, start", "cosine, end"],
        rows,
        arrays,
        lambda path: distance_plots.start_and_end(l2, path),
    )


def solution_map(groups, reference, seed=0):
    """A map of start and end points and a reference (Evci et al. 2022, Fig. 5a).

    Args:
      groups: see above.
      reference: a `SavedRun`, at its last step.
      seed: int >= 0, of the map's random starts.
    """
    labels, points = [], []
    for label, runs in groups.items():
        for run in runs:
            for moment, step in (("start", 0), ("end", None)):
                labels.append((label, moment))
                points.append(run.parameters(step))
    matrix = distances.distance_matrix([*points, reference.parameters()])
    placed = distances.mds_map(matrix, seed=seed)
    *coordinates, star = placed.coordinates
    by_label = {
        label: {
            moment: np.array(
                [c for c, key in zip(coordinates, labels, strict=True) if key == at]
            )
            for moment, at in (("start", (label, "start")), ("end", (label, "end")))
        }
        for label in groups
    }
    arrays = {
        "distances": matrix,
        "coordinates": placed.coordinates,
        "groups": np.array([*(label for label, _ in labels), reference.title]),
        "moments": np.array([*(moment for _, moment in labels), "end"]),
        "stress": np.array(placed.stress),
    }
    return Finding(
        "Map of start and end points",
        "Metric multidimensional scaling of the L2 distances between the first and "
        f"last parameters of all runs and the solution of {reference.title}: distances "
        "in the plane are as near to the true ones as two dimensions allow.",
        ["points", "normalised stress (stress-1)"],
        [[str(len(matrix)), f"{placed.stress_1:.3f}"]],
        arrays,
        lambda path: distance_plots.solution_map(
            by_label, star, path, reference=reference.title, stress=placed.stress_1
        ),
    )


def ensemble(groups, reference=None, batch_size=1000):
    """Similarity and ensembles of the networks of each group (Evci et al., Table 3).

    Args:
      groups: see above; the runs have one test set.
      reference: a `SavedRun` that all are compared with, at its last step, or None.
      batch_size: int >= 1, images at a time.
    """
    target = None if reference is None else _predictions(reference, batch_size)[0]
    arrays: dict[str, np.ndarray] = {}
    similarities, rows, labels = {}, [], np.zeros(0)
    for label, runs in groups.items():
        outputs = [_predictions(run, batch_size) for run in runs]
        labels = outputs[0][1]
        similarity = ensembles.similarity(
            np.stack([probabilities for probabilities, _ in outputs]), labels, target
        )
        similarity = _without(similarity, reference, runs)
        similarities[label] = similarity
        arrays |= {
            f"{label}/{k}": np.asarray(v) for k, v in similarity.as_dict().items()
        }
        rows.append([label, str(len(runs)), *_similarity_cells(similarity)])
    return Finding(
        "Similarity of the solutions, and their ensembles",
        f"Test accuracy, on {len(labels)} images, of the networks of a group and of "
        "their ensemble (mean of the softmax outputs); disagreement: share of test "
        "images for which two networks predict different classes, over all pairs of "
        f"the group and with the reference ({_name(reference, 'none')}); "
        "Kullback-Leibler and Jensen-Shannon divergence between the predicted "
        "distributions, in nats, over all pairs.",
        [
            "group",
            "networks",
            "test accuracy, %",
            "ensemble, %",
            "disagreement",
            "with the reference",
            "KL",
            "JSD",
        ],
        rows,
        arrays,
        lambda path: ensemble_plots.similarities(similarities, path),
    )


def _without(similarity, reference, runs):
    """A similarity in which the reference is not compared with itself."""
    if reference is None:
        return similarity
    is_other = np.array([run.folder != reference.folder for run in runs])
    names = [name for name in similarity.as_dict() if name.startswith("reference_")]
    kept = {name: getattr(similarity, name)[is_other] for name in names}
    return dataclasses.replace(similarity, **kept)


def _similarity_cells(similarity):
    shown = (
        similarity.disagreement,
        similarity.reference_disagreement,
        similarity.kl,
        similarity.jsd,
    )
    return [
        spread(similarity.accuracies, 2, 100),
        f"{100 * similarity.ensemble_accuracy:.2f}",
        *(
            "" if values is None or not values.size else spread(values)
            for values in shown
        ),
    ]


def _predictions(run, batch_size):
    """A run's last predicted distributions on its test set, and the labels."""
    model, images = run.open()
    labels, probabilities = [], []
    for x, y in images.test_in_order(batch_size):
        labels.append(y)
        probabilities.append(ensembles.predict_probabilities(model, x, batch_size))
    return np.concatenate(probabilities), np.concatenate(labels)


def interpolations(
    groups, reference=None, coefficients=interpolation.COEFFICIENTS, *, num_train=10_000
):
    """The loss along lines to a reference (Evci et al. 2022, Figure 5c).

    Args:
      groups: see above; the runs have one data set.
      reference: a `SavedRun`, at its last step; None for each run's parent.
      coefficients: floats, places on the line, 0 for the run and 1 for the reference.
      num_train: int >= 1, first training records that the loss is taken on; where
        there are fewer, all.
    """
    arrays, rows, curves = {"coefficients": np.asarray(coefficients)}, [], {}
    images, methods = None, {}
    for label, runs in groups.items():
        for moment, step in (("start", 0), ("end", None)):
            lines = []
            for run in runs:
                run.configure()
                images = images or algorithm.load_data()
                lines.append(
                    interpolate_checkpoints(
                        run.checkpoint(step),
                        (reference or run.parent).checkpoint(),
                        coefficients,
                        config=InterpolationConfig(num_train=num_train),
                        images=images,
                    )
                )
            name = f"{label}, from its {moment}"
            values = _stacked(lines, coefficients)
            curves[name], methods[name] = values["train_loss"], label
            arrays |= {f"{name}/{key}": array for key, array in values.items()}
            cells = [spread(values[key], 3) for key in ("barrier", "climb")]
            rows.append([name, str(len(runs)), *cells])
    return Finding(
        "Loss along the line to the reference",
        f"Training loss, on {_count(images, num_train)} records, along the straight "
        "line from each run's first and last parameters (0) to the last ones of the "
        f"reference run ({_name(reference)}; 1): mean and 80 % confidence interval of "
        "the mean. Barrier: the largest excess over the straight line between the "
        "losses of the two ends. Climb: the most that the loss rises on the way.",
        ["line", "runs", "barrier, nats", "climb, nats"],
        rows,
        arrays,
        lambda path: interpolation_plots.several(
            coefficients, curves, path, methods=methods
        ),
    )


def _count(images, num_train):
    """How many training records of a data set are used when so many are wanted."""
    return num_train if images is None else min(num_train, images.num_train)


def _stacked(lines, coefficients):
    """Values of several lines as arrays [lines, points]; barriers and climbs too."""
    values = {key: np.stack([line[key] for line in lines]) for key in lines[0]}
    for key in ("barrier", "climb"):
        measure = getattr(interpolation, key)
        values[key] = np.array(
            [measure(loss, coefficients) for loss in values["train_loss"]]
        )
    return values


def _name(reference, default="the run that gave the masks"):
    return default if reference is None else reference.title
