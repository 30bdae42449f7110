"""A bench: what all comparisons on one world share, so that a claim brings a method and its sentences.

A *world* gives the data and the prepared models of a seed. A *recipe* says how an arm is made: a method with its
settings, a grid over which it is tuned, a level at which it stops; or a model of the world as it is. A *bench* has the
world, the measures, a floor (the least that any arm must beat), a ceiling (the most that could be had) and baselines
that were tuned once, on validation rows of pilot seeds; the results of their grids stand beside the bench as data
(`palimpsest.benches.tuning`). An *arm* is a recipe on a bench: frozen, called with a seed and a budget, and known by
what it is.

    claim = GLYPHS.claim(
        paper="decoupled_cl",
        question="Without the positive pair in the denominator, is a small batch enough?",
        method=Recipe(Views(DecoupledNTXent()), grid={"temperature": [0.1, 0.2, 0.5], "lr": [1e-3, 3e-3]}),
        central=beats("nt_xent", on="retrieval of unseen letters", share_of_room=0.10),
    )
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import nn

from palimpsest.benches.arm import Arm, Metrics, Recipe
from palimpsest.evidence.claim import Claim
from palimpsest.evidence.decision import LOOKS
from palimpsest.evidence.sentences import Wish, at_least, beats, given
from palimpsest.train.method import Applied

SEEDS = tuple(range(200, 200 + max(LOOKS)))
"""of every claim on a bench: twenty in a row, whose test rows are disjoint, and none that an earlier verdict was on"""


class World(Protocol):
    """The data and the models of a seed; `smoke` asks for a few rows and the smallest models."""

    seed: int
    smoke: bool

    @property
    def data(self) -> Any:
        """What `palimpsest.train.method.apply` takes."""

    def model(self, kind: str) -> nn.Module:
        """A fresh copy of one of the world's prepared models."""


