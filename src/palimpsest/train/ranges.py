"""The range of a field stands with the field, `beta: Annotated[float, Above(0)] = 0.1`, and is checked from there.

>>> from dataclasses import dataclass
>>> from typing import Annotated
>>> @dataclass(frozen=True)
... class Cooling:
...     temperature: Annotated[float, Above(0), AtMost(1)] = 0.5
...     def __post_init__(self) -> None:
...         check_fields(self)
>>> Cooling(temperature=2.0)
Traceback (most recent call last):
    ...
palimpsest.errors.UserError: temperature must be above 0 and at most 1, got 2.0
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cache
from numbers import Real
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from palimpsest.errors import UserError


@dataclass(frozen=True)
class Bound:
    """One end of a range; its words are what a message and a `--help` say."""

    value: float

    def __str__(self) -> str:
        return f"{self.words} {self.value:g}"


class Above(Bound):
    words = "above"

    def holds(self, value: float) -> bool:
        return value > self.value


class AtLeast(Bound):
    words = "at least"

    def holds(self, value: float) -> bool:
        return value >= self.value


class Below(Bound):
    words = "below"

    def holds(self, value: float) -> bool:
        return value < self.value


class AtMost(Bound):
    words = "at most"

    def holds(self, value: float) -> bool:
        return value <= self.value


@dataclass(frozen=True)
class Range:
    """What a field may hold: one of a few values, or a number between bounds, and None where its type says so.

    Attributes:
        choices: the values of a `Literal`; empty for a number.
        bounds: the number's bounds.
        whole: whether the number is a whole one.
        optional: whether None is allowed.
    """

    choices: tuple[Any, ...] = ()
    bounds: tuple[Bound, ...] = ()
    whole: bool = False
    optional: bool = False

    def __str__(self) -> str:
        if self.choices:
            *others, last = map(repr, self.choices)
            return f"{', '.join(others)} or {last}" if others else last
        words = " and ".join(map(str, self.bounds)) or "a number"
        return f"{words}, or None" if self.optional else words

    def __contains__(self, value: Any) -> bool:
        if value is None:
            return self.optional
        if self.choices:
            return value in self.choices
        number = isinstance(value, Real) and not isinstance(value, bool)
        number = number and (isinstance(value, int) or math.isfinite(value))  # which no huge whole number is asked
        return number and (not self.whole or value == int(value)) and all(bound.holds(value) for bound in self.bounds)


@cache
def ranges(method: type) -> dict[str, Range]:
    """The range of every field of a dataclass that has one: bounds in its annotation, or a `Literal` type.

    >>> from dataclasses import make_dataclass
    >>> str(ranges(make_dataclass("Net", [("depth", Annotated[int | None, AtLeast(1)], None)]))["depth"])
    'at least 1, or None'
    """
    # Names for a class made where its annotations' names cannot be found again, as in a doctest.
    names = {each.__name__: each for each in (Above, AtLeast, Below, AtMost)}
    hints = get_type_hints(method, localns={**names, "Annotated": Annotated, "Literal": Literal}, include_extras=True)
    found = {}
    for field in fields(method):
        hint, bounds = hints[field.name], ()
        if get_origin(hint) is Annotated:
            bounds = tuple(each for each in hint.__metadata__ if isinstance(each, Bound))
            hint = hint.__origin__
        kinds = get_args(hint) if get_origin(hint) not in (None, Literal) else (hint,)
        named = all(get_origin(kind) is Literal or kind is NoneType for kind in kinds)  # not a word beside numbers
        choices = tuple(value for kind in kinds for value in get_args(kind)) if named else ()
        if bounds or choices:
            found[field.name] = Range(choices, bounds, whole=int in kinds, optional=NoneType in kinds)
    return found


def check_fields(method: Any) -> None:
    """Raises a UserError that names the first field of a dataclass whose value is outside its range."""
    for name, allowed in ranges(type(method)).items():
        value = getattr(method, name)
        whole = "a whole number, " if allowed.whole and isinstance(value, float) else ""
        require(value in allowed, name, value, f"{whole}{allowed}")


def require(holds: bool, field: str, value: object, wanted: str) -> None:
    """Raises a UserError unless `holds`; for what a range cannot say, such as a field that depends on another."""
    if not holds:
        raise UserError(f"{field} must be {wanted}, got {value!r}")
