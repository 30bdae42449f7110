"""Several methods on one model: each forgets on its own copy, all are scored alike, and a stated rule names the best.

The best method has the highest balance of what is forgotten and what is kept (`palimpsest.forget.shares`): one that
forgets by destroying the model keeps nothing, one that does nothing forgets nothing, and both have balance 0. Where
training ends at a level of forgetting, how much is forgotten is no longer a result: the best is then the method that
kept most of those that reached the level.
"""

from __future__ import annotations

import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import regex
from torch import nn

from palimpsest.errors import UserError, out_of_memory
from palimpsest.forget.evaluation import perplexity, settle_end, subsample
from palimpsest.forget.looks import LOOK_ROWS, Looks, at, reached
from palimpsest.forget.procedure import encode_pairs, prepare
from palimpsest.forget.rates import (
    MOST_RATES,
    Trial,
    best_trial,
    digest,
    drop_weights,
    hold_out,
    merit,
    place,
    rates,
    recall,
    record,
    split_text,
    trains_at_rate,
)
from palimpsest.forget.shares import FORGOTTEN_BY, KEPT_BY, balance, left, measurable, share_kept
from palimpsest.forget.tofu import RowScores, tofu_score
from palimpsest.models.score import context_length, prompt_template
from palimpsest.tasks.rows import Row
from palimpsest.train.history import History
from palimpsest.train.method import apply, check_model, check_needs, is_objective
from palimpsest.train.progress import duration

RULE = "highest balance: the harmonic mean of the share forgotten and the share kept"
RULE_AT_LEVEL = "most kept by a method that reached the level of forgetting; where none did, highest balance"


@dataclass(frozen=True)
class Result:
    """What became of one method.

    Attributes:
        forget, retain: the scores of every row afterwards; `retain` is None without retain rows, both where it failed.
        perplexity: of the general text afterwards; NaN without one.
        forgotten, kept, balance: see `palimpsest.forget.shares`; NaN where they cannot be had.
        seconds: of training, scoring and looks left out.
        loss: the loss of every step; none of a method that is no objective.
        reached: whether it reached the level of forgetting at which training ends; None where none was asked for.
        looking: seconds of the looks at how much is forgotten.
        lr: the learning rate that was chosen for it; None where none was.
        trials: all that were tried.
        error: why it stopped, if it did not come to its end.
    """

    method: str
    forget: RowScores | None = None
    retain: RowScores | None = None
    perplexity: float = float("nan")
    forgotten: float = float("nan")
    kept: float = float("nan")
    balance: float = float("nan")
    seconds: float = 0.0
    loss: list[float] = field(default_factory=list)
    error: str = ""
    reached: bool | None = None
    looking: float = 0.0
    lr: float | None = None
    trials: list[Trial] = field(default_factory=list)


@dataclass(frozen=True)
class Comparison:
    """A model before and after each method; `before_perplexity` is that of the general text, NaN without one, and
    `until` the level of forgetting at which training ended, None without one. `held_out` retain rows were not trained
    on, but chose the learning rates."""

    before_forget: RowScores
    before_retain: RowScores | None
    results: list[Result]
    before_perplexity: float = float("nan")
    until: float | None = None
    held_out: int = 0

    @property
    def rule(self) -> str:
        """What makes a method the best, in words."""
        return RULE if self.until is None else RULE_AT_LEVEL

    @property
    def left_out(self) -> list[str]:
        """The measures that had nothing to lose, and do not count: "forget extraction_strength"."""
        sets = (("forget", self.before_forget, FORGOTTEN_BY), ("retain", self.before_retain, KEPT_BY))
        return [
            f"{which} {name}"
            for which, before, names in sets
            if before is not None
            for name in names
            if name not in measurable(before, names)
        ]

    @property
    def best(self) -> Result:
        """The best result by `rule`, or where a balance cannot be had, the one that keeps most; with one method, that
        one.

        Raises:
            UserError: if no method came to its end.
        """
        done = [result for result in self.results if not result.error]
        if not done:
            raise UserError("; ".join(f"{result.method}: {result.error}" for result in self.results))
        return done[0] if len(done) == 1 else max(done, key=merit)