@dataclass(frozen=True)
class Measure:
    """How a number is read.

    Attributes:
        better: whether more of it is better, or less.
        bounds: the least and the most that it can be; None where there are no such.
        exact: a count without a spread (a number of parameters), so that equal values decide.
    """

    better: Literal["higher", "lower"] = "higher"
    bounds: tuple[float, float] | None = (0.0, 1.0)
    exact: bool = False


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a claim says, on whatever bench.

    Attributes:
        paper: the paper's id.
        question: what the experiment asks.
        method: with a grid of as many points as the baselines have.
        central: the one sentence that decides, in the paper's own direction.
        also: at most three more, each with a role: `mechanism`, `cost`, `safety`.
        alive: what shows that the method did what it should do at all (the manipulation check).
        arms: further arms by name: what is changed in the method after tuning (`{"retain_weight": 0.0}`), or a recipe
            of their own, which is not tuned.
        differs: how the miniature differs from the paper, in five lines.
        name: of the method's arm; the paper's id where it is empty.
        then: further measures: (world, what became of the model) -> numbers. They are taken of the claim's own arms,
            and of those of the bench that a sentence about such a measure needs: the others' results are shared with
            other claims.
        read: how further measures are read, where a sentence compares arms on them.
    """

    paper: str
    question: str
    method: Recipe
    central: Wish
    also: Sequence[Wish] = ()
    alive: Sequence[Wish] = ()
    arms: Mapping[str, Mapping[str, Any] | Recipe] = field(default_factory=dict)
    differs: str = ""
    name: str = ""
    then: Callable[[Any, Applied], Metrics] | None = None
    read: Mapping[str, Measure] = field(default_factory=dict)


@dataclass(frozen=True)
class Bench:
    """The comparison on one world.

    Attributes:
        name: that of its variable, in small letters.
        about: what the world is, in a sentence or two.
        world: (seed, smoke, **what a recipe asks for) -> the world.
        measures: (world, model) -> numbers, on the world's test rows; the same for every arm.
        read: how each of the measures is read.
        validate: (world, model, cost) -> one number on the world's validation rows, the higher the better: what arms
            are tuned by. `cost` holds what `Arm` measures besides: seconds, steps, whether the level was reached.
        start: the kind of model that arms start from.
        floor, ceiling: name and recipe of the least and of the most; a user's own data may know no ceiling.
        baselines: name -> recipe, each tuned over `points` points.
        points: how many points the grid of a baseline or a method has.
        training: what all arms share; a recipe's own settings win.
        watch: measures by name, cheap, at which a `Level` may stop.
        pilots: the seeds that tuning is done on.
        measured: the pilot seeds on which its own arms are measured; two at least.
        seeds: of its claims, twenty in a row; others where an earlier form of the world was looked at on the usual.
        tuned: where its tuning is filed; None for the package's own folder.
    """

    name: str
    about: str
    world: Callable[..., World]
    measures: Callable[[Any, nn.Module], Metrics]
    read: Mapping[str, Measure]
    validate: Callable[[Any, nn.Module, Metrics], float]
    start: str
    floor: tuple[str, Recipe]
    ceiling: tuple[str, Recipe] | None
    baselines: Mapping[str, Recipe]
    points: int = 6
    training: Mapping[str, Any] = field(default_factory=dict)
    watch: Mapping[str, Callable[[Any, nn.Module], float]] = field(default_factory=dict)
    pilots: tuple[int, ...] = (0, 1)
    measured: tuple[int, ...] = (0, 1, 2, 3, 4)
    seeds: tuple[int, ...] = SEEDS
    tuned: Path | None = None

    def __post_init__(self) -> None:
        for name, recipe in self.baselines.items():
            self._check(name, recipe)

    @cached_property
    def recipes(self) -> dict[str, Recipe]:
        """Floor, baselines and ceiling by name."""
        return dict((self.floor, *self.baselines.items(), *([self.ceiling] if self.ceiling else [])))

    def arm(self, name: str, recipe: Recipe | None = None, changes: Mapping[str, Any] | None = None, **own: Any) -> Arm:
        """The arm of one of the bench's names, or of another recipe.

        Args:
            name: what it is tuned as; of the bench's own where no recipe is given.
            recipe: of an arm that is not the bench's.
            changes: fields or settings that are set after tuning.
            own: further fields of `Arm`.
        """
        return Arm(self, name, self.recipes[name] if recipe is None else recipe, changes or {}, **own)

    def claim(self, **terms: Any) -> BenchClaim:
        """A claim: the method beside the bench's floor and ceiling and the baselines that its sentences name.

        What comes by itself: the twenty seeds and three looks; that the baseline of the central sentence beats the
        floor, and the ceiling that baseline, by five margins where the margin is no share of the room; and that levels
        are reached.

        Args:
            terms: the fields of `Terms`.

        Raises:
            ValueError: a claim that cannot be judged: an unknown arm, a grid of another size than the baselines', more
                than one central sentence, a sentence about what a level enforces.
        """
        return self.made(Terms(**terms), module=sys._getframe(1).f_globals["__name__"])

    def made(self, terms: Terms, module: str) -> BenchClaim:
        """The claim of these terms, declared in `module`."""
        paper, method, central, also, then = terms.paper, terms.method, terms.central, terms.also, terms.then
        name = terms.name or paper
        self._check(name, method)
        if central.role != "central" or any(wish.role not in ("mechanism", "cost", "safety") for wish in also):
            raise ValueError(f"claim {paper}: one central sentence, and others with a role: mechanism, cost or safety")
        if len(also) > 3:
            raise ValueError(f"claim {paper}: at most three sentences beside the central one, got {len(also)}")
        own = {name: self.arm(name if name in self.recipes else paper, method, then=then)}
        for other, changes in terms.arms.items():
            if isinstance(changes, Recipe):
                if changes.grid:
                    raise ValueError(f"claim {paper}: {other!r} has a grid: only the method is tuned")
                own[other] = self.arm(other, changes, then=then)
            else:
                own[other] = self.arm(paper, method, changes, then=then)
        wishes = [*map(given, terms.alive), central, *also]
        floor, ceiling = self.floor[0], self.ceiling[0] if self.ceiling else ""
        named = {arm for wish in wishes for arm in (wish.arm, *wish.others) if arm}
        further = {arm for wish in wishes if wish.on not in self.read for arm in (wish.arm, *wish.others)}
        further |= set() if central.on in self.read else {floor, ceiling} - {""}
        if unknown := named - own.keys() - self.recipes.keys():
            raise ValueError(f"claim {paper}: no arm {min(unknown)!r}: there are {', '.join([*self.recipes, *own])}")
        bench = {
            arm: self.arm(arm, then=then if arm in further else None)
            for arm in self.recipes
            if arm in (*named, floor, ceiling)
        }
        for arm in {**bench, **own}.values():
            if arm.recipe.level and arm.recipe.level.on in {wish.on for wish in (central, *also)}:
                raise ValueError(f"claim {paper}: {arm.recipe.level.on!r} is where training stops, and no result")
        sentences = [
            wish.sentence(name, {**self.read, **terms.read}.get(wish.on), ceiling, floor)
            for wish in [*self._preconditions(central), *self._levels(bench, name, method), *wishes]
        ]
        return BenchClaim(
            paper=paper,
            question=terms.question,
            arms={**bench, **own},
            expects=list(dict.fromkeys(sentences)),
            notes=terms.differs,
            seeds=self.seeds,
            module=module,
            bench=self,
            terms=terms,
        )

    def _preconditions(self, central: Wish) -> list[Wish]:
        """That there is room: the baseline beats the floor, and the ceiling the baseline."""
        if central.form not in ("beats", "matches"):
            return []
        baseline, floor, ceiling = central.others[0], self.floor[0], self.ceiling[0] if self.ceiling else ""
        room = 5 * abs(central.by)
        found = []
        if baseline != floor:
            found.append(given(beats(floor, on=central.on, by=0.0, arm=baseline)))
        if ceiling and baseline != ceiling:
            found.append(given(beats(baseline, on=central.on, by=room, arm=ceiling)))
        return found

    def _levels(self, bench: Mapping[str, Arm], name: str, method: Recipe) -> list[Wish]:
        """That what should stop at a level got there."""
        stopped = [arm for arm, one in bench.items() if one.recipe.level] + [name] * (method.level is not None)
        return [given(at_least(1.0, on="level reached", arm=arm)) for arm in stopped]

    def _check(self, name: str, recipe: Recipe) -> None:
        if recipe.grid and len(recipe.points) != self.points:
            raise ValueError(
                f"{name} tries {len(recipe.points)} points where the arms of {self.name} try {self.points} each: "
                "tune all alike"
            )


@dataclass(frozen=True)
class BenchClaim(Claim):
    """A claim on a bench, which can be made again on another.

    Attributes:
        bench: where it stands.
        terms: what it says, wherever it stands.
    """

    bench: Bench | None = field(default=None, repr=False)
    terms: Terms | None = field(default=None, repr=False)

    @property
    def other_world(self) -> str:
        from palimpsest.benches import tuning  # late: it runs arms

        return tuning.other_world(self.bench)

    @property
    def kept_apart(self) -> str:
        from palimpsest.benches import tuning  # late: it runs arms

        return tuning.kept_apart(self.bench)
