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

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import cached_property, partial
from hashlib import sha256
from itertools import product
from typing import Any, Literal, Protocol

from torch import nn

from palimpsest.errors import UserError
from palimpsest.evidence.claim import Claim
from palimpsest.evidence.decision import LOOKS
from palimpsest.evidence.sentences import Wish, at_least, beats, given
from palimpsest.evidence.source import digest_of, reached
from palimpsest.train.history import NonFiniteLoss
from palimpsest.train.method import Applied, apply

Metrics = dict[str, "float | Sequence[tuple[float, float]]"]

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


@dataclass(frozen=True)
class Level:
    """Where training stops: at the first look at which the watched measure `on` is at most `value`, or at most that of
    the world's model `above` plus `value`. What a level enforces is no result: no sentence may be about `on`."""

    on: str
    value: float
    above: str = ""
    every: int = 4


@dataclass(frozen=True)
class Drawn:
    """A setting that each world decides for itself: `Drawn(class_counts)` becomes `class_counts(world)`."""

    of: Callable[[Any], Any]


@dataclass(frozen=True)
class Recipe:
    """How an arm is made.

    Attributes:
        method: an objective, an edit or an intervention; one that depends on the world is `Drawn`. None for a model of
            the world as it is.
        grid: name -> the values tried; a field of the method or a setting of its training. Empty: not tuned.
        level: where training stops.
        settings: of training; those of the bench hold where it has none.
        start: the kind of the world's model that training starts from, or that is measured as it is; empty for the
            bench's own.
        world: what the world is asked for besides, such as all labels in the place of few.
    """

    method: Any = None
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    level: Level | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    start: str = ""
    world: Mapping[str, Any] = field(default_factory=dict)

    @property
    def points(self) -> list[dict[str, Any]]:
        """The points of the grid, in order; one without names where there is none.

        >>> Recipe(grid={"lr": [0.1, 0.2], "beta": [1.0]}).points
        [{'lr': 0.1, 'beta': 1.0}, {'lr': 0.2, 'beta': 1.0}]
        """
        return [dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]

    def at(self, point: Mapping[str, Any]) -> Recipe:
        """The recipe at a point: fields of the method, fields of its parts by their own names, and else settings of its
        training."""
        method, left = _set(self.method, dict(point))
        return replace(self, method=method, grid={}, settings={**self.settings, **left})


