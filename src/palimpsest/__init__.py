"""Palimpsest: decide what a neural network learns, keeps and forgets, and prove that it did.

    from palimpsest import apply, compare, compare_models, score

`apply` runs a method of any shape on a model; `compare` and `score` are the families' commands as functions;
`compare_models` is `palimpsest compare`, two models on the same items.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

__version__ = version("palimpsest")

_VERBS = {
    "apply": "palimpsest.train.method",
    "compare": "palimpsest.benches.verbs",
    "compare_models": "palimpsest.benches.two_models",
    "score": "palimpsest.benches.verbs",
}
__all__ = [*_VERBS]


def __getattr__(name: str) -> Any:
    if name not in _VERBS:
        raise AttributeError(f"module 'palimpsest' has no attribute {name!r}")
    from importlib import import_module  # late, as all that takes its time

    return getattr(import_module(_VERBS[name]), name)
