"""The user's language model with rows to forget and rows to keep, as a world of the claims on forgetting.

Forgotten is where the right answers are hardly likelier (by 0.05) than a model finds them that was retrained without
the rows, where the user pays for one (`palimpsest.benches.rows_retrained`). Without it, what stands in its place is
what the user's own model says of answers that are not the right ones: those of other rows to the same questions. Of the
rows to keep three fifths are given to methods, a fifth chooses settings, and a fifth, the same for every seed, says
what was kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from palimpsest.benches.authors_kit import FORGOTTEN, blank
from palimpsest.benches.bench import Bench, Measure, Recipe
from palimpsest.benches.rows_retrained import Retraining, retrained
from palimpsest.benches.yours import Yours
from palimpsest.errors import NotFinite, UserError
from palimpsest.forget.attacks import relearn
from palimpsest.forget.compare import pairs
from palimpsest.forget.evaluation import settle_end, subsample
from palimpsest.forget.procedure import ForgetData, encode_pairs, prepare
from palimpsest.forget.tofu import forget_quality
from palimpsest.forget.tofu_measures import tofu_score
from palimpsest.metrics.text import rouge_l_recall
from palimpsest.models.files import load
from palimpsest.models.score import context_length, greedy, pad_token_id, prompt_template, score
from palimpsest.tasks.held_out import content_digest, duplicates_note, key, parts
from palimpsest.tasks.rows import Row, check_overlap, read_rows
from palimpsest.train.history import NonFiniteLoss

KEPT, RELEARNED, PROBABILITY = "kept", "forget ROUGE-L relearned", "forget probability"
ABOVE = "forget probability above other answers"
ABOVE_GOLD, QUALITY = "forget probability above gold", "log10 forget quality"  # with a retrained model
SCORED = 64  # rows of each kind that are looked at, at most
LONGEST = 512  # tokens of a question with its answer


@dataclass(frozen=True)
class RowsWorld:
    """(seed, smoke) -> the user's model and rows.

    Attributes:
        rows, retain: files of what is to be forgotten and kept.
        model: folder of the model.
        retraining: of a model without the rows to forget; None where nobody pays for it.
        digest: of the rows that were read at first.
    """

    rows: str
    retain: str
    model: str
    retraining: Retraining | None = None
    digest: str = ""

    def __call__(self, seed: int, smoke: bool) -> RowsOfAUser:
        forget, retain = read(self.rows, self.retain)
        if self.digest and self.digest != _digest(forget, retain):
            raise UserError(f"{self.rows} or {self.retain} was changed while it was in use: run the command again")
        return RowsOfAUser(seed, smoke, forget, retain, self.model, _known(replace(self, digest="")))


@dataclass(frozen=True)
class Known:
    """What no seed changes.

    Attributes:
        tokenizer: the model's, which knows whether answers have an end.
        longest: tokens of a question with its answer, at most.
        forgotten: how likely the answers are that count as forgotten: to a retrained model, or else those of other
            rows to the user's own.
        gold: folder of a retrained model; empty without one.
        truth_ratios: of the retrained model, of the rows that are scored; empty where rows have no wrong answers.
    """

    tokenizer: Any
    longest: int
    forgotten: float
    gold: str = ""
    truth_ratios: tuple[float, ...] = ()


@dataclass(frozen=True)
class RowsOfAUser:
    """A seed's rows and models.

    Attributes:
        forget, retain: all rows of the user's.
        folder: of the model.
        known: what no seed changes.
    """

    seed: int
    smoke: bool
    forget: tuple[Row, ...]
    retain: tuple[Row, ...]
    folder: str
    known: Known

    @property
    def tokenizer(self) -> Any:
        return self.known.tokenizer

    @property
    def longest(self) -> int:
        return self.known.longest

    def model(self, kind: str) -> nn.Module:
        """ "base": as the folder has it; "untrained": of the same shape, with fresh weights; "gold": retrained."""
        model, _ = load(self.known.gold if kind == "gold" else self.folder)
        if kind in ("base", "gold"):
            return model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return AutoModelForCausalLM.from_config(model.config).eval()

    @cached_property
    def dealt(self) -> tuple[list[Row], list[Row], list[Row]]:
        """The rows to keep: given to methods, for validation, for the test."""
        found = parts([_key(row) for row in self.retain], self.seed)
        return tuple([self.retain[i] for i in which] for which in found)

    @cached_property
    def data(self) -> ForgetData:
        """The rows that methods are given."""
        forget, given = (pairs(self.tokenizer, rows) for rows in (self.forget, self.dealt[0]))
        return prepare(self.tokenizer, forget, given, max_length=self.longest, seed=self.seed)

    def kept(self, model: nn.Module, rows: Sequence[Row]) -> float:
        """The harmonic mean of the answers' probability and of the ROUGE-L of what the model answers."""
        scores = tofu_score(model, subsample(rows, 4 if self.smoke else SCORED, 0), tokenizer=self.tokenizer)
        probability, rouge = float(scores.probability.mean()), float(scores.rouge.mean())
        return 2 * probability * rouge / max(probability + rouge, 1e-12)