@dataclass(frozen=True)
class Bench:
    """The comparison on one world.

    Attributes:
        name: of the module that it stands in.
        about: what the world is, in a sentence or two.
        world: (seed, smoke, **what a recipe asks for) -> the world.
        measures: (world, model) -> numbers, on the world's test rows; the same for every arm.
        read: how each of the measures is read.
        validate: (world, model, cost) -> one number on the world's validation rows, the higher the better: what arms
            are tuned by. `cost` holds what `Arm` measures besides: seconds, steps, whether the level was reached.
        start: the kind of model that arms start from.
        floor, ceiling: name and recipe of the least and of the most.
        baselines: name -> recipe, each tuned over `points` points.
        points: how many points of a grid a baseline and a method may try.
        training: what all arms share; a recipe's own settings win.
        watch: measures by name, cheap, at which a `Level` may stop.
        pilots: the seeds that tuning is done on.
    """

    name: str
    about: str
    world: Callable[..., World]
    measures: Callable[[Any, nn.Module], Metrics]
    read: Mapping[str, Measure]
    validate: Callable[[Any, nn.Module, Metrics], float]
    start: str
    floor: tuple[str, Recipe]
    ceiling: tuple[str, Recipe]
    baselines: Mapping[str, Recipe]
    points: int = 6
    training: Mapping[str, Any] = field(default_factory=dict)
    watch: Mapping[str, Callable[[Any, nn.Module], float]] = field(default_factory=dict)
    pilots: tuple[int, ...] = (0, 1)

    def __post_init__(self) -> None:
        for name, recipe in self.baselines.items():
            self._check(name, recipe)

    @cached_property
    def recipes(self) -> dict[str, Recipe]:
        """Floor, baselines and ceiling by name."""
        return dict((self.floor, *self.baselines.items(), self.ceiling))

    def arm(self, name: str, recipe: Recipe | None = None, changes: Mapping[str, Any] | None = None, **own: Any) -> Arm:
        """The arm of one of the bench's names, or of another recipe.

        Args:
            name: what it is tuned as; of the bench's own where no recipe is given.
            recipe: of an arm that is not the bench's.
            changes: fields or settings that are set after tuning.
            own: further fields of `Arm`.
        """
        return Arm(self, name, self.recipes[name] if recipe is None else recipe, changes or {}, **own)

    def claim(
        self,
        *,
        paper: str,
        question: str,
        method: Recipe,
        central: Wish,
        also: Sequence[Wish] = (),
        alive: Sequence[Wish] = (),
        arms: Mapping[str, Mapping[str, Any] | Recipe] | None = None,
        differs: str = "",
        name: str = "",
        then: Callable[[Any, Applied], Metrics] | None = None,
    ) -> Claim:
        """A claim: the method beside the bench's floor and ceiling and the baselines that its sentences name.

        What comes by itself: the twenty seeds and three looks; that the baseline of the central sentence beats the
        floor, and the ceiling that baseline, by five margins where the margin is no share of the room; and that levels
        are reached.

        Args:
            paper: the paper's id.
            question: what the experiment asks.
            method: with a grid of as many points as the baselines have.
            central: the one sentence that decides, in the paper's own direction.
            also: at most three more, each with a role: `mechanism`, `cost`, `safety`.
            alive: what shows that the method did what it should do at all (the manipulation check).
            arms: further arms by name: what is changed in the method after tuning (`{"retain_weight": 0.0}`), or a
                recipe of their own, which is not tuned.
            differs: how the miniature differs from the paper, in five lines.
            name: of the method's arm; the paper's id where it is empty.
            then: further measures, taken of every arm alike: (world, what became of the model) -> numbers.

        Raises:
            ValueError: a claim that cannot be judged: an unknown arm, a grid of another size than the baselines', more
                than one central sentence, a sentence about what a level enforces.
        """
        name = name or paper
        self._check(name, method)
        if central.role != "central" or any(wish.role not in ("mechanism", "cost", "safety") for wish in also):
            raise ValueError(f"claim {paper}: one central sentence, and others with a role: mechanism, cost or safety")
        if len(also) > 3:
            raise ValueError(f"claim {paper}: at most three sentences beside the central one, got {len(also)}")
        own = {name: self.arm(name if name in self.recipes else paper, method, then=then)}
        for other, changes in (arms or {}).items():
            if isinstance(changes, Recipe):
                if changes.grid:
                    raise ValueError(f"claim {paper}: {other!r} has a grid: only the method is tuned")
                own[other] = self.arm(other, changes, then=then)
            else:
                own[other] = self.arm(paper, method, changes, then=then)
        wishes = [*map(given, alive), central, *also]
        floor, ceiling = self.floor[0], self.ceiling[0]
        named = {arm for wish in wishes for arm in (wish.arm, *wish.others) if arm}
        if unknown := named - own.keys() - self.recipes.keys():
            raise ValueError(f"claim {paper}: no arm {min(unknown)!r}: there are {', '.join([*self.recipes, *own])}")
        bench = {arm: self.arm(arm, then=then) for arm in self.recipes if arm in (*named, floor, ceiling)}
        for arm in {**bench, **own}.values():
            if arm.recipe.level and arm.recipe.level.on in {wish.on for wish in (central, *also)}:
                raise ValueError(f"claim {paper}: {arm.recipe.level.on!r} is where training stops, and no result")
        sentences = [
            wish.sentence(name, self.read.get(wish.on), ceiling, floor)
            for wish in [*self._preconditions(central), *self._levels(bench, name, method), *wishes]
        ]
        return Claim(
            paper=paper,
            question=question,
            arms={**bench, **own},
            expects=list(dict.fromkeys(sentences)),
            notes=differs,
            seeds=SEEDS,
            module=sys._getframe(1).f_globals["__name__"],
        )

    def _preconditions(self, central: Wish) -> list[Wish]:
        """That there is room: the baseline beats the floor, and the ceiling the baseline."""
        if central.form not in ("beats", "matches"):
            return []
        baseline, floor, ceiling = central.others[0], self.floor[0], self.ceiling[0]
        room = 5 * abs(central.by)
        found = []
        if baseline != floor:
            found.append(given(beats(floor, on=central.on, by=0.0, arm=baseline)))
        if baseline != ceiling:
            found.append(given(beats(baseline, on=central.on, by=room, arm=ceiling)))
        return found

    def _levels(self, bench: Mapping[str, Arm], name: str, method: Recipe) -> list[Wish]:
        """That what should stop at a level got there."""
        stopped = [arm for arm, one in bench.items() if one.recipe.level] + [name] * (method.level is not None)
        return [given(at_least(1.0, on="level reached", arm=arm)) for arm in stopped]

    def _check(self, name: str, recipe: Recipe) -> None:
        if len(recipe.points) > self.points:
            raise ValueError(
                f"{name} tries {len(recipe.points)} points where the arms of {self.name} try {self.points} each: "
                "tune all alike"
            )


