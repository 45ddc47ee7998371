"""Patterns worked out with loops over lists of indices, for comparison.

A kernel's weights are named by their places in the flat array. A pattern makes of them
a list of groups, each a list of units, each a list of places.
"""

import functools
import itertools
import math

import numpy as np

# A pattern is a function from a kernel's places, `places[tap][input][output]`, to the
# groups of the units; its arguments are those of the text.


def unstructured(places):
    return [[[place] for place in sorted(_joined(places))]]


def blocks(places, inputs=16, outputs=1, balanced=False):
    taps, rows, columns = _sizes(places)
    starts = range(0, columns, outputs)
    if inputs == "all":
        whole = [
            [
                places[t][i][o + j]
                for t in taps
                for i in range(rows)
                for j in _to(outputs)
            ]
            for o in starts
        ]
        return [whole]

    def block(t, i, o):
        return [places[t][i + k][o + j] for k in _to(inputs) for j in _to(outputs)]

    at = [(t, i) for t in taps for i in range(0, rows, inputs)]
    if balanced == "outputs":
        return [[block(t, i, o) for t, i in at] for o in starts]
    by_inputs = [[block(t, i, o) for o in starts] for t, i in at]
    return by_inputs if balanced else [_chained(by_inputs)]


def n_of_m(places, n, m):
    taps, rows, columns = _sizes(places)
    return [
        [[places[t][i + k][o]] for k in _to(m)]
        for t in taps
        for i in range(0, rows, m)
        for o in range(columns)
    ]


def constant_fan_in(places, ablation=0.0):
    taps, rows, columns = _sizes(places)
    return [
        [[places[t][i][o]] for t in taps for i in range(rows)] for o in range(columns)
    ]


