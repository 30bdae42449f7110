"""A package's front door: names that can be imported from it, each loaded from its module with its first use.

And a table of values that are made like that.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any


def front_door(
    package: str, rooms: Mapping[str, Iterable[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """A package's `__getattr__`, `__dir__` and `__all__`, for names that stand in its modules.

    Args:
        package: its `__name__`.
        rooms: module of the package -> the names that are imported from it. Kept there as a literal `_ROOMS`, which
            says to a reader of the source, too, where a name stands. No name may be that of a module of the package:
            importing the module from anywhere would take the name.

    >>> getattr_, dir_, all_ = front_door("palimpsest.losses", {"divergence": ("kl_divergence",)})
    >>> getattr_("kl_divergence").__module__, all_
    ('palimpsest.losses.divergence', ['kl_divergence'])
    >>> getattr_("kl")
    Traceback (most recent call last):
    AttributeError: module 'palimpsest.losses' has no attribute 'kl'
    """
    homes = {name: room for room, names in rooms.items() for name in names}

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return load, lambda: sorted(homes), sorted(homes)


class Table(UserDict[str, Any]):
    """name -> a value that is made when it is first asked for, of (module, function or class, keywords).

    >>> table = Table("palimpsest.losses", {"sum": ("divergence", "kl_divergence", None), "two": 2})
    >>> table["sum"].__module__, list(table), table["two"]
    ('palimpsest.losses.divergence', ['sum', 'two'], 2)
    """

    def __init__(self, package: str, values: Mapping[str, Any]) -> None:
        """`keywords` None: the function itself, uncalled."""
        self.package = package
        super().__init__(values)

    def __getitem__(self, name: str) -> Any:
        value = self.data[name]
        if isinstance(value, tuple):
            module, made, keywords = value
            made = getattr(import_module(f"{self.package}.{module}"), made)
            value = self.data[name] = made if keywords is None else made(**keywords)
        return value