@dataclass(frozen=True)
class Arm:
    """A recipe on a bench: what a claim runs.

    Attributes:
        name: what its tuning is filed under.
        changes: fields of the method or settings that are set after tuning.
        then: further measures, taken of the world and what became of the model.
        again: another order and other draws of training on the same data: what the spread of a comparison of an arm
            with itself is measured by.
    """

    bench: Bench = field(repr=False)
    name: str
    recipe: Recipe
    changes: Mapping[str, Any] = field(default_factory=dict)
    then: Callable[[Any, Applied], Metrics] | None = None
    again: int = 0

    def __call__(self, seed: int, budget: str = "full") -> Metrics:
        """The measures of the arm on a seed's world, and what it cost: seconds of processor time, and where it was
        trained its steps, whether it diverged and whether it reached its level."""
        world, applied, cost = self.trained(seed, budget == "smoke")
        more = self.then(world, applied) if self.then else {}
        return {**self.bench.measures(world, applied.model), **more, **cost}

    def validated(self, seed: int, budget: str = "full") -> Metrics:
        """What the arm is tuned by, and its seconds."""
        world, applied, cost = self.trained(seed, budget == "smoke")
        return {
            "validation": float(self.bench.validate(world, applied.model, cost)),
            "seconds": cost.get("seconds", 0.0),
        }

    def trained(self, seed: int, smoke: bool = False) -> tuple[Any, Applied, Metrics]:
        """The world, what became of the model, and what it cost."""
        recipe = self.at_point(self.point(smoke))
        world = self.bench.world(seed, smoke, **recipe.world)
        start = recipe.start or self.bench.start
        if recipe.method is None:
            return world, Applied(world.model(start)), {}
        options = {**self.bench.training, **recipe.settings, "progress": False, "seed": seed + 10_000_000 * self.again}
        options = {name: _drawn(value, world) for name, value in options.items()}
        if smoke:
            options |= {"steps": min(2, options.get("steps", 2)), "warmup": 0}
        clock = _Clock()
        level = self._level(world, clock)
        model, method = world.model(start), _drawn(recipe.method, world)
        size = sum(p.numel() for p in model.parameters())
        clock.begin()
        try:
            applied, diverged = apply(model, method, world.data, **options, **level), 0.0
        except NonFiniteLoss as error:  # the weights from before that step are measured
            applied, diverged = Applied(model, error.history), 1.0
        cost: Metrics = {"seconds": clock.end(), "diverged": diverged}
        if applied.history is not None:
            cost["steps"] = float(len(applied.history.steps))
        if applied.learned is not None:
            cost["trained share"] = sum(value.numel() for value in applied.learned.values()) / size
        if recipe.level:
            cost["level reached"] = float(level["stop"](level["evaluate"](applied.model, 0)))
        return world, applied, cost

    def at_point(self, point: Mapping[str, Any]) -> Recipe:
        """The recipe at a point of its grid, with the arm's changes."""
        return self.recipe.at({**point, **self.changes})

    def point(self, smoke: bool = False) -> dict[str, Any]:
        """The point of the grid that tuning chose; the first one for a smoke run of what is not tuned yet.

        Raises:
            UserError: for a recipe with a grid that was not tuned, or that has changed since.
        """
        from palimpsest.benches import tuning  # late: it runs arms

        if not self.recipe.grid:
            return {}
        if (found := tuning.chosen(self.bench, self.name, self.recipe)) is not None:
            return found
        if smoke:
            return self.recipe.points[0]
        raise UserError(f"{self.name} is not tuned as it is now: palimpsest bench {self.bench.name} --tune {self.name}")

    def described(self) -> dict[str, Any]:
        """What a reader must know to repeat the arm, as plain data: what the registration holds of it."""
        try:
            point = self.point()
        except UserError:
            point = None
        recipe = self.at_point(point or {})
        shown = {"bench": self.bench.name, "world": plain(self.bench.world), "start": recipe.start or self.bench.start}
        shown |= {"asked of the world": plain(recipe.world), "again": self.again, "then": plain(self.then)}
        if recipe.method is not None:
            training = {name: plain(value) for name, value in {**self.bench.training, **recipe.settings}.items()}
            shown |= {
                "method": plain(recipe.method),
                "level": recipe.level and asdict(recipe.level),
                "training": training,
            }
            shown |= {"grid": plain(self.recipe.grid), "chosen": "not tuned" if point is None else plain(point)}
        return {name: value for name, value in shown.items() if value not in ("", None, {}, 0)}

    @cached_property
    def modules(self) -> list[str]:
        """The modules that it reaches: of the world, the measures, the method and all that belongs to them."""
        parts = [self.bench.world, self.bench.measures, *self.bench.watch.values(), self.recipe, self.then, self, apply]
        return sorted({name for module in set(_homes(parts)) for name in reached(module)})

    @property
    def stored(self) -> tuple[str, str, str, str]:
        """Where its results are kept, for every claim that has the same arm: bench, digest, code, title."""
        digest = sha256(json.dumps(self.described(), sort_keys=True).encode()).hexdigest()
        return f"bench {self.bench.name}", digest, digest_of(self.modules), self.name

    def _level(self, world: Any, clock: _Clock) -> dict[str, Any]:
        """The options of `fit` that stop it at the level."""
        level = self.recipe.level
        if level is None:
            return {}
        look = self.bench.watch[level.on]
        most = level.value + (look(world, world.model(level.above)) if level.above else 0.0)

        def evaluate(model: nn.Module, step: int) -> dict[str, float]:
            with clock.stopped():
                return {level.on: look(world, model)}

        def stop(found: Mapping[str, float]) -> bool:
            return found[level.on] <= most

        return {"evaluate": evaluate, "evaluate_every": level.every, "stop": stop}


