"""How much memory a piece of code needs at its worst moment, counted by the profiler."""

from __future__ import annotations

import os
from collections.abc import Callable

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


def peak_memory(step: Callable[[], object]) -> int:
    """The most bytes of tensors on the CPU that live at once among those allocated during the step.

    What lived before does not count, and what it frees of that is taken off. Counts tensors, not Python, and is exact
    and the same on every run. The first run of a step may allocate what later ones reuse: run it once before.

    >>> peak_memory(lambda: torch.zeros(1000) + torch.zeros(1000))
    12000
    """
    # Some versions of PyTorch report on stderr that they profile, unless told not to before the first time.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, record_shapes=False) as trace:
        step()
    live = peak = 0
    for event in sorted(trace.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]" and event.device_type() == DeviceType.CPU:
            live += event.nbytes()
            peak = max(peak, live)
    return peak
