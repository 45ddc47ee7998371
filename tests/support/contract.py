"""The contract of sparse training: algorithms, ways to train, and what holds for all.

A new algorithm is one line of `ALGORITHMS`, another way to train one of `WAYS`, another
pattern of masks one of `PATTERNS`.
"""

import functools
import os
from typing import Any, NamedTuple

import histories
import model_checks
import numpy as np
import own_pattern
import pruning_reference
import tensorflow as tf
import tiny
from golden import exact_net, wide_net
from histories import BATCH, STEPS, X, Y, of_kind
from pattern_reference import grouped

import rigl_keras

EVERY, FRACTION = 2, 0.4  # of mask updates


# The algorithms, and what each is to do with the masks


class Algorithm(NamedTuple):
    """How to train by it, and what becomes of the masks.

    Attributes:
      callback: makes the callback that trains, from the final sparsity.
      changes: the steps after which the masks are others than before; None for those
        after which there are fewer connections.
      sparsity_at: the sparsity after a step, from the final one and the step; None
        where every group keeps its connections.
      sparsity: the model's at the start.
      start: what is done before training, from the model and the final sparsity.
    """

    callback: Any
    changes: tuple | None = ()
    sparsity_at: Any = None
    sparsity: float = 0.5
    start: Any = lambda model, final: None


def evolving(updater):
    """The algorithm that replaces connections as an updater says."""
    callback = functools.partial(rigl_keras.MaskUpdates, exact(updater))
    return Algorithm(updates(callback), changes=(2, 4))


def updates(callback, **options):
    return lambda final: callback(
        update_freq=EVERY,
        drop_fraction=FRACTION,
        schedule="constant",
        last_update_step=-1,
        **options,
    )


def exact(updater):
    """An updater whose moving average, where it has one, is one of exact sums."""
    if not updater.gradient_decay:
        return updater
    own = {"gradient_decay": 0.5, "suits_xla": updater.suits_xla}
    return type(f"Exact{updater.__name__}", (updater,), own)


def pruning(final):
    schedule = rigl_keras.schedules.polynomial_decay(0.0, final, 1, STEPS, frequency=1)
    return rigl_keras.Pruning(schedule)


def sparsity_of_pruning(final, step):
    return pruning_reference.decay(step, 0.0, final, 1, STEPS)


def pruned_once(criterion):
    """The algorithm that prunes before the training, and not in it."""

    def prune(model, final):
        batch = X[:BATCH], Y[:BATCH]
        rigl_keras.prune_once(model, criterion, final, batch, ranking="layer")

    return Algorithm(
        static, sparsity_at=lambda final, step: final, sparsity=0.0, start=prune
    )


def static(final):
    return rigl_keras.Static()


UPDATERS = rigl_keras.mask_updaters.ALGORITHMS
ALGORITHMS = {
    **{name: evolving(updater) for name, updater in UPDATERS.items()},
    "rigl, grow_data": Algorithm(
        updates(rigl_keras.RigL, grow_data=(X[:BATCH], Y[:BATCH])), changes=(2, 4)
    ),
    "static": Algorithm(static),
    "pruning": Algorithm(pruning, None, sparsity_of_pruning, sparsity=0.0),
}
PRUNERS = rigl_keras.mask_updaters.PRUNERS
ONE_SHOT = {name: pruned_once(name) for name in PRUNERS}
# The final sparsity of pruning by each.
PATTERNS = {
    "unstructured": 0.9,
    "blocks(4, 1)": 0.9,
    "blocks(2, 2, 'inputs')": 0.9,
    "blocks(4, 1, 'inputs')": 0.9,
    "blocks(1, 4, 'outputs')": 0.9,
    "blocks('all', 1)": 0.9,
    "n_of_m(2, 4)": 0.5,
    "constant_fan_in": 0.9,
    "constant_fan_in(0.3)": 0.9,
    own_pattern.Woven.name: 0.9,
}


# The ways to train. Each returns a trained model and its history, a list of snapshots:
# one of the start and one of each step.


def made(algorithm, pattern, *, strategy=None, seed=3, storage="masked", **compiling):
    """A compiled model, its callback, and a snapshot of the start."""
    strategy = strategy or tf.distribute.get_strategy()
    net = exact_net if pattern == "unstructured" else wide_net
    final = PATTERNS[pattern]
    with strategy.scope():
        model = net(algorithm.sparsity, seed, pattern=pattern, storage=storage)
        tiny.compiled(model, histories.sgd(), **compiling)
    algorithm.start(model, final)
    history = [histories.snapshot(model, model.optimizer)]
    return model, algorithm.callback(final), history


def by_fit(algorithm, pattern, folder, *, strategy=None, **options):
    strategy = strategy and strategy()
    model, callback, history = made(algorithm, pattern, strategy=strategy, **options)
    histories.fit(model, callback, history)
    if strategy:
        assert_replicas_agree(model)
    return model, history


def resumed(algorithm, pattern, folder, **options):
    """Half of the steps, and the others by a model that goes on from a checkpoint."""
    half = STEPS // 2
    model, callback, history = made(algorithm, pattern, **options)
    histories.fit(model, callback, history, last=half)
    path = checkpoint(model, callback).save(os.path.join(folder, "ckpt"))

    model, callback, _ = made(algorithm, pattern, seed=7, **options)
    callback.prepare(model)
    status = checkpoint(model, callback).restore(path)
    status.assert_existing_objects_matched()
    assert_same(histories.snapshot(model, model.optimizer), history[-1])
    histories.fit(model, callback, history, first=half)
    return model, history


def checkpoint(model, callback):
    return histories.checkpoint(model, model.optimizer, callback)


