"""Which documentation of Python is installed: what `palimpsest.tasks.text` is made from differs between versions."""

from __future__ import annotations

import hashlib
import json


def digest() -> str:
    """SHA-256 over all topics that `pydoc` prints, by name: equal where the text is.

    >>> len(digest())
    64
    """
    from pydoc_data.topics import topics

    return hashlib.sha256(json.dumps(topics, sort_keys=True).encode()).hexdigest()
