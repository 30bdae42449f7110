"""How far a run is: a live bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import current_process
from statistics import mean

LINE_SECONDS = 30.0


class TimeLeft:
    """How long the rest of some jobs will take, judged by those that are done: every kind by its own mean, and one of
    which nothing is known yet by the mean of all.

    >>> left = TimeLeft(training=3, scoring=2)
    >>> str(left)
    ''
    >>> left.done("training", 200.0)
    >>> left.done("training", 240.0)
    >>> str(left), left.seconds
    ('about 11 min left', 660.0)
    >>> left.done("scoring", 20.0)
    >>> str(left)
    'about 4 min left'
    """

    def __init__(self, **jobs: int) -> None:
        self.jobs = jobs
        self.taken: dict[str, list[float]] = {kind: [] for kind in jobs}

    def done(self, kind: str, seconds: float | None = None) -> None:
        """One job less, which took so long; None for one that was not necessary."""
        self.jobs[kind] -= 1
        if seconds is not None:
            self.taken[kind].append(seconds)

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """The block does one job."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.done(kind, time.monotonic() - started)

    @property
    def seconds(self) -> float:
        """NaN while no job has been done."""
        every = [seconds for taken in self.taken.values() for seconds in taken]
        if not every:
            return float("nan")
        return sum(n * mean(self.taken[kind] or every) for kind, n in self.jobs.items())

    def __str__(self) -> str:
        return f"about {duration(self.seconds)} left" if any(self.taken.values()) else ""


@contextmanager
def bar(
    show: bool | None, steps: int, start: int, main_process: bool, looked_at: Callable[[int], bool] = lambda step: False
) -> Iterator[Callable[[int, float], None]]:
    """A function `(step, loss)` that moves a bar, or writes a line; it does nothing where neither is wanted. It is
    called after every step, and with step 0 after the look before the first.

    Args:
        show: True for a bar, False for nothing; None for a bar where stderr is a terminal, and elsewhere, as in a log,
            a line every `LINE_SECONDS`. Worker processes never show anything.
        steps, start: the last step, and the one that the run starts after.
        main_process: whether this is the first of the processes that train together.
        looked_at: whether the model is evaluated after a step, which then takes longer than another.
    """
    if show is False or not main_process or current_process().name != "MainProcess":
        yield lambda step, loss: None
        return
    if show is None and not sys.stderr.isatty():
        yield _lines(steps, start, looked_at)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4g}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=5) as progress:
        task = progress.add_task("", total=steps, completed=start, loss=float("nan"))
        shown = 0.0

        def move(step: int, loss: float) -> None:
            nonlocal shown
            now = time.monotonic()
            if step == steps or now - shown > 0.1:  # a step may take less time than an update of the bar
                progress.update(task, completed=step, loss=loss)
                shown = now

        yield move


def _lines(steps: int, start: int, looked_at: Callable[[int], bool]) -> Callable[[int, float], None]:
    before = told = time.monotonic()
    looks = sum(map(looked_at, range(start + 1, steps + 1)))
    left = TimeLeft(step=steps - start - looks, look=looks + (start == 0))

    def tell(step: int, loss: float) -> None:
        nonlocal before, told
        now = time.monotonic()
        left.done("look" if looked_at(step) else "step", now - before)
        before = now
        if step and now - told >= LINE_SECONDS:
            rest = f", {left}" if step < steps else ""
            print(f"step {step} of {steps}, loss {loss:.4g}{rest}", file=sys.stderr, flush=True)
            told = now

    return tell


def duration(seconds: float) -> str:
    """A time as people say it.

    >>> duration(8), duration(130), duration(7000)
    ('8 s', '2 min', '1 h 57 min')
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
