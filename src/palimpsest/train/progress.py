"""A live bar on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import current_process


@contextmanager
def bar(show: bool | None, steps: int, start: int, main_process: bool) -> Iterator[Callable[[int, float], None]]:
    """A function `(step, loss)` that moves a bar; it does nothing where no bar is shown.

    Args:
        show: True, False, or None for "where stderr is a terminal". Worker processes never show one.
        steps, start: the last step, and the one that the run starts after.
        main_process: whether this is the first of the processes that train together.
    """
    if show is None:
        show = sys.stderr.isatty()
    if not (show and main_process and current_process().name == "MainProcess"):
        yield lambda step, loss: None
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
