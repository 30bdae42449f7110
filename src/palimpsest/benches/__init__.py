"""The comparisons: a method on a world's data, trained and measured beside tuned baselines, a floor and a ceiling.

A claim brings a method and its sentences; all else is its bench's. `palimpsest.benches.bench` and
`palimpsest.benches.arm` have the parts, the others are benches: `from palimpsest.benches.glyphs import GLYPHS`.
"""

from __future__ import annotations

from palimpsest.lazy import front_door

_ROOMS: dict[str, tuple[str, ...]] = {
    "arm": ("Arm", "Drawn", "Level", "Recipe"),
    "bench": ("Bench", "Measure"),
}

__getattr__, __dir__, __all__ = front_door(__name__, _ROOMS)