def by_loop(algorithm, pattern, folder, *, strategy=None, **options):
    """A loop of one's own, whose step applies gradients."""
    strategy = strategy and strategy()
    model, callback, history = made(algorithm, pattern, strategy=strategy, **options)
    for _ in histories.loop(model, model.optimizer, callback):
        history.append(histories.snapshot(model, model.optimizer))
    if strategy:
        assert_replicas_agree(model)
    return model, history


WAYS = {
    "plain": by_fit,
    "XLA": functools.partial(by_fit, jit_compile=True),
    "two replicas": functools.partial(by_fit, strategy=tiny.two_replicas),
    "resumed": resumed,
    "own loop": by_loop,
    "own loop, two replicas": functools.partial(by_loop, strategy=tiny.two_replicas),
}
# The same, of kernels that are stored without their zeros where they can be. Those have
# the one pattern, and algorithms that need dense kernels refuse them.
COMPRESSED = {
    f"compressed, {name}": functools.partial(train, storage="compressed")
    for name, train in WAYS.items()
}
COMPRESSED_PATTERN = "blocks(4, 1, 'inputs')"
REFUSED = ("snfs", "pruning")


@functools.cache
def plain(algorithm, pattern, storage="masked"):
    """The history that the other ways are compared with."""
    return by_fit(ALL[algorithm], pattern, folder=None, storage=storage)


ALL = ALGORITHMS | ONE_SHOT


# The contract


def assert_contract(algorithm, history, pattern):
    """What holds at every step of every training."""
    assert len(history) == STEPS + 1
    changes, fewer = [], []
    for step, snapshot in enumerate(history):
        masks = of_kind(snapshot, "mask")
        assert_units(algorithm, history, pattern, step)
        assert_new_off_masks(snapshot, masks, step)
        if step == 0:
            continue
        before = of_kind(history[step - 1], "mask")
        if any((mask != before[path]).any() for path, mask in masks.items()):
            changes.append(step)
        if any(mask.sum() < before[path].sum() for path, mask in masks.items()):
            fewer.append(step)
        assert_grown_are_new(snapshot, before, masks, step)
    expected = fewer if algorithm.changes is None else list(algorithm.changes)
    assert changes == expected, "steps at which the masks change"


def assert_units(algorithm, history, pattern, step):
    """Units exist whole, and each group has as many as it is to have."""
    first, masks = (of_kind(history[each], "mask") for each in (0, step))
    for path, mask in masks.items():
        rank = mask.ndim
        kernel = grouped(pattern, mask.shape, (rank - 2,), (rank - 1,))
        where = f"of {path} after step {step}"
        assert kernel.is_whole(mask), f"units {where}"
        counts, expected = kernel.counts(mask), kernel.counts(first[path])
        if algorithm.sparsity_at is not None:
            sparsity = algorithm.sparsity_at(PATTERNS[pattern], step)
            expected = np.full_like(expected, kernel.pruned_count(sparsity))
        elif kernel.redistributes:
            on = counts[counts > 0]
            assert np.ptp(on) <= 1, f"connections of outputs {where}"
            counts, expected = counts.sum(), expected.sum()
        np.testing.assert_array_equal(counts, expected, f"connections {where}")


def assert_new_off_masks(snapshot, masks, step):
    """Weights and momentum are exactly 0 there."""
    has_slots = of_kind(snapshot, "slot0").keys() == masks.keys()
    assert has_slots or step == 0, f"slots after step {step}"
    for kind in ("kernel", "slot0"):
        for path, array in of_kind(snapshot, kind).items():
            assert np.isfinite(array).all(), f"{kind} of {path} after step {step}"
            off = array[~masks[path]]
            assert (off == 0).all(), f"{kind} of {path} off the mask after step {step}"


def assert_grown_are_new(snapshot, before, masks, step):
    for kind in ("kernel", "slot0"):
        for path, array in of_kind(snapshot, kind).items():
            grown = array[masks[path] & ~before[path]]
            assert (grown == 0).all(), f"grown {kind} of {path} after step {step}"


def assert_replicas_agree(model):
    for kernel in rigl_keras.sparse_kernels(model):
        for variable in (kernel.variable, *kernel.index_variables):
            one, other = (part.numpy() for part in tiny.raw(variable).values)
            np.testing.assert_array_equal(one, other, err_msg=kernel.path)


def assert_same(left, right):
    """That two snapshots are equal bit for bit."""
    assert left.keys() == right.keys()
    for key, array in left.items():
        np.testing.assert_array_equal(array, right[key], err_msg=key)


def assert_as_plain(history, expected, is_exact):
    """That a history is the plain one: bit for bit, or but for rounded weights."""
    for one, other in zip(history, expected, strict=True):
        assert_same(of_kind(one, "mask"), of_kind(other, "mask"))
        if is_exact:
            assert_same(one, other)
        for key, array in other.items():
            np.testing.assert_allclose(one[key], array, 1e-5, 1e-6, err_msg=key)


def check(name, way, pattern, folder):
    """Trains by an algorithm in a way; checks all that is to hold."""
    ways = WAYS | COMPRESSED
    train = functools.partial(ways[way], ALL[name], pattern, folder)
    model, history = plain(name, pattern) if way == "plain" else train()
    assert_contract(ALL[name], history, pattern)
    if way.endswith("resumed"):
        storage = "masked" if way in WAYS else "compressed"
        expected = plain(name, pattern, storage)[1]
        assert_as_plain(history, expected, is_exact=True)
    assert_as_plain(history, plain(name, pattern)[1], is_exact=False)
    model_checks.check_file(model, folder, X)
    plain_model = model_checks.check_stripping(model, X)
    model_checks.check_file(plain_model, folder, X)