def pairs(tokenizer: Any, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The rows as the model sees them: prompt and answer, in its template; a plain text has the prompt ""."""
    template = prompt_template(tokenizer)
    return [template.pair(row["question"], row["answer"]) for row in rows]


def shorten(
    tokenizer: Any, rows: Sequence[Row], max_length: int, progress: Callable[[str], None] = lambda text: None
) -> list[Row]:
    """The rows with every answer (also its paraphrase and the wrong ones) cut to fit `max_length` with its question;
    `progress` is told how many were.

    Raises:
        UserError: if a question leaves no room for an answer.
    """
    template = prompt_template(tokenizer)
    n_cut = 0

    def fit(question: str, answer: str) -> str:
        nonlocal n_cut

        def length(text: str) -> int:
            return len(encode_pairs(tokenizer, [template.pair(question, text)], max_length=sys.maxsize).input_ids[0])

        if length(answer) <= max_length:
            return answer
        n_cut += 1
        ends = [sign.end() for sign in regex.finditer(r"\X", answer)]  # no character is cut
        n = bisect_right(ends, max_length, key=lambda end: length(answer[:end]))
        for end in reversed(ends[:n]):  # a text may have fewer tokens than its own beginning
            if answer[:end].strip() and length(answer[:end]) <= max_length:
                return answer[:end]
        raise UserError(f"the question {question!r} leaves no room for an answer in {max_length} tokens: shorten it")

    shortened = []
    for row in rows:
        cut = {**row, "answer": fit(row["question"], row["answer"])}
        if "paraphrased_answer" in row:
            cut["paraphrased_answer"] = fit(row["question"], row["paraphrased_answer"])
        cut["perturbed_answer"] = [fit(row["question"], wrong) for wrong in row["perturbed_answer"]]
        shortened.append(cut)
    if n_cut:
        progress(f"{n_cut} answers of {len(rows)} rows are cut to {max_length} tokens with their questions")
    return shortened


def compare(
    load: Callable[[], tuple[nn.Module, Any]],
    methods: Mapping[str, Any],
    forget: Sequence[Row],
    retain: Sequence[Row] = (),
    *,
    text: str = "",
    max_length: int = 512,
    truncate: bool = False,
    max_rows: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    until: float | None = None,
    look_every: int = 2,
    tune: int | None = None,
    keep: Callable[..., None] = lambda result, model, tokenizer, learned: None,
    checkpoint: Callable[[str], Any] = lambda method: None,
    progress: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> Comparison:
    """Scores a model, then makes a fresh copy of it forget with every method and scores that.

    Args:
        load: gives the model and its tokenizer; called once a method, so that only one copy is in memory.
        methods: name -> objective, edit or intervention.
        forget, retain: the rows; without retain rows only one method can be tried, for want of a rule.
        text: general text, of which the models should keep what they know; all of it is read.
        max_length: longest question with its answer, in tokens; never more than the model's context.
        truncate: cut longer answers, else they are refused.
        max_rows: how many rows of each set are scored; None for all.
        until: end the training of an objective at the first look that finds this share forgotten, above 0 and at most
            1; None for all steps. An edit or an intervention is not stopped: it reached the level or not.
        look_every: steps between looks, each at no more than 32 of the forget rows that are scored.
        tune: try each method at this many learning rates around `lr`, half a decade from each other, and go on with the
            best by the rule of the comparison, measured on the retain rows and the last fifth of the text that are held
            out: they are not trained on, and none of the scores. What is forgotten is measured as by a look, for
            there are no other rows to forget. Methods that do not train at a rate that is given are tried once. A
            method is then trained once more at its best rate, unless it has checkpoints.
        keep: called with each new best result, its model (of an intervention, the model without it), the tokenizer and
            what an intervention learned (None for other methods), so that they can be saved.
        checkpoint: method -> the folder of its checkpoints and of what came of its trials, or None.
        options: for `palimpsest.train.method.apply`: steps (60 by default), lr (1e-5), optimizer, schedule, ...

    Raises:
        UserError: for bad rows or fields, or a method that needs other rows, before anything is computed; for a level
            of forgetting rows that the model does not know, before anything is trained. What stops a method later (a
            loss that is not finite, rows that it cannot use, too little memory) is its result's error, and the others
            go on.
    """
    if not methods:
        raise UserError("no method given")
    if len(methods) > 1 and not retain and not text:
        raise UserError("methods are compared by what they keep: give retain rows, general text, or one method only")
    if until is not None and not 0 < until <= 1:
        raise UserError(f"until={until}: the share to forget must be above 0 and at most 1")
    if look_every < 1:
        raise UserError(f"look_every={look_every}: it must be at least 1")
    if tune is not None and not 2 <= tune <= MOST_RATES:
        raise UserError(f"tune={tune}: give at least 2 learning rates to choose from, and at most {MOST_RATES}")
    if tune is not None and not retain and not text:
        raise UserError("learning rates are chosen by what is kept: give retain rows or general text")
    held: list[Row] = []
    held_text = ""
    if tune is not None:
        retain, held = hold_out(retain, seed) if retain else ([], [])
        text, held_text = split_text(text) if text else ("", "")
    model, tokenizer = load()
    settle_end(model, tokenizer, [*forget, *retain], batch_size=batch_size)
    max_length = min(max_length, context_length(model) or max_length)
    if truncate:
        forget, retain, held = (shorten(tokenizer, rows, max_length, progress) for rows in (forget, retain, held))
    data = prepare(tokenizer, pairs(tokenizer, forget), pairs(tokenizer, retain), max_length=max_length, seed=seed)
    for name, method in methods.items():
        try:
            check_needs(method, data)
            check_model(method, model)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None

    def scored(model: nn.Module, rows: Sequence[Row]) -> RowScores | None:
        return tofu_score(model, rows, tokenizer=tokenizer, max_rows=max_rows, seed=seed) if rows else None

    def spoken(model: nn.Module, text: str) -> float:
        return perplexity(model, tokenizer, text) if text else float("nan")

    progress("scoring the model as it is")
    before_forget, before_retain, before_held = (scored(model, rows) for rows in (forget, retain, held))
    before_text, before_held_text = spoken(model, text), spoken(model, held_text)
    comparison = Comparison(before_forget, before_retain, [], before_text, until, len(held))
    asked = subsample(range(len(before_forget)), LOOK_ROWS, seed)
    rows_asked = [subsample(forget, max_rows, seed)[i] for i in asked]
    looked_at = {"answers": until is not None, "steps": options.get("steps", 60)}
    looks = Looks(tokenizer, rows_asked, at(before_forget, asked), **looked_at)
    stopping: dict[str, Any] = {"evaluate": looks, "evaluate_every": looks.first}
    if until is not None:
        if not measurable(looks.before, FORGOTTEN_BY):
            raise UserError("the model does not know the forget rows: there is no level of forgetting to reach")
        stopping = {"evaluate": looks, "evaluate_every": look_every, "stop": partial(reached, until)}
    fresh = [model]
    del model  # only one copy is in memory
    everything = (forget, retain, held, text, held_text)

    def forget_by(
        method: Any, folder: Any, lr: float | None, warn: Callable[[str], None] | None = None
    ) -> tuple[Any, ...]:
        """A fresh model, what applying the method to it gave, and the seconds that took."""
        model = fresh.pop() if fresh else load()[0]
        rate = {} if lr is None else {"lr": lr}
        looks.begin(warn)
        started = time.perf_counter()
        training = {"steps": 60, "lr": 1e-5, **options, **rate, **(stopping if is_objective(method) else {})}
        applied = apply(model, method, data, batch_size=batch_size, seed=seed, checkpoint=folder, **training)
        return model, applied, time.perf_counter() - started - looks.seconds

    def at_level(history: History | None, forgotten: float) -> bool | None:
        """Whether the level was reached: what training saw where it looked, since weights are rounded after it."""
        if until is None:
            return None
        return reached(until, history.evaluations[-1] if history else {"forgotten": forgotten})

    def attempt(method: Any, folder: Any, lr: float) -> Trial:
        """One learning rate, judged by the rows that are held out."""
        try:
            _, applied, seconds = forget_by(method, folder, lr)
            changed, history = applied.model, applied.history
            looking, forgotten = looks.seconds, looks.forgotten(changed)
            kept = share_kept(before_held, scored(changed, held), before_held_text, spoken(changed, held_text))
        except (ValueError, RuntimeError, MemoryError) as error:
            return Trial(lr, error=reason(error))
        steps = len(history.steps) if history else 0
        level = at_level(history, forgotten)
        return Trial(lr, forgotten, kept, balance(forgotten, kept), steps, seconds, looking, level)

    def final(name: str, method: Any, folder: Any, best: Trial | None, trials: list[Trial]) -> Result:
        """The method as it is reported; the best so far is handed to `keep`."""
        lr = best.lr if best else None
        started = time.perf_counter()
        try:
            warn = None if best else lambda text: progress(f"{name}: {text}")
            model, applied, seconds = forget_by(method, folder, lr, warn)
            changed, history, learned = applied.model, applied.history, applied.learned
            looking = looks.seconds
            if best:  # its training was the trial's
                seconds, looking = best.seconds, best.looking
            after_forget, after_retain = scored(changed, forget), scored(changed, retain)
            after_text = spoken(changed, text)
        except (ValueError, RuntimeError, MemoryError) as error:
            progress(f"{name}: {reason(error)}")
            seconds = time.perf_counter() - started
            return Result(name, seconds=seconds, error=reason(error), lr=lr, trials=trials)
        forgotten = 1 - left(before_forget, after_forget, FORGOTTEN_BY)
        kept = share_kept(before_retain, after_retain, before_text, after_text)
        result = Result(
            name,
            after_forget,
            after_retain,
            after_text,
            forgotten,
            kept,
            balance(forgotten, kept),
            seconds,
            [step["loss"] for step in history.steps] if history else [],
            reached=at_level(history, forgotten),
            looking=looking,
            lr=lr,
            trials=trials,
        )
        measured = {"forgotten": forgotten, "kept": kept, "balance": result.balance}
        taken = f"{duration(seconds)}{f' and {duration(looking)} of looks' if until is not None else ''}"
        progress(f"{name}: {', '.join(f'{k} {v:.3g}' for k, v in measured.items())}, {taken}")
        if replace(comparison, results=[*comparison.results, result]).best is result:
            keep(result, changed if learned is None else model, tokenizer, learned)
        return result

    lr = options.get("lr", 1e-5)
    tried = {name: rates(lr, tune) if tune and trains_at_rate(method) else [] for name, method in methods.items()}
    total, done, ran = sum(len(some) or 1 for some in tried.values()), 0, 0
    first = time.perf_counter()

    def announce(what: str) -> None:
        left_over = (time.perf_counter() - first) / max(1, ran) * (total - done)
        progress(f"{what} ({done + 1} of {total}{f', about {duration(left_over)} left' if ran else ''})")

    for name, method in methods.items():
        folder, trials = checkpoint(name), []
        key = digest(method, options, batch_size, seed, until, look_every, max_rows, max_length, *everything)
        for rate in tried[name]:
            where = place(folder, rate)
            trial = recall(where, key) if where else None
            if trial is None:
                announce(f"{name} at lr {rate:.3g}")
                trial = attempt(method, where, rate)
                ran += 1
                if where and not trial.error:
                    record(where, key, trial)
            done += 1
            trials.append(trial)
            best = best_trial(trials)
            for each in trials:
                if where and best and each is not best:
                    drop_weights(place(folder, each.lr))
        if not trials:
            announce(name)
            result = final(name, method, folder, None, [])
            done, ran = done + 1, ran + 1
        elif best := best_trial(trials):
            progress(f"{name}: lr {best.lr:.3g} is the best of {len(trials)}")
            result = final(name, method, place(folder, best.lr), best, trials)
        else:
            error = "; ".join(f"lr {trial.lr:.3g}: {trial.error}" for trial in trials)
            result = Result(name, error=error, trials=trials)
            progress(f"{name}: {error}")
        comparison.results.append(result)
    return comparison


def reason(error: Exception) -> str:
    """The first line of what an error says, or that memory has ended."""
    if out_of_memory(error):
        return "there is not enough memory: a smaller batch_size or max_length needs less"
    return next(iter(str(error).splitlines()), type(error).__name__)