def probability(model: nn.Module, tokenizer: Any, rows: Sequence[Row], longest: int) -> float:
    """Mean over rows of the answer's probability, the geometric mean over its tokens."""
    encoded = encode_pairs(tokenizer, pairs(tokenizer, rows), max_length=longest)
    return float(np.exp(-score(model, encoded, pad_id=pad_token_id(tokenizer)).nll).mean())


def forget_probability(world: RowsOfAUser, model: nn.Module) -> float:
    """Of the rows to forget; of a model whose output is no number, that of one that knows nothing."""
    try:
        return probability(model, world.tokenizer, subsample(world.forget, SCORED, 0), world.longest)
    except NotFinite:
        return forget_probability(world, blank(model))


def above_forgotten(world: RowsOfAUser, model: nn.Module) -> float:
    """How much likelier the right answers are than forgotten ones."""
    return forget_probability(world, model) - world.known.forgotten


def quality(world: RowsOfAUser, model: nn.Module) -> float:
    """Whether the truth ratios of the forget rows can be told from those of the retrained model."""
    try:
        found = tofu_score(model, subsample(world.forget, SCORED, 0), tokenizer=world.tokenizer)
    except NotFinite:
        return quality(world, blank(model))
    return forget_quality(found.truth_ratio_geometric, np.array(world.known.truth_ratios)).log10_p


def relearned(world: RowsOfAUser, model: nn.Module) -> float:
    """By how much the ROUGE-L of half of the rows rises when an attacker trains on the other half for ten steps."""
    known, held = world.forget[::2], world.forget[1::2][:SCORED]
    weights, tokenizer = getattr(model, "target", model), world.tokenizer
    rows = encode_pairs(tokenizer, pairs(tokenizer, known), max_length=world.longest)
    steps = 1 if world.smoke else 10
    try:
        attacked, _ = relearn(
            weights, rows, pad_id=pad_token_id(tokenizer), steps=steps, lr=1e-4, seed=world.seed, progress=False
        )
    except NonFiniteLoss:  # training broke the model before
        return 0.0
    template = prompt_template(tokenizer)
    prompts = [template.prompt(row["question"]) for row in held]
    longest = max(len(tokenizer(row["answer"]).input_ids) for row in held) + 2
    said = (greedy(each, tokenizer, prompts, max_new_tokens=min(longest, 64)) for each in (model, attacked))
    before, after = (
        np.mean([rouge_l_recall(text, row["answer"]) for text, row in zip(texts, held, strict=True)]) for texts in said
    )
    return float(after - before)


def measures(world: RowsOfAUser, model: nn.Module) -> dict[str, float]:
    """What was kept of the test rows, and what is left of the forgotten ones."""
    try:
        kept = world.kept(model, world.dealt[2])
    except NotFinite:
        kept = 0.0
    return {
        KEPT: kept,
        PROBABILITY: forget_probability(world, model),
        ABOVE_GOLD if world.known.gold else ABOVE: above_forgotten(world, model),
        RELEARNED: relearned(world, model),
        **({QUALITY: quality(world, model)} if world.known.truth_ratios else {}),
    }


def validate(world: RowsOfAUser, model: nn.Module, cost: Mapping[str, Any]) -> float:
    """What is kept of the validation rows by a model that has forgotten; of one that has not, how far it is from that,
    below 0."""
    above = above_forgotten(world, model)
    return world.kept(model, world.dealt[1]) if above <= FORGOTTEN else -above


