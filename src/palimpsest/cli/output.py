"""What the commands have in common on the terminal."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from palimpsest.catalogue import Entry, record

WIDEST = 100  # prose in longer lines is hard to read

WORDS = {"held": "green", "weak": "cyan", "refuted": "red", "open": "yellow", "void": "magenta"}
STYLES = {**WORDS, "withdrawn": "bright_black"}


def terminal(widest: int = WIDEST) -> Console:
    """Where results go: stdout, as wide as the terminal is, within reason."""
    console = Console(highlight=False)
    console.width = min(console.width, widest)
    return console


def print_tables(console: Console, *tables: Table) -> None:
    """Prints tables of which nothing may be cut: where they are wider than the console, they go beyond its width."""
    narrow = console.width
    for table in tables:
        console.width = max(narrow, Measurement.get(console, console.options.update(max_width=10_000), table).maximum)
        console.print(table, crop=False)
    console.width = narrow


@contextmanager
def page(widest: int = WIDEST) -> Iterator[Console]:
    """The same, printed at the end of the block and without the spaces that rich fills lines up with."""
    console = terminal(widest)
    console.begin_capture()
    try:
        yield console
    finally:
        print(re.sub(r" +$", "", console.end_capture(), flags=re.MULTILINE), end="", flush=True)


def counted(counts: Mapping[str, int], *, zeros: bool = False) -> Text:
    """How many expectations got each word.

    >>> str(counted({"held": 3, "refuted": 0, "open": 1, "void": 0}))
    'held 3 · open 1'
    """
    shown = [word for word in STYLES if counts.get(word) or (zeros and word in WORDS)]
    return Text(" · ").join(Text(f"{word} {counts[word]}", style=STYLES[word]) for word in shown)


def standing(entry: Entry) -> Text:
    """What the evidence says about an entry, in a few words; nothing for a baseline."""
    if not entry.is_paper:
        return Text()
    result = record(entry)
    if not result:
        return Text("not measured yet", style="bright_black")
    if result["broken"]:
        return Text("broken record", style="red")
    said = counted(result["counts"]) or Text("nothing counted", style="bright_black")
    mark = {"changed": " · stale", "differs": " · differs"}.get(result["age"])
    return Text.assemble(said, (mark, "bright_black")) if mark else said


def number(value: float | str) -> str:
    """Three significant figures.

    >>> number(0.12345), number(-12.5), number("inf")
    ('0.123', '−12.5', '∞')
    """
    return f"{float(value):.3g}".replace("-", "−").replace("inf", "∞").replace("nan", "–")


def print_json(value: Any) -> None:
    """`value` as JSON that any reader takes: numbers that JSON lacks (NaN, infinity) become null."""
    print(json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value
