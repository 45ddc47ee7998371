"""Analyses of saved runs by themselves: gradient flow, masks, Hessian.

Every function takes groups, a dict from labels to lists of `SavedRun`, and returns a
`Finding`.
"""

import numpy as np

from rigl_keras.analysis import mask_dynamics
from rigl_keras.common.tables import spread
from rigl_keras.findings import hessian as saved_hessians
from rigl_keras.findings.finding import Finding
from rigl_keras.plots import flow as flow_plots
from rigl_keras.plots import hessian as hessian_plots
from rigl_keras.plots import masks as mask_plots


def gradient_flow(groups):
    """The norm of the loss gradient over the training (Evci et al. 2022, Figure 2)."""
    records = {label: [run.records for run in runs] for label, runs in groups.items()}
    arrays: dict[str, np.ndarray] = {}
    rows = []
    for label, runs in records.items():
        steps, norms = flow_plots.series(runs, "gradient_norm")
        arrays |= {f"{label}/steps": steps, f"{label}/gradient_norms": norms}
        rows.append(
            [
                label,
                str(len(runs)),
                spread(norms[:, 0]),
                spread(norms.min(1)),
                spread(norms.max(1)),
                spread(norms[:, -1]),
            ]
        )
    return Finding(
        "Gradient flow during training",
        "The norm of the gradient of the loss, without regulariser, over all trainable "
        "parameters but masked weights, on one fixed batch of training records. Mean "
        "and standard deviation of its logarithm over the runs.",
        ["group", "runs", "at step 0", "smallest", "largest", "at the end"],
        rows,
        arrays,
        lambda path: flow_plots.gradient_norms(records, path),
    )


def mask_updates(groups):
    """The change of the gradient norm at mask updates (Evci et al. 2022, Figure 3)."""
    records = {
        label: [run.mask_updates for run in runs] for label, runs in groups.items()
    }
    arrays: dict[str, np.ndarray] = {}
    rows = []
    for label, runs in records.items():
        steps, changes = flow_plots.series(runs, "change")
        arrays |= {f"{label}/steps": steps, f"{label}/changes": changes}
        last = max(records["step"] for run in runs for records in run)
        early = steps <= last / 2
        rows.append(
            [
                label,
                str(len(runs)),
                str(len(steps)),
                spread(changes[:, early].mean(1)),
                spread(changes[:, ~early].mean(1)),
                f"{(changes > 0).mean():.0%}",
            ]
        )
    return Finding(
        "Change of the gradient norm at mask updates",
        "The norm of the loss gradient right after a mask update less that right "
        "before it, on one fixed batch. Above 0 the update raised the gradient flow.",
        [
            "group",
            "runs",
            "updates",
            "mean change, first half",
            "second half",
            "updates that raise it",
        ],
        rows,
        arrays,
        lambda path: flow_plots.update_changes(records, path),
    )


def masks_over_time(groups):
    """How the masks of runs change (overlap, connections tried, dead units)."""
    arrays: dict[str, np.ndarray] = {}
    dynamics, rows = {}, []
    measures = {"iou_first": 3, "ever_active": 3, "dead_outputs": 1, "dead_inputs": 1}
    for label, runs in groups.items():
        dynamics[label] = [_mask_dynamics(run) for run in runs]
        of_all = {
            name: np.stack([getattr(of_run, name) for of_run in dynamics[label]])
            for name in measures
        }
        arrays |= {
            f"{label}/steps": dynamics[label][0].steps,
            f"{label}/iou_first": of_all["iou_first"],
            f"{label}/ever_active": of_all["ever_active"],
        }
        last = [spread(of_all[name][:, -1], d) for name, d in measures.items()]
        rows.append([label, str(len(runs)), *last])
    return Finding(
        "Masks over the training",
        "Overlap (intersection over union) of the masks with the first ones, and the "
        "share of all connections that were ever active, at the checkpoints of the "
        "runs, those after each mask update among them; units without any live input, "
        "and inputs without any live output, summed over the kernels, at the end.",
        [
            "group",
            "runs",
            "overlap with the first",
            "ever active",
            "units without inputs",
            "inputs without outputs",
        ],
        rows,
        arrays,
        lambda path: mask_plots.dynamics(dynamics, path),
    )


def _mask_dynamics(run):
    return mask_dynamics.dynamics(
        (abs(step), run.masks(step)) for step in run.mask_history
    )


def hessian(groups):
    """The Hessian spectra that `--mode=hessian` left in the folders of runs."""
    by_label, methods = {}, {}
    arrays: dict[str, np.ndarray] = {}
    for label, runs in groups.items():
        for run in runs:
            name = label if len(runs) == 1 else f"{label}, {run.name}"
            for moment, spectrum in saved_hessians.saved_spectra(run).items():
                by_label[f"{name}, {moment}"] = spectrum
                methods[f"{name}, {moment}"] = name
    for name, (values, weights, _) in by_label.items():
        arrays |= {f"{name}/values": values, f"{name}/weights": weights}
    return Finding(
        "Spectrum of the Hessian",
        "Eigenvalues of the Hessian of the loss, without regulariser, over the active "
        "weights: all of them, or by Lanczos quadrature an estimate of their density.",
        saved_hessians.COLUMNS,
        saved_hessians.table_rows(by_label),
        arrays,
        lambda path: hessian_plots.spectra(by_label, path, methods),
    )
