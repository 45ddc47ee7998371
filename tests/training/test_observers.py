"""Who is called around a mask update, when, and with which step."""

import numpy as np
import pytest
import tiny

import rigl_keras
from rigl_keras.training.observers import observers

LAST_STEP = 4  # of `tiny.fit`


class Observer(rigl_keras.MaskUpdateObserver):
    """Writes into a list: its name, what is called, the step, the masks."""

    def __init__(self, calls, name="observer"):
        super().__init__()
        self._calls, self._name = calls, name

    def on_mask_update_begin(self, step):
        self._note("begin", step)

    def on_mask_update_end(self, step):
        self._note("end", step)

    def _note(self, what, step):
        self._calls.append((self._name, what, step, rigl_keras.get_masks(self.model)))


class StopError(Exception):
    pass


def without_masks(calls):
    return [call[:-1] for call in calls]


def around(*steps, names=("observer",)):
    """The calls of updates at these steps."""
    return [
        (name, what, step)
        for step in steps
        for what in ("begin", "end")
        for name in names
    ]


def pruning(frequency=1):
    """Steps are counted from 1; those from 2 on are marked."""
    schedule = rigl_keras.schedules.polynomial_decay(
        0.6, 0.9, begin_step=2, end_step=8, frequency=frequency
    )
    return rigl_keras.Pruning(schedule)


def broken_off(model, *callbacks):
    def fail(model):
        raise StopError

    with pytest.raises(StopError):
        tiny.fit(model, *callbacks, tiny.EveryStep(fail))


def assert_masks_change_between(calls, first, last):
    """Only between a begin and its end do masks change."""
    masks = [first, *(call[-1] for call in calls), last]
    for before, after in zip(masks[::2], masks[1::2], strict=True):
        tiny.assert_same_masks(before, after)
    for begin, end in zip(calls[::2], calls[1::2], strict=True):
        assert any((begin[-1][path] != end[-1][path]).any() for path in first)


@pytest.mark.parametrize(
    ("callback", "comes_first"),
    [
        (rigl_keras.SET, True),
        (rigl_keras.SET, False),
        (rigl_keras.RigL, True),
        (rigl_keras.RigLInverted, False),
        (rigl_keras.SNFS, True),
    ],
)
def test_begin_and_end_enclose_the_change(callback, comes_first):
    calls, model = [], tiny.sparse_mlp()
    callbacks = [tiny.forever(callback, 2), Observer(calls)]
    first = rigl_keras.get_masks(model)
    tiny.fit(model, *(callbacks[::-1] if comes_first else callbacks))
    assert without_masks(calls) == around(2, 4)
    assert_masks_change_between(calls, first, rigl_keras.get_masks(model))


@tiny.too_short
@pytest.mark.parametrize("comes_first", [True, False])
def test_pruning_belongs_to_the_step_that_begins_with_it(comes_first):
    """The optimizer has then made one step less."""
    calls, iterations, model = [], [], tiny.sparse_mlp()

    class Iterations(rigl_keras.MaskUpdateObserver):
        def on_mask_update_end(self, step):
            iterations.append(int(self.model.optimizer.iterations.numpy()))

    callbacks = [pruning(), Observer(calls), Iterations()]
    first = rigl_keras.get_masks(model)
    tiny.fit(model, *(callbacks[::-1] if comes_first else callbacks))
    assert without_masks(calls) == around(2, 3, 4)
    assert iterations == [1, 2, 3]
    assert_masks_change_between(calls, first, rigl_keras.get_masks(model))


def test_several_steps_in_one_execution():
    calls = []
    model = tiny.sparse_mlp(steps_per_execution=2)
    tiny.fit(model, Observer(calls), tiny.forever(rigl_keras.RigL, 2))
    assert without_masks(calls) == around(2, LAST_STEP)


def test_observers_are_called_in_the_order_of_the_callbacks():
    calls, model = [], tiny.sparse_mlp()
    one, other = Observer(calls, "one"), Observer(calls, "other")
    update = tiny.forever(every=4)
    tiny.fit(model, other, update, one)
    assert without_masks(calls) == around(4, names=("other", "one"))
    calls.clear()
    tiny.fit(model, one, other, update)
    assert without_masks(calls) == around(8, names=("one", "other"))


def test_masks_that_stay_call_nobody():
    calls = []
    tiny.fit(tiny.sparse_mlp(), Observer(calls), rigl_keras.Static())
    assert calls == []


def test_who_takes_part_in_the_second_fit():
    calls, model = [], tiny.sparse_mlp()
    stays, leaves = Observer(calls, "stays"), Observer(calls, "leaves")
    update = tiny.forever(every=2)
    tiny.fit(model, leaves, update, stays)
    assert observers(model) == []
    calls.clear()
    tiny.fit(model, update, stays)
    assert without_masks(calls) == around(6, 8, names=("stays",))


def test_an_observer_of_another_model_is_not_called():
    calls, model, other = [], tiny.sparse_mlp(), tiny.sparse_mlp()

    def train_other(_):
        tiny.fit(other, tiny.forever())

    callbacks = tiny.forever(), Observer(calls), tiny.EveryStep(train_other)
    tiny.fit(model, *callbacks, batch_size=32)
    assert without_masks(calls) == around(1)


def test_the_observer_of_a_training_that_broke_off_is_not_called_in_the_next():
    calls, model = [], tiny.sparse_mlp()
    broken_off(model, Observer(calls), tiny.forever())
    assert without_masks(calls) == around(1)
    calls.clear()
    tiny.fit(model, tiny.forever())
    assert calls == []


def test_nor_is_it_beside_another():
    calls, model = [], tiny.sparse_mlp()
    broken_off(model, Observer(calls, "old"), tiny.forever())
    calls.clear()
    tiny.fit(model, Observer(calls, "new"), tiny.forever(every=2))
    assert without_masks(calls) == around(2, 4, names=("new",))
    assert observers(model) == []


def test_an_observer_goes_on_after_its_training_broke_off():
    calls, model = [], tiny.sparse_mlp()
    observer = Observer(calls)
    broken_off(model, observer, tiny.forever())
    calls.clear()
    tiny.fit(model, tiny.forever(), observer)
    assert without_masks(calls) == around(2, 3, 4, 5)


def test_an_update_that_is_not_made_begins_and_does_not_end():
    calls, model = [], tiny.sparse_mlp()
    healthy = model.get_weights()
    kernel = rigl_keras.sparse_kernels(model)[0].kernel
    kernel.assign(np.full(tuple(kernel.shape), np.nan))
    with pytest.warns(UserWarning, match="no mask update"):
        tiny.fit(model, Observer(calls), tiny.forever(every=2))
    assert without_masks(calls) == [("observer", "begin", s) for s in (2, 4)]
    calls.clear()
    model.set_weights(healthy)
    tiny.compiled(model)  # The optimizer may hold NaN.
    tiny.fit(model, Observer(calls), tiny.forever(every=2))
    assert without_masks(calls) == around(2, 4)
