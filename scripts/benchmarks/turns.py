"""Taking turns, and what the times say: medians, ratios and how sure they are.

On a machine with other work, times drift by more than what is to be found out. So
contestants take turns, each time is compared with that of the same round, and a median
has an interval.
"""

import math
import statistics
import time
from typing import NamedTuple


class Estimate(NamedTuple):
    """A median and an interval that holds the true one with a confidence of 95 %.

    Attributes:
      median: of the values.
      low: the interval's lower end.
      high: its upper end.
    """

    median: float
    low: float
    high: float

    def meets(self, limit):
        """One of "met", "missed", and "undecided": the limit lies in the interval."""
        if self.high <= limit:
            return "met"
        return "missed" if self.low > limit else "undecided"


def estimate(values):
    """The `Estimate` of a list of values.

    The interval goes from one of the sorted values to another, whatever their
    distribution is; of fewer than six values, the confidence of all together is less
    than 95 %: 1 - 2 ** (1 - n).
    """
    values, outside = sorted(values), 0
    n = len(values)
    # How many values may be left out on each side, by a binomial distribution's tails.
    while 2 * sum(math.comb(n, i) for i in range(outside + 1)) <= 0.05 * 2**n:
        outside += 1
    first = max(0, outside - 1)
    return Estimate(statistics.median(values), values[first], values[-1 - first])


def ratios(times, base):
    """The `Estimate` of one contestant's times over another's, round by round."""
    return estimate([one / other for one, other in zip(times, base, strict=True)])


def take_turns(contestants, rounds):
    """Has contestants act in turn; who begins changes from round to round.

    Args:
      contestants: dict from names to functions without arguments.
      rounds: int >= 1.

    Returns:
      A dict from names to lists of what the functions return, round by round.
    """
    names = list(contestants)
    found = {name: [] for name in names}
    for index in range(rounds):
        first = index % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(contestants[name]())
    return found


def seconds(function):
    """How long a call takes, by the clock on the wall."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began
