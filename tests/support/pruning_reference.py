"""Pruning worked out with numpy alone, for comparison."""

import numpy as np


def kept_count(size, sparsity):
    """How many of `size` weights remain, in float32 arithmetic, half to even."""
    kept = np.float32(size) * (np.float32(1) - np.float32(sparsity))
    return max(int(np.rint(kept)), 1)


def decay(step, initial, final, begin, end, power=3):
    """The sparsity of polynomial decay as Zhu & Gupta 2018 write it."""
    progress = min(max((step - begin) / (end - begin), 0.0), 1.0)
    return np.float32(final + (initial - final) * (1 - progress) ** power)


def pruned_mask(scores, mask, sparsity):
    """The mask of one kernel; of equal scores the lower index stays."""
    order = _best_first(scores, mask)
    return _mask(order[: kept_count(mask.size, sparsity)], mask.shape)


def globally_pruned_masks(scores, masks, sparsity):
    """The masks of several kernels ranked together, one connection each at least."""
    orders = [_best_first(s, m) for s, m in zip(scores, masks, strict=True)]
    chosen = [set(order[:1]) for order in orders]
    rest = [
        (-float(scores[kernel].flat[index]), kernel, index)
        for kernel, order in enumerate(orders)
        for index in order[1:]
    ]
    count = kept_count(sum(mask.size for mask in masks), sparsity)
    for _, kernel, index in sorted(rest)[: max(count - len(masks), 0)]:
        chosen[kernel].add(index)
    return [_mask(sorted(c), m.shape) for c, m in zip(chosen, masks, strict=True)]


def _best_first(scores, mask):
    active = np.flatnonzero(mask)
    order = np.argsort(-scores.ravel()[active], kind="stable")
    return [int(index) for index in active[order]]


def _mask(chosen, shape):
    mask = np.zeros(int(np.prod(shape)), bool)
    mask[chosen] = True
    return mask.reshape(shape)
