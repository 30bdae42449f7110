"""A paper's claim on the user's own files: its arms, its sentences and its tuning budget, in a world of the user's.

The shelf says for which kinds of files a bench has a world. What the user's data cannot have is not asked: a
ceiling that needs the labels of rows that have none, a model retrained without what is to be forgotten. Without a
ceiling there is no room to take a share of, so that the central sentence asks for a gain at all. Baselines and method
are tuned alike on the user's validation rows; the test rows are read once. The verdict is the user's, on these rows;
the question that heads it says what of the paper's question is of our world only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from palimpsest.benches import tuning
from palimpsest.benches.arm import Recipe, plain
from palimpsest.benches.bench import Bench, BenchClaim, Terms
from palimpsest.benches.shelf import YOURS
from palimpsest.errors import UserError
from palimpsest.evidence.claim import Claim
from palimpsest.evidence.sentences import Wish
from palimpsest.paths import home

NO_CEILING = "no share of the room, for nobody knows how much could be gained on your data"


@dataclass(frozen=True)
class Yours:
    """A bench on a user's files.

    Attributes:
        bench: with the user's world; its `tuned` is not set yet.
        starts: kinds of models that the world has.
        about: what the files are, in a sentence or two.
        notes: what was seen in them that the user should know.
        measures: our measure -> the user's, where names differ; sentences on others are not asked.
        takes: what its world can be asked for, as a recipe's `world`.
    """

    bench: Bench
    starts: frozenset[str]
    about: str
    notes: tuple[str, ...] = ()
    measures: Mapping[str, str] | None = None
    takes: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Asked:
    """A claim on the user's data.

    Attributes:
        claim: to be run with the store of `folder`.
        yours: the data.
        folder: where tuning and results are kept, in the user's home.
        left_out: the sentences that are not asked, or asked otherwise, and why.
    """

    claim: BenchClaim
    yours: Yours
    folder: Path
    left_out: tuple[str, ...]


def unchanged(read: Any, digest: str, path: str) -> Any:
    """What was read of a user's file, where it is what was read of it at first (`digest`; empty the first time).

    Raises:
        UserError: the content is another.
    """
    if digest and read.digest != digest:
        raise UserError(f"{path} was changed while it was in use: run the command again")
    return read


def kinds(claim: Claim) -> tuple[str, ...]:
    """The kinds of files that a claim can be put to."""
    return tuple(YOURS.get(claim.bench.name, ())) if isinstance(claim, BenchClaim) else ()


def check_takes(paper: str, kind: str, takes: Sequence[str]) -> None:
    """Raises a UserError where a claim does not take files of a kind."""
    if kind not in takes:
        others = " or ".join(f"--{one}" for one in takes) or "no data of yours, for its world is part of the question"
        raise UserError(f"the claim of {paper} cannot be put to --{kind}: it takes {others}")


def ask(claim: Claim, kind: str, *, steps: int | None = None, scale_lr: float = 1.0, **files: Any) -> Asked:
    """Put a claim to the user's files.

    Args:
        claim: of a paper, on a bench of ours.
        kind: "table", "images", ...
        steps: of every training, in place of the bench's.
        scale_lr: times which every learning rate is taken: ours suit small models.
        files: what they are, as the reader of that kind takes it.

    Raises:
        UserError: the claim has no world of that kind; its central sentence needs what the data cannot have; bad files.
    """
    check_takes(claim.paper, kind, kinds(claim))
    module, function = YOURS[claim.bench.name][kind].split(":")
    terms, ours = claim.terms, claim.bench
    if steps or scale_lr != 1:
        change = partial(_otherwise, steps=steps, scale_lr=scale_lr)
        own = {name: change(arm) if isinstance(arm, Recipe) else arm for name, arm in terms.arms.items()}
        terms = replace(terms, method=change(terms.method), arms=own)
        training = dict(ours.training) | ({"steps": steps} if steps else {})
        training |= {"lr": training["lr"] * scale_lr} if "lr" in training else {}
        baselines = {name: change(recipe) for name, recipe in ours.baselines.items()}
        ours = replace(ours, training=training, baselines=baselines)
        claim = replace(claim, terms=terms)
    put = getattr(import_module(f"palimpsest.benches.{module}"), function)
    files = {name: value for name, value in files.items() if value}  # what is not given has the reader's default
    if others := files.keys() - signature(put).parameters.keys():
        flag = min(others).replace("_", "-")
        raise UserError(f"the claim of {claim.paper} takes no --{flag} with --{kind}: leave it out")
    yours = put(ours, **files)
    said = {"bench": ours.name, "world": plain(yours.bench.world), "steps": steps, "scale": scale_lr}
    digest = sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
    folder = home() / "yours" / digest
    bench = replace(yours.bench, name=f"claim of {claim.paper} on your data", tuned=folder / "tuned")
    yours = replace(yours, bench=_without_what_is_missing(bench, yours))
    terms, left_out = _asked(claim, yours)
    return Asked(yours.bench.made(terms, module=""), yours, folder, tuple(left_out))


def tune(asked: Asked, *, workers: int | None = None, progress: bool = True) -> None:
    """Tune what the claim needs and was not tuned on this data before, each over as many points."""
    bench = asked.yours.bench
    for arm in asked.claim.arms.values():
        if arm.recipe.grid and tuning.chosen(bench, arm.name, arm.recipe) is None:
            tuning.tune(bench, arm.name, arm.recipe, workers=workers, progress=progress)


def _otherwise(recipe: Recipe, *, steps: int | None, scale_lr: float) -> Recipe:
    """The recipe with other steps and learning rates, which are rounded as people write them."""

    def scaled(name: str, value: Any) -> Any:
        return float(f"{value * scale_lr:.6g}") if name == "lr" else value

    grid = {name: [scaled(name, value) for value in values] for name, values in recipe.grid.items()}
    settings = {name: scaled(name, value) for name, value in recipe.settings.items()}
    if steps and "steps" in settings:
        settings["steps"] = steps
    return replace(recipe, grid=grid, settings=settings)


def _without_what_is_missing(bench: Bench, yours: Yours) -> Bench:
    """The bench with those of its arms that the user's world can make."""
    baselines = {name: recipe for name, recipe in bench.baselines.items() if _can(recipe, yours)}
    ceiling = bench.ceiling if bench.ceiling and _can(bench.ceiling[1], yours) else None
    return replace(bench, baselines=baselines, ceiling=ceiling)


