"""An arm: a recipe on a bench, which runs when it is called with a seed and a budget, and knows what it is.

Everything that an arm's numbers come from is here and in the modules of its world, its measures and its method: their
digest is what a record is compared with. How claims are made of arms (`palimpsest.benches.bench`) and how they are
tuned (`palimpsest.benches.tuning`) is no part of it: what tuning chose is in the arm's description.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import cached_property, partial
from hashlib import sha256
from inspect import signature
from itertools import product
from typing import TYPE_CHECKING, Any

from torch import nn

from palimpsest.errors import UserError
from palimpsest.evidence.source import digest_of, reached
from palimpsest.train.history import NonFiniteLoss
from palimpsest.train.method import Applied, apply

if TYPE_CHECKING:
    from palimpsest.benches.bench import Bench

Metrics = dict[str, "float | Sequence[tuple[float, float]]"]

_NO_PART = frozenset(f"palimpsest.benches.{name}" for name in ("bench", "shelf", "tuning"))
"""modules that are reached and that no number comes from"""


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
        return sorted({name for module in set(_homes(parts)) for name in reached(module)} - _NO_PART)

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
        if isinstance(part, Mapping):
            found += _homes(list(part.values()))
        elif isinstance(part, (list, tuple)):
            found += _homes(part)
        elif isinstance(part, partial):
            found += _homes([part.func, *part.args, part.keywords])
        elif is_dataclass(part) and not isinstance(part, type):
            own = [getattr(part, each.name) for each in fields(part) if each.repr]  # without an arm's bench
            found += [type(part).__module__, *_homes(own)]
        elif callable(part):
            found.append(part.__module__)
    return [module for module in found if module.split(".")[0] not in ("builtins", "torch", "functools")]


def _drawn(value: Any, world: Any) -> Any:
    return value.of(world) if isinstance(value, Drawn) else value


def _set(method: Any, values: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The method with those of the values that are fields of it or of its parts, and the values that are left."""
    if isinstance(method, partial):
        func, values = _set(method.func, values)
        known = set(signature(func).parameters) & values.keys()
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
