"""Taking turns, and what the times say: medians, ratios and how sure they are.

On a machine with other work, times drift by more than the differences to be measured.
So contestants take turns, each time is compared with that of the same round, and every
median has an interval.
"""

import math
import random
import statistics
import time
from typing import NamedTuple


class Estimate(NamedTuple):
    """A median and an interval that holds the true one with a confidence of 95 %.

    Attributes:
      median: of the values.
      low: the interval's lower end.
      high: its upper end.
      rounds: how many values there were.
    """

    median: float
    low: float
    high: float
    rounds: int


def estimate(values):
    """The `Estimate` of a list of values.

    The interval goes from one of the sorted values to another. It holds for independent
    values of any distribution; of n < 6 values, from the least to the greatest, with a
    confidence of 1 - 2 ** (1 - n) only.
    """
    values, outside = sorted(values), 0
    n = len(values)
    # How many values may be left out on each side, by a binomial distribution's tails.
    while 2 * sum(math.comb(n, i) for i in range(outside + 1)) <= 0.05 * 2**n:
        outside += 1
    first = max(0, outside - 1)
    return Estimate(statistics.median(values), values[first], values[-1 - first], n)


def ratios(times, base):
    """The `Estimate` of one contestant's times over another's, round by round."""
    return estimate([one / other for one, other in zip(times, base, strict=True)])


def take_turns(contestants, rounds):
    """Has contestants act in turn, in another order in every round.

    So that none always follows the same other one, whose traces it would find.

    Args:
      contestants: dict from names to functions without arguments.
      rounds: int >= 1.

    Returns:
      A dict from names to lists of what the functions return, round by round.
    """
    results = {name: [] for name in contestants}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(contestants), len(contestants)):
            results[name].append(contestants[name]())
    return results


def timed(function):
    """A function that calls this one and returns its seconds: "wall" and "cpu" time.

    CPU time is that of all threads, added up.
    """

    def call():
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        return {
            "wall": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
        }

    return call


def by_clock(results):
    """Results of `take_turns` that are dicts, by the keys of these dicts first.

    Returns:
      A dict from keys, such as "wall", to dicts from names to lists of values.
    """
    keys = next(iter(results.values()))[0]
    return {
        key: {name: [turn[key] for turn in turns] for name, turns in results.items()}
        for key in keys
    }