def _can(recipe: Recipe, yours: Yours) -> bool:
    return recipe.world.keys() <= yours.takes and (recipe.start or yours.bench.start) in yours.starts


def _asked(claim: BenchClaim, yours: Yours) -> tuple[Terms, list[str]]:
    """The claim's terms with the sentences that can be asked, and those that cannot."""
    terms, bench, theirs = claim.terms, yours.bench, claim.bench
    arms = {
        name: changes for name, changes in terms.arms.items() if not isinstance(changes, Recipe) or _can(changes, yours)
    }
    if not _can(terms.method, yours):
        asks = ", ".join([*terms.method.world, *filter(None, [terms.method.start])])
        raise UserError(f"the claim of {terms.paper} asks its world for what your data does not have: {asks}")
    own, left_out = terms.name or terms.paper, []
    there = {own, *arms, *bench.recipes}
    ceiling = theirs.ceiling[0] if theirs.ceiling else ""

    def words(wish: Wish) -> str:
        reading = {**theirs.read, **terms.read}.get(wish.on)
        return f"{wish.role}: {wish.sentence(own, reading, ceiling, theirs.floor[0])}"

    def kept(wishes: Sequence[Wish]) -> list[Wish]:
        found = []
        for wish in wishes:
            missing = [arm for arm in (wish.arm, *wish.others) if arm and arm not in there]
            on = wish.on if yours.measures is None else yours.measures.get(wish.on, "")
            known = on in bench.read or wish.on in terms.read or yours.measures is None
            if missing or not known:
                why = f"your data has no {missing[0]!r}" if missing else f"{wish.on!r} cannot be measured on it"
                left_out.append(f"{words(wish)} ({why})")
            elif wish.share > 0 and wish.form == "beats" and not bench.ceiling:
                left_out.append(f"{words(wish)} (asked is any gain: {NO_CEILING})")
                found.append(replace(wish, on=on or wish.on, share=0.0))
            elif wish.share and not bench.ceiling:
                left_out.append(f"{words(wish)} ({NO_CEILING})")
            else:
                found.append(replace(wish, on=on or wish.on))
        return found

    central, also, alive = kept([terms.central]), kept(terms.also), kept(terms.alive)
    if not central:
        raise UserError(f"the claim of {terms.paper} cannot be put to your data: {left_out[0]}")
    ours = f"{theirs.name} ({theirs.about.rstrip('.')})"
    question = (
        f"The question of the claim of {terms.paper} is put to {yours.about}. What it says of data and networks is of "
        f"our world only, {ours}: {terms.question}"
    )
    differs = f"On your own data: {yours.about}"
    asked = {"central": central[0], "also": also, "alive": alive}
    return replace(terms, question=question, arms=arms, differs=differs, **asked), left_out
