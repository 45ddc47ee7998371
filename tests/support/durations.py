"""pytest plugin: a test that takes long without saying so fails.

Seconds are those of the CPU, of this process and of the processes that the test started
and waited for: on a busy machine they grow far less than those of the clock. Only the
call of a test counts, not its fixtures.
"""

import os

import pytest

# CPU seconds. A machine whose cores are shared counts up to 1.5 times as many.
LIMIT = 8.0
MARKS = ("slow", "release")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Fails a test that has passed but took too long."""
    start = _cpu_seconds()
    result = yield
    seconds = _cpu_seconds() - start
    if seconds > LIMIT and not any(item.get_closest_marker(name) for name in MARKS):
        pytest.fail(
            f"This test passed but took {seconds:.1f} CPU seconds, more than {LIMIT:g}."
            " Make it smaller. Or mark it: `slow` if CI must run it every time, "
            "`release` if it is enough to run it before a release.",
            pytrace=False,
        )
    return result


def _cpu_seconds():
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
