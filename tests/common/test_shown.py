import enum

import numpy as np
import pytest

from rigl_keras.common.shown import ShowsArguments, shown


class Base(ShowsArguments):
    def __init__(self, size, name="", *, rate=0.5, data=None, is_on=False):
        self.size, self._name, self.rate = size, name, rate
        self.data, self.is_on = data, is_on


class Other(Base):
    def __init__(self, extra=1, **options):
        super().__init__(**options)
        self.extra = extra


class Forgetful(Base):
    def __init__(self, lost, size):
        self.size = size


class Color(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    ("thing", "text"),
    [
        (Base(3), "Base(size=3, rate=0.5)"),
        (Base(0, "a", rate=0.0), "Base(size=0, name='a', rate=0.0)"),
        (Base(3, is_on=True), "Base(size=3, rate=0.5, is_on=True)"),
        (Base(3, data=np.ones((2, 4))), "data=<array of shape (2, 4)>)"),
        (Other(size=3), "Other(extra=1, size=3, rate=0.5)"),
        (Forgetful(5, 3), "Forgetful(size=3)"),
    ],
)
def test_arguments_are_shown(thing, text):
    assert repr(thing).endswith(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((np.ones(3), [1, "a"]), "(<array of shape (3,)>, [1, 'a'])"),
        (list(range(9)), "[0, 1, 2, 3, ... 5 more]"),
        (shown, "shown"),
        (lambda step: step, "<lambda>"),
        (Base, "Base"),
        (Color.RED, "<Color.RED: 1>"),
        ("x" * 500, "'" + "x" * 196 + "..."),
    ],
)
def test_values_are_short(value, text):
    assert shown(value) == text
