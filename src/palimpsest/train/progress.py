"""How far a run is: a live bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import current_process

LINE_SECONDS = 30.0


@contextmanager
def bar(show: bool | None, steps: int, start: int, main_process: bool) -> Iterator[Callable[[int, float], None]]:
    """A function `(step, loss)` that moves a bar, or writes a line; it does nothing where neither is wanted.

    Args:
        show: True for a bar, False for nothing; None for a bar where stderr is a terminal, and elsewhere, as in a log,
            a line every `LINE_SECONDS`. Worker processes never show anything.
        steps, start: the last step, and the one that the run starts after.
        main_process: whether this is the first of the processes that train together.
    """
    if show is False or not main_process or current_process().name != "MainProcess":
        yield lambda step, loss: None
        return
    if show is None and not sys.stderr.isatty():
        yield _lines(steps, start)
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


def _lines(steps: int, start: int) -> Callable[[int, float], None]:
    began = told = time.monotonic()

    def tell(step: int, loss: float) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= LINE_SECONDS:
            left = (now - began) / (step - start) * (steps - step)
            print(f"step {step} of {steps}, loss {loss:.4g}, {duration(left)} left", file=sys.stderr, flush=True)
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
