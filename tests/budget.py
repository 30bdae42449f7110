"""A test takes at most 2 processor seconds, or is marked `slow` and takes at most 20.

Processor time is nearly the same on a busy machine: that of the test's process, with all threads, and of the processes
that it started and waited for. What a fixture takes that several tests share is no test's own, and not counted.
"""

from __future__ import annotations

import os

import pytest

SECONDS, SLOW = 2.0, 20.0
NOISE = 5  # a processor is slower while others share its caches, or is a slower one


def spent() -> float:
    """Processor seconds of this process and of those it waited for."""
    return sum(os.times()[:4])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    limit = SLOW if item.get_closest_marker("slow") else SECONDS
    before = spent()
    result = yield
    if (seconds := spent() - before) > NOISE * limit:
        pytest.fail(f"took {seconds:.1f} processor seconds, {limit:g} are meant: make it faster, or mark it slow")
    return result


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"slow: takes more than {SECONDS:g} processor seconds")