def woven(places):
    """See `own_pattern`."""
    taps, rows, columns = _sizes(places)
    half = columns // 2
    return [
        [
            [places[t][2 * i + odd][o], places[t][2 * i + odd][o + half]]
            for o in range(half)
            for i in range(rows // 2)
        ]
        for odd in (0, 1)
        for t in taps
    ]


PATTERNS = (unstructured, blocks, n_of_m, constant_fan_in, woven)


class GroupedKernel:
    """The groups and units of one kernel by a pattern.

    Args:
      text: the pattern, such as "blocks(16, 1)".
      shape: the kernel's.
      in_axes: its axes that count inputs, in the order in which they are joined.
      out_axes: likewise of outputs.
    """

    def __init__(self, text, shape, in_axes, out_axes):
        self.name, self._arguments = _parsed(text)
        self.shape = tuple(shape)
        pattern = {each.__name__: each for each in PATTERNS}[self.name]
        self.groups = pattern(_places(shape, in_axes, out_axes), **self._arguments)

    @property
    def units(self):
        return len(self.groups[0])

    @property
    def redistributes(self):
        """Whether updates move connections from group to group."""
        return self._arguments.get("ablation", 0) > 0

    def sums(self, scores):
        """Scores of units: sums over their weights, an array [groups, units]."""
        flat = np.ravel(scores)
        return np.array(
            [[sum(flat[place] for place in unit) for unit in g] for g in self.groups]
        )

    def present(self, mask):
        """Which units a mask has weights of, an array [groups, units]."""
        flat = np.ravel(mask)
        return np.array([[any(flat[unit]) for unit in group] for group in self.groups])

    def counts(self, mask):
        """How many units each group has."""
        return self.present(mask).sum(1)

    def is_whole(self, mask):
        """Whether no unit exists in part."""
        flat = np.ravel(mask)
        return all(len(set(flat[unit])) == 1 for unit in _chained(self.groups))

    def mask_of(self, chosen):
        """The mask of the chosen units, pairs of a group and a unit."""
        mask = np.zeros(math.prod(self.shape), bool)
        for group, unit in chosen:
            mask[self.groups[group][unit]] = True
        return mask.reshape(self.shape)

    def count_at(self, sparsity):
        """How many units of each group a new mask has."""
        if self.name == "n_of_m":
            return self._arguments["n" if sparsity else "m"]
        return max(1, round((1 - sparsity) * self.units))

    def pruned_count(self, sparsity):
        """How many units of a full group pruning leaves: see `pruning_reference`."""
        kept = np.float32(self.units) * (np.float32(1) - np.float32(sparsity))
        return max(int(np.rint(kept)), self._arguments.get("n", 1))

    def pruned(self, mask, scores, sparsity):
        """The mask after pruning, by the scores of weights."""
        scores, chosen = self.sums(scores), []
        for group, exist in enumerate(self.present(mask)):
            units = [(group, int(unit)) for unit in np.flatnonzero(exist)]
            chosen += _best(scores, units, self.pruned_count(sparsity))
        return self.mask_of(chosen)

    def updated(self, mask, drop_scores, grow_scores, *, fraction):
        """The mask after an update, by scores of units, arrays [groups, units]."""
        exist = _pairs(self.present(mask))
        absent = _pairs(~self.present(mask))
        replaced = int(np.floor(np.float32(len(exist)) * np.float32(fraction)))
        kept = _best(drop_scores, exist, len(exist) - replaced)
        counts = [int(count) for count in self.counts(mask)]
        if self.redistributes:
            salient = kept + _best(grow_scores, absent, replaced)
            counts = self._redistributed(counts, [group for group, _ in salient])
            kept = [(group, unit) for group, unit in kept if counts[group]]
        grown = []
        for group, count in enumerate(counts):
            missing = count - sum(one == group for one, _ in kept)
            others = [(group, unit) for unit in range(self.units)]
            others = [pair for pair in others if pair not in kept]
            grown += _best(grow_scores, others, missing)
        return self.mask_of(kept + grown)

    def _redistributed(self, counts, salient):
        """The counts once outputs with too few salient connections are off (SRigL)."""
        share, total = np.float32(self._arguments["ablation"]), sum(counts)
        on = [group for group, count in enumerate(counts) if count]
        strong, weak = [], []
        for group in on:
            enough = salient.count(group) >= share * np.float32(counts[group])
            (strong if enough else weak).append(group)
        weak.sort(key=lambda group: (-salient.count(group), group))
        while len(strong) < max(1, math.ceil(total / self.units)):
            strong.append(weak.pop(0))
        if not weak:
            return counts
        new = [0] * len(counts)
        larger_first = sorted(strong, key=lambda group: (-counts[group], group))
        for turn in range(total):
            new[larger_first[turn % len(strong)]] += 1
        return new


@functools.cache
def grouped(text, shape, in_axes, out_axes):
    return GroupedKernel(text, shape, in_axes, out_axes)


def _parsed(text):
    """The name of a pattern and its arguments by name."""
    name, _, arguments = text.partition("(")
    if not arguments:
        return name, {}
    names = {"blocks": ("inputs", "outputs", "balanced"), "n_of_m": ("n", "m")}
    values = eval(f"({arguments[:-1]},)")
    return name, dict(zip(names.get(name, ("ablation",)), values, strict=False))


def _places(shape, in_axes, out_axes):
    tap_axes = [a for a in range(len(shape)) if a not in (*in_axes, *out_axes)]
    flat = np.arange(math.prod(shape)).reshape(shape)

    def every(axes):
        """All positions on some axes, each a dict from axis to index."""
        ranges = [range(shape[axis]) for axis in axes]
        return [dict(zip(axes, at, strict=True)) for at in itertools.product(*ranges)]

    def place(tap, row, column):
        at = {**tap, **row, **column}
        return int(flat[tuple(at[axis] for axis in range(len(shape)))])

    return [
        [
            [place(tap, row, column) for column in every(out_axes)]
            for row in every(in_axes)
        ]
        for tap in every(tap_axes)
    ]


def _sizes(places):
    """The taps, and the numbers of inputs and outputs."""
    return range(len(places)), len(places[0]), len(places[0][0])


def _to(count):
    return range(count)


def _joined(places):
    return _chained(_chained(places))


def _chained(lists):
    return list(itertools.chain.from_iterable(lists))


def _pairs(units):
    """The group and unit of each True, group by group."""
    return [(int(group), int(unit)) for group, unit in np.argwhere(units)]


def _best(scores, units, count):
    """The units of the highest scores; of equal ones the lower index, NaN last."""

    def rank(pair):
        score = float(scores[pair])
        return (1, 0.0, pair) if math.isnan(score) else (0, -score, pair)

    return sorted(units, key=rank)[:count]
