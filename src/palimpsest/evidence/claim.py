"""A claim: what will be compared and what is expected of it, as frozen data, written before the result is known.

    claim = Claim(
        paper="simnpo",
        question="Without a reference model, does SimNPO forget as well as NPO, and keep more?",
        arms={"gradient ascent": ascent, "npo": npo, "simnpo": simnpo},
        expects=[
            given("trained").at_least(0.9, on="memorisation"),
            expect("simnpo").above("npo", on="utility", by=0.02),
            expect("simnpo").within("npo", on="forget probability", by=0.05),
        ],
    )

An arm is a function `(seed, budget) -> {metric: number or curve}`; a curve is a list of (x, y). The budget is "full" or
"smoke" (a few steps). The first expectation that is not a precondition is the primary one.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from palimpsest.audit.hark import VERDICT_SEEDS, canonical_json, check_verdict_seeds
from palimpsest.errors import UserError

Budget = Literal["full", "smoke"]
Kind = Literal["above", "below", "within", "at_least", "at_most", "rises", "falls"]
Curve = Sequence[tuple[float, float]]
Arm = Callable[[int, Budget], Mapping[str, "float | Curve"]]


@dataclass(frozen=True)
class Expectation:
    """One sentence about the arms that the numbers will confirm or not. Made by `expect` and `given`.

    The quantity is `method - times * baseline` for above, below and within (`arms` is method, baseline); the arm's own
    value for at_least and at_most; the total rise of the fitted line along the arms for rises and falls. `by` is the
    margin, or the threshold. With `seeds_needed` the sentence counts seeds instead of bounding a mean.
    """

    kind: Kind
    arms: tuple[str, ...]
    on: str
    by: float
    times: float = 1.0
    precondition: bool = False
    seeds_needed: int = 0

    sequential: ClassVar[bool] = False
    """whether it is judged by looks at 5, 10 and 20 seeds: `palimpsest.evidence.sentences`"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "by", float(self.by))
        object.__setattr__(self, "times", float(self.times))
        if not self.on:
            raise ValueError(f"{self.kind} needs the metric it is about: on=...")
        if not math.isfinite(self.by):
            raise ValueError(f"the margin or threshold must be finite, got {self.by}")
        if self.kind == "within" and self.by < 0:
            raise ValueError(f"within needs a margin of at least 0, got {self.by}")
        if not (math.isfinite(self.times) and self.times > 0):
            raise ValueError(f"times must be positive and finite, got {self.times}")
        if len(set(self.arms)) != len(self.arms):
            raise ValueError(f"an arm is compared with itself: {', '.join(self.arms)}")
        if self.kind in ("rises", "falls") and len(self.arms) < 3:
            raise ValueError(f"a trend needs at least 3 arms, got {list(self.arms)}")

    def in_seeds(self, count: int) -> Expectation:
        """The same sentence as a count: it is held where it is true of at least `count` single seeds.

        >>> str(expect("simnpo").below("npo", on="distance").in_seeds(4))
        'simnpo below npo on distance, in at least 4 seeds'
        """
        if count < 1:
            raise ValueError(f"in_seeds needs at least 1 seed, got {count}")
        return replace(self, seeds_needed=int(count))

    def __str__(self) -> str:
        margin, count = f"{abs(self.by):g}", f", in at least {self.seeds_needed} seeds" if self.seeds_needed else ""
        if self.kind in ("at_least", "at_most"):
            return f"{self.arms[0]} {self.kind.replace('_', ' ')} {self.by:g} on {self.on}{count}"
        if self.kind in ("rises", "falls"):
            verb = f"{self.kind} by at least {margin}" if self.by > 0 else self.kind
            if self.by < 0:
                verb = f"does not {'fall' if self.kind == 'rises' else 'rise'} by more than {margin}"
            return f"{self.on} {verb} along {' → '.join(self.arms)}{count}"
        method, baseline = self.arms
        baseline = baseline if self.times == 1 else f"{self.times:g} × {baseline}"
        if self.kind == "within":
            return f"{method} within {margin} of {baseline} on {self.on}{count}"
        if self.by < 0:
            other = "below" if self.kind == "above" else "above"
            return f"{method} not more than {margin} {other} {baseline} on {self.on}{count}"
        sense = f" by at least {margin}" if self.by else ""
        return f"{method} {self.kind} {baseline}{sense} on {self.on}{count}"


