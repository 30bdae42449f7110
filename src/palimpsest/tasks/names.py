"""Names of things that do not exist."""

from __future__ import annotations

import random
from collections.abc import Iterator


def made_up_names(rng: random.Random) -> Iterator[str]:
    """Different pronounceable names of six letters, without end.

    >>> names = made_up_names(random.Random(0))
    >>> len({next(names) for _ in range(1000)})
    1000
    """
    seen = set()
    while True:
        name = "".join(rng.choice(letters) for letters in ("bdfgklmnprst", "aeiou") * 3).capitalize()
        if name not in seen:
            seen.add(name)
            yield name
