"""Which names a module imports: the core dependencies' modules as users, the names they import as items.

Real interactions without a download: a file that begins with `import torch` and `from torch import nn` takes `torch`
and `torch.nn`, and what else it takes can be guessed from other files, as what a customer buys from other customers'.
Some names are in every third file (`torch`), most in few; modules of one package, and of one kind in it, are alike.

The rule: of every module that `palimpsest.tasks.docstrings.sources` gives, what its import statements ask for before
its first function or class, also within `if` and `try`, each as one dotted name (relative ones made absolute, a star
left out). Then, until nothing changes: a name stays while at least 5 modules take it, a module while it takes at least
4 such names, and of modules that take just the same the first by name. That leaves about 2,000 modules, 1,000 names and
21,000 interactions, one pair in a hundred; they differ between versions of the packages, and `digest` says which they
are.

On seeds 0 to 4, nDCG@20 among all names is 0.15 by popularity, 0.40 by a tuned BPR factorisation of 64 dimensions, and
0.45 by EASE (Steck 2019): `palimpsest bench imports`.
"""

from __future__ import annotations

import ast
import hashlib
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import takewhile

import torch

from palimpsest.tasks.docstrings import sources
from palimpsest.tasks.interactions import NEGATIVES, Interactions, Recommendation, recommendation

MODULES, NAMES = 5, 4
"""how many modules take a name that stays, and how many names a module that stays"""

_DEFINITION = re.compile(rb"^(?:(?:class|def|async)\b|@)", re.MULTILINE)
_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def imports(seed: int, *, negatives: int = NEGATIVES) -> Recommendation:
    """Modules and the names they import, split for a seed by `palimpsest.tasks.interactions.recommendation`.

    Args:
        seed: 0 to 999,999.
        negatives: names that a held-out interaction gets and its module does not import.

    Example:
        >>> task = imports(100)
        >>> len(task.test) > 500, tuple(task.test.negatives[:5].shape)
        (True, (5, 100))
        >>> int(task.popularity[task.items.index("torch")]) > 100
        True
    """
    taken = _pool()
    items = tuple(sorted({name for names in taken.values() for name in names}))
    number = {name: place for place, name in enumerate(items)}
    pairs = [(user, number[name]) for user, names in enumerate(taken.values()) for name in names]
    user, item = torch.tensor(pairs).T
    return recommendation(Interactions(user, item), tuple(taken), items, seed, negatives=negatives)


@cache
def digest() -> str:
    """SHA-256 over all modules and the names they take, in order: equal where the pool is."""
    lines = (" ".join([module, *names]) for module, names in _pool().items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def imported(source: bytes, package: Sequence[str]) -> set[str]:
    """The dotted names that a source file imports before its first function or class.

    Args:
        source: the file's text.
        package: the package that it is in, from which relative imports count, as its parts.

    Raises:
        SyntaxError: it is not Python.

    >>> source = b"import numpy as np\\nfrom ..nn import Linear, ReLU\\ndef tree(): import ast"
    >>> sorted(imported(source, ("torch", "optim")))
    ['numpy', 'torch.nn.Linear', 'torch.nn.ReLU']
    """
    # To parse the head alone is ten times as fast. It is no Python where the word that cuts it off stood in a string.
    first = _DEFINITION.search(source)
    try:
        tree = ast.parse(source[: first.start()] if first else source)
    except SyntaxError:
        tree = ast.parse(source)
    found: set[str] = set()
    for each in _statements(takewhile(lambda each: not isinstance(each, _DEFINITIONS), tree.body)):
        if isinstance(each, ast.Import):
            found.update(alias.name for alias in each.names)
        elif isinstance(each, ast.ImportFrom):
            start = package[: len(package) - each.level + 1] if each.level else ()
            module = [*start, *filter(None, [each.module])]
            found.update(".".join([*module, alias.name]) for alias in each.names if alias.name != "*")
    return found


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """These and those within them, but for functions and classes."""
    for each in body:
        if not isinstance(each, _DEFINITIONS):
            yield each
            for part in ("body", "orelse", "handlers", "finalbody"):
                yield from _statements(getattr(each, part, ()))


@cache
def _pool() -> dict[str, tuple[str, ...]]:
    """What every module takes."""
    taken: dict[str, frozenset[str]] = {}
    for _, module, path in sources():
        parts = module.split(".")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that a later Python refuses
            try:
                names = imported(path.read_bytes(), parts if path.stem == "__init__" else parts[:-1])
            except (SyntaxError, ValueError):  # written for a later Python, or no text
                continue
        taken[module] = frozenset(names)
    kept: dict[str, frozenset[str]] = {}
    while taken != kept:
        kept, taken, seen = taken, {}, set()
        counts = Counter(name for names in kept.values() for name in names)
        for module in sorted(kept):
            names = frozenset(name for name in kept[module] if counts[name] >= MODULES)
            if len(names) >= NAMES and names not in seen:
                seen.add(names)
                taken[module] = names
    return {module: tuple(sorted(names)) for module, names in taken.items()}