def on_rows(
    bench: Bench,
    *,
    rows: Path,
    retain: Path,
    model: Path,
    retrain: Path | None = None,
    retrain_epochs: float | None = None,
    retrain_lr: float | None = None,
) -> Yours:
    """A bench of forgetting on a user's model and rows, with a retrained model where `retrain` says from what."""
    if retrain is None and (retrain_epochs or retrain_lr):
        raise UserError("--retrain-epochs and --retrain-lr are about --retrain: the model from before the rows")
    how = None
    if retrain is not None:
        given = {"epochs": retrain_epochs, "lr": retrain_lr}
        how = Retraining(str(Path(retrain).absolute()), **{name: value for name, value in given.items() if value})
    world = RowsWorld(*(str(Path(path).absolute()) for path in (rows, retain, model)), how)
    forget, keep = read(world.rows, world.retain)
    check_overlap(forget, keep)
    if len(forget) < 2:
        raise UserError(f"{rows}: give at least 2 rows to forget, so that half of them can be relearned")
    known = _known(world)  # what is wrong with the models is said before anything is trained
    above = ABOVE_GOLD if how else ABOVE
    measured = {
        KEPT: Measure(),
        PROBABILITY: Measure("lower"),
        above: Measure("lower", None),
        RELEARNED: Measure("lower", (-1.0, 1.0)),
        **({QUALITY: Measure(bounds=None)} if known.truth_ratios else {}),
        "seconds": Measure("lower", None),
    }
    on = replace(
        bench,
        name=f"{bench.name} on your data",
        world=replace(world, digest=_digest(forget, keep)),
        measures=measures,
        read=measured,
        validate=validate,
        start="base",
        floor=("untrained", Recipe(start="untrained")),
        ceiling=("gold", Recipe(start="gold")) if how else None,
        # Where the recipes of the bench stop: at the level that can be known here.
        watch={ABOVE_GOLD: above_forgotten, "forget probability": forget_probability},
        seeds=tuple(range(200, 220)),
    )
    about = f"{len(forget)} rows of {Path(rows).name} to forget, {len(keep)} of {Path(retain).name} to keep"
    names = {"model utility": KEPT, ABOVE_GOLD: above, **{name: name for name in measured if name not in (KEPT, ABOVE)}}
    note = (
        "no model was retrained without the rows: they count as forgotten where their answers are no likelier, by"
        f" {FORGOTTEN:g}, than other rows' answers to the same questions"
    )
    if how:
        note = f"gold is {Path(how.base).name} trained once on all rows to keep, {how.epochs:g} times over"
    starts = frozenset({"base", "untrained", *(["gold"] if how else [])})
    equal = duplicates_note([_key(row) for row in keep], "rows to keep")
    return Yours(on, starts, about, (note, *equal), names)


@lru_cache(maxsize=2)
def read(rows: str, retain: str) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """The rows of both files."""
    return tuple(read_rows(rows)), tuple(read_rows(retain))


@lru_cache(maxsize=2)
def _known(world: RowsWorld) -> Known:
    """What no seed changes, so that the models are opened for it once."""
    forget, retain = read(world.rows, world.retain)
    model, tokenizer = load(world.model)
    settle_end(model, tokenizer, [*forget, *retain])
    longest = min(LONGEST, context_length(model) or LONGEST)
    rows = subsample(forget, SCORED, 0)
    if world.retraining is None:
        swapped = [{**row, "answer": other["answer"]} for row, other in zip(rows, [*rows[1:], rows[0]], strict=True)]
        return Known(tokenizer, longest, probability(model, tokenizer, swapped, longest))
    folder = retrained(world.retraining, retain, tokenizer, longest)
    model, _ = load(folder)
    ratios = ()
    if all(row["perturbed_answer"] for row in rows):
        ratios = tuple(tofu_score(model, rows, tokenizer=tokenizer).truth_ratio_geometric.tolist())
    return Known(tokenizer, longest, probability(model, tokenizer, rows, longest), str(folder), ratios)


def _key(row: Row) -> str:
    return key(str((row["question"], row["answer"])))


def _digest(*rows: Sequence[Row]) -> str:
    return content_digest([key(str(row)) for part in rows for row in part])