@dataclass(frozen=True)
class Subject:
    """The arm that a sentence is about."""

    arm: str
    precondition: bool

    def above(self, baseline: str, *, on: str, by: float = 0.0, times: float = 1.0) -> Expectation:
        """arm - times * baseline >= by; strictly above where by is 0; a negative `by` says: not worse than by |by|."""
        return Expectation("above", (self.arm, baseline), on, by, times, self.precondition)

    def below(self, baseline: str, *, on: str, by: float = 0.0, times: float = 1.0) -> Expectation:
        """times * baseline - arm >= by; strictly below where by is 0; a negative `by` says: not worse than by |by|."""
        return Expectation("below", (self.arm, baseline), on, by, times, self.precondition)

    def within(self, baseline: str, *, on: str, by: float, times: float = 1.0) -> Expectation:
        """|arm - times * baseline| <= by: equivalence, not the absence of a difference."""
        return Expectation("within", (self.arm, baseline), on, by, times, self.precondition)

    def at_least(self, threshold: float, *, on: str) -> Expectation:
        """The arm's mean is at least the threshold."""
        return Expectation("at_least", (self.arm,), on, threshold, precondition=self.precondition)

    def at_most(self, threshold: float, *, on: str) -> Expectation:
        """The arm's mean is at most the threshold."""
        return Expectation("at_most", (self.arm,), on, threshold, precondition=self.precondition)


@dataclass(frozen=True)
class Trend:
    """Arms in the order in which a metric should rise or fall."""

    arms: tuple[str, ...]
    precondition: bool

    def rises(self, *, on: str, by: float = 0.0) -> Expectation:
        """The line fitted through each seed's values, at equally spaced positions, rises by at least `by` in all, and
        no step from arm to arm falls."""
        return Expectation("rises", self.arms, on, by, precondition=self.precondition)

    def falls(self, *, on: str, by: float = 0.0) -> Expectation:
        """The fitted line falls by at least `by` from the first arm to the last, and no step rises."""
        return Expectation("falls", self.arms, on, by, precondition=self.precondition)


@dataclass(frozen=True)
class Opening:
    """How a sentence starts: `expect("arm")`, `given("arm")`, `expect.trend(["small", "medium", "large"])`."""

    precondition: bool

    def __call__(self, arm: str) -> Subject:
        return Subject(arm, self.precondition)

    def trend(self, arms: Iterable[str]) -> Trend:
        return Trend(tuple(arms), self.precondition)


expect = Opening(precondition=False)
given = Opening(precondition=True)


