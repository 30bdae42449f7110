"""What the commands have in common on the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

WIDEST = 100  # prose in longer lines is hard to read

WORDS = {"held": "green", "refuted": "red", "open": "yellow", "void": "magenta"}


def terminal(widest: int = WIDEST) -> Console:
    """Where results go: stdout, as wide as the terminal is, within reason."""
    console = Console(highlight=False)
    console.width = min(console.width, widest)
    return console


def counted(counts: Mapping[str, int] | None) -> Text:
    """How many expectations got each word, those that none got left out.

    >>> str(counted({"held": 3, "refuted": 0, "open": 1, "void": 0}))
    '3 held · 1 open'
    """
    if counts is None:
        return Text("not measured yet", style="bright_black")
    return Text(" · ").join(Text(f"{n} {word}", style=WORDS[word]) for word, n in counts.items() if n)


def number(value: float | str) -> str:
    """Three significant figures.

    >>> number(0.12345), number(-12.5), number(float("inf"))
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
