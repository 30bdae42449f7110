"""The sentences of a claim on a bench: what is wished of the method, and the sentence that is registered.

    central=beats("grad_diff", on="model utility", share_of_room=0.10)
    also=[mechanism(beats("uld without uniform", on="model utility")), cost(at_most(0.25, on="trained share"))]

A wish does not say which way a measure is better, nor where the room ends: the bench knows that, and makes a `Sentence`
of it. A claim has one central sentence, in the paper's own direction, and at most three more, each with a role: the
*mechanism* by which it works, its *cost*, its *safety*. What must hold for any of them to mean something is *given*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

from palimpsest.evidence.claim import Expectation

Role = Literal["central", "mechanism", "cost", "safety", "given"]
SHARE = 0.10
"""of the room, where a wish names no margin"""


class Reading(Protocol):
    """How a measure is read; see `palimpsest.benches.Measure`."""

    better: str
    bounds: tuple[float, float] | None
    exact: bool


@dataclass(frozen=True)
class Sentence(Expectation):
    """An expectation with a role, judged by three looks and in five words (`palimpsest.evidence.decision`).

    Attributes:
        role: what the sentence is for.
        share, ceiling: the margin as a share of the room, the ceiling arm's value minus the baseline's, seed by seed;
            negative where the method may be worse by so much.
        floor: an arm that must not satisfy the sentence in the method's place: then it would be trivial.
        bounds: the least and the most that the measure can be, where it has such; arms that all lie at one say nothing.
        exact: the measure is a count without a spread, so that equal values decide.
    """

    role: Role = "central"
    share: float = 0.0
    ceiling: str = ""
    floor: str = ""
    bounds: tuple[float, float] | None = None
    exact: bool = False

    sequential: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.share and (self.by or not self.ceiling or self.kind not in ("above", "below", "within")):
            raise ValueError(f"a share of the room needs a ceiling, a baseline and no other margin: {asdict(self)}")

    def __str__(self) -> str:
        if not self.share:
            return super().__str__()
        method, baseline = self.arms
        room = f"{abs(self.share):.0%} of the room up to {self.ceiling}"
        if self.kind == "within":
            return f"{method} within {room} of {baseline} on {self.on}"
        if self.share < 0:
            other = "below" if self.kind == "above" else "above"
            return f"{method} not more than {room} {other} {baseline} on {self.on}"
        return f"{method} {self.kind} {baseline} by at least {room} on {self.on}"


def registered(promise: Mapping[str, Any]) -> Expectation:
    """The expectation or the sentence that a registration holds as plain data.

    >>> from palimpsest.evidence import expect
    >>> registered(asdict(expect("a").above("b", on="m"))) == expect("a").above("b", on="m")
    True
    """
    kind = Sentence if "role" in promise else Expectation
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in promise.items()})


@dataclass(frozen=True)
class Wish:
    """What is wished of an arm, before the bench says which way is better. Made by the functions of this file."""

    form: Literal["beats", "matches", "at_least", "at_most", "rises", "falls"]
    on: str
    others: tuple[str, ...] = ()
    by: float = 0.0
    share: float = 0.0
    arm: str = ""
    """whom it is about; the method where it is not named"""
    role: Role = "central"

    def sentence(self, method: str, reading: Reading | None, ceiling: str = "", floor: str = "") -> Sentence:
        """The sentence to register.

        Args:
            method: the arm that it is about, where the wish names none.
            reading: of the measure; needed by `beats`.
            ceiling, floor: arms of the bench.

        Raises:
            ValueError: nothing says which way the measure is better.
        """
        arm, kind = self.arm or method, self.form
        if self.form in ("beats", "matches"):
            if self.form == "beats" and reading is None:
                raise ValueError(f"the bench does not say how {self.on!r} is read: add it to its measures")
            kind = "within" if self.form == "matches" else "above" if reading.better == "higher" else "below"
        arms = self.others if self.form in ("rises", "falls") else (arm, *self.others)
        bounds = None if reading is None or reading.bounds is None else tuple(map(float, reading.bounds))
        return Sentence(
            kind,
            arms,
            self.on,
            self.by,
            precondition=self.role == "given",
            role=self.role,
            share=self.share,
            ceiling=ceiling if self.share else "",
            floor=floor if self.role == "central" and floor not in arms else "",
            bounds=bounds,
            exact=reading is not None and reading.exact,
        )


def beats(
    baseline: str, *, on: str, share_of_room: float | None = None, by: float | None = None, arm: str = ""
) -> Wish:
    """The method is better than the baseline by a share of the room, a tenth where nothing is named, or by `by` in the
    measure's unit. A negative margin says: not worse by more than that.

    >>> from types import SimpleNamespace
    >>> reading = SimpleNamespace(better="higher", bounds=(0, 1), exact=False)
    >>> str(beats("npo", on="utility").sentence("simnpo", reading, ceiling="retrained"))
    'simnpo above npo by at least 10% of the room up to retrained on utility'
    """
    return Wish("beats", on, (baseline,), **_margin(share_of_room, by), arm=arm)


def not_worse(
    baseline: str, *, on: str, share_of_room: float | None = None, by: float | None = None, arm: str = ""
) -> Wish:
    """The method is not worse than the baseline by more than the margin."""
    margin = {name: -value for name, value in _margin(share_of_room, by).items()}
    return Wish("beats", on, (baseline,), **margin, arm=arm)


def matches(
    baseline: str, *, on: str, share_of_room: float | None = None, by: float | None = None, arm: str = ""
) -> Wish:
    """The method and the baseline differ by no more than the margin, in either direction: equivalence, shown by two
    one-sided tests."""
    return Wish("matches", on, (baseline,), **_margin(share_of_room, by), arm=arm)


def at_least(threshold: float, *, on: str, arm: str = "") -> Wish:
    """The arm's own value is at least the threshold."""
    return Wish("at_least", on, by=threshold, arm=arm)


def at_most(threshold: float, *, on: str, arm: str = "") -> Wish:
    """The arm's own value is at most the threshold."""
    return Wish("at_most", on, by=threshold, arm=arm)


def rises(arms: Sequence[str], *, on: str, by: float = 0.0) -> Wish:
    """The measure rises along the arms, by at least `by` in all, and no step falls."""
    return Wish("rises", on, tuple(arms), by)


def falls(arms: Sequence[str], *, on: str, by: float = 0.0) -> Wish:
    """The measure falls along the arms, by at least `by` in all, and no step rises."""
    return Wish("falls", on, tuple(arms), by)


def mechanism(wish: Wish) -> Wish:
    """It is this part by which the method works."""
    return replace(wish, role="mechanism")


def cost(wish: Wish) -> Wish:
    """What it costs."""
    return replace(wish, role="cost")


def safety(wish: Wish) -> Wish:
    """What it does not spoil."""
    return replace(wish, role="safety")


def given(wish: Wish) -> Wish:
    """Without this the other sentences would mean nothing."""
    return replace(wish, role="given")


def _margin(share: float | None, by: float | None) -> dict[str, float]:
    if share is not None and by is not None:
        raise ValueError(f"give a share of the room or a margin, not both: {share} and {by}")
    return {"by": by} if by is not None else {"share": SHARE if share is None else share}