@dataclass(frozen=True)
class Claim:
    """The experiment of one paper: a question, the arms that answer it and what is expected of them.

    Args:
        paper: the paper's id, also the name of the file.
        question: what the experiment asks, in one or two sentences.
        arms: name -> function (seed, budget) -> {metric: number or curve}.
        expects: sentences made by `expect` and `given`.
        settings: what a reader must know to repeat it: numbers, strings, dataclasses, lists and dicts of them.
        notes: where the miniature differs from the paper; may be reworded without an amendment.
        seeds: the verdict's seeds, at least five, from 100 up.
        module: where the claim is declared; found by itself.

    Raises:
        ValueError: for a claim that cannot be judged: no arms, an expectation about an unknown arm, a duplicate.

    >>> Claim("npo", "Better?", {"npo": lambda seed, budget: {"u": 1.0}}, [expect("nqo").at_least(1, on="u")])
    Traceback (most recent call last):
    ValueError: claim npo: nqo at least 1 on u: no arm 'nqo', the arms are npo
    """

    paper: str
    question: str
    arms: Mapping[str, Arm]
    expects: Sequence[Expectation]
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: str = ""
    seeds: Sequence[int] = VERDICT_SEEDS
    module: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_]*", self.paper):
            raise ValueError(f"a paper's id has small letters, digits and underscores, got {self.paper!r}")
        try:
            self._check()
        except (ValueError, TypeError) as error:
            raise type(error)(f"claim {self.paper}: {error}") from None
        if not self.module:
            # Frames: this method, the dataclass's __init__, the module that declares the claim.
            object.__setattr__(self, "module", sys._getframe(2).f_globals.get("__name__", ""))
        for name, frozen in (
            ("arms", MappingProxyType(dict(self.arms))),
            ("expects", tuple(self.expects)),
            ("settings", MappingProxyType(dict(self.settings))),
            ("seeds", tuple(self.seeds)),
        ):
            object.__setattr__(self, name, frozen)

    def _check(self) -> None:
        if not self.question.strip():
            raise ValueError("the question is empty")
        if not self.arms:
            raise ValueError("there are no arms")
        names = {name.strip().casefold() for name in self.arms}
        if len(names) != len(self.arms) or "" in names:
            raise ValueError(f"arm names are empty or differ only in case or spaces: {', '.join(self.arms)}")
        for name, run in self.arms.items():
            if not callable(run):
                raise TypeError(f"arm {name!r} must be a function (seed, budget) -> dict, got {type(run).__name__}")
        for expectation in self.expects:
            if not isinstance(expectation, Expectation):
                raise TypeError(f"not a whole sentence: {expectation!r}; it needs .above, .at_least or the like")
        if all(expectation.precondition for expectation in self.expects):
            raise ValueError("there is no expectation besides preconditions: say what should happen")
        if len({expectation.sequential for expectation in self.expects}) > 1:
            raise ValueError("sentences of a bench and other expectations are judged by different rules: not together")
        if len(set(self.expects)) != len(self.expects):
            raise ValueError("the same expectation is listed twice")
        for expectation in self.expects:
            for arm in expectation.arms:
                if arm not in self.arms:
                    raise ValueError(f"{expectation}: no arm {arm!r}, the arms are {', '.join(self.arms)}")
            if expectation.seeds_needed > len(self.seeds):
                raise ValueError(f"{expectation}: there are only {len(self.seeds)} seeds")
        check_verdict_seeds(self.seeds)
        canonical_json(self.settings)

    @property
    def family(self) -> str:
        """The family whose folder of claims holds this one; empty for a claim declared elsewhere."""
        parts = self.module.split(".")
        return parts[2] if parts[:2] == ["palimpsest", "claims"] and len(parts) > 3 else ""

    @property
    def sequential(self) -> bool:
        """Whether its sentences are judged by looks at 5, 10 and 20 of its seeds."""
        return self.expects[0].sequential

    @property
    def other_world(self) -> str:
        """Why what is run here is not compared with the record: the rows of its world are others. Else empty."""
        return ""

    @property
    def kept_apart(self) -> str:
        """What results are kept under besides, where the rows are others than those of results already kept."""
        return ""

    @property
    def primary(self) -> Expectation:
        """The first expectation that is not a precondition: its metric decides the question."""
        return next(expectation for expectation in self.expects if not expectation.precondition)


def claim_names(family: str | None = None) -> list[str]:
    """The papers that have a claim, sorted; of one family where it is named. Imports none of them.

    Raises:
        UserError: for an unknown family.
    """
    modules = _modules()
    families = {module.split(".")[2] for module in modules.values()}
    if family is not None and family not in families:
        raise UserError(f"no family {family!r} has claims: {', '.join(sorted(families)) or 'there are none yet'}")
    return sorted(name for name, module in modules.items() if family in (None, module.split(".")[2]))


def load_claim(name: str) -> Claim:
    """The claim of a paper, from `palimpsest/claims/<family>/<name>.py`; only that module is imported.

    Raises:
        UserError: for an unknown name, with the nearest known ones.
    """
    modules = _modules()
    if name not in modules:
        near = get_close_matches(name, modules, n=3, cutoff=0.5)
        raise UserError(f"no claim {name!r}" + (f": did you mean {' or '.join(near)}?" if near else ""))
    claim = getattr(importlib.import_module(modules[name]), "claim", None)
    if not isinstance(claim, Claim) or claim.paper != name:
        raise UserError(f"{modules[name]} must define `claim`, a Claim whose paper is {name!r}")
    return claim


def _modules() -> dict[str, str]:
    """Paper -> module name, from the folders of the claims package."""
    package = importlib.import_module("palimpsest.claims")
    found = {}
    for family in pkgutil.iter_modules(package.__path__):
        if family.ispkg:
            folders = [str(Path(root) / family.name) for root in package.__path__]
            for paper in pkgutil.iter_modules(folders):
                if not paper.ispkg and not paper.name.startswith("_"):
                    found[paper.name] = f"{package.__name__}.{family.name}.{paper.name}"
    return found