class _Clock:
    """Seconds of processor time, without those of looks."""

    def __init__(self) -> None:
        self.started = self.off = 0.0

    def begin(self) -> None:
        self.started, self.off = time.process_time(), 0.0

    def end(self) -> float:
        return time.process_time() - self.started - self.off

    @contextmanager
    def stopped(self) -> Iterator[None]:
        since = time.process_time()
        yield
        self.off += time.process_time() - since


def plain(value: Any) -> Any:
    """A setting as plain data: a dataclass by its name and fields, a function by its name, a partial by its parts."""
    if isinstance(value, Drawn):
        return f"{plain(value.of)} of the world"
    if isinstance(value, partial):
        return {"is": plain(value.func), "args": plain(value.args), **plain(value.keywords)}
    if is_dataclass(value) and not isinstance(value, type):
        own = {each.name: plain(getattr(value, each.name)) for each in fields(value)}
        return {"is": f"{type(value).__module__}.{type(value).__qualname__}", **own}
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    return f"{value.__module__}.{value.__qualname__}" if callable(value) else value


def _homes(parts: Sequence[Any]) -> list[str]:
    """The modules in which functions and classes are defined, those of a dataclass's fields included."""
    found = []
    for part in parts:
        if isinstance(part, Bench):
            continue
        if isinstance(part, Mapping):
            found += _homes(list(part.values()))
        elif isinstance(part, (list, tuple)):
            found += _homes(part)
        elif isinstance(part, partial):
            found += _homes([part.func, *part.args, part.keywords])
        elif is_dataclass(part) and not isinstance(part, type):
            found += [type(part).__module__, *_homes([getattr(part, each.name) for each in fields(part)])]
        elif callable(part):
            found.append(part.__module__)
    return [module for module in found if module.split(".")[0] not in ("builtins", "torch", "functools")]


def _drawn(value: Any, world: Any) -> Any:
    return value.of(world) if isinstance(value, Drawn) else value


def _set(method: Any, values: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The method with those of the values that are fields of it or of its parts, and the values that are left."""
    if isinstance(method, partial):
        func, values = _set(method.func, values)
        known = set(getattr(getattr(func, "__code__", None), "co_varnames", ())) & values.keys()
        keywords = {**method.keywords, **{name: values[name] for name in known}}
        return partial(func, *method.args, **keywords), {n: v for n, v in values.items() if n not in known}
    if not is_dataclass(method) or isinstance(method, (type, Drawn)):
        return method, values
    own = {each.name for each in fields(method) if each.init}
    changes = {name: values.pop(name) for name in list(values) if name in own}
    for name in own - changes.keys():
        part = getattr(method, name)
        if is_dataclass(part) or isinstance(part, partial):
            changed, values = _set(part, values)
            if changed is not part:
                changes[name] = changed
    return (replace(method, **changes) if changes else method), values
