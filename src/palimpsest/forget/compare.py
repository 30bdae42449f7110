"""Several methods on one model: each forgets on its own copy, all are scored alike, and a stated rule names the best.

The best method has the highest balance of what is forgotten and what is kept (`palimpsest.forget.forgotten_and_kept`):
one that forgets by destroying the model keeps nothing, one that does nothing forgets nothing, and both have balance 0.
Where training ends at a level of forgetting, how much is forgotten is no longer a result: the best is then the method
that kept most of those that reached the level.
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
from palimpsest.forget.forgotten_and_kept import FORGOTTEN_BY, KEPT_BY, balance, left, measurable, share_kept
from palimpsest.forget.learning_rates import (
    Trial,
    best_trial,
    digest,
    hold_out,
    keep_best,
    merit,
    place,
    rates,
    recall,
    record,
    split_text,
    trains_at_rate,
)
from palimpsest.forget.methods import MOST_RATES
from palimpsest.forget.procedure import ForgetData, encode_pairs, prepare
from palimpsest.forget.stop_at_level import LOOK_ROWS, Looks, at, reached
from palimpsest.forget.tofu_measures import RowScores, tofu_score
from palimpsest.models.score import context_length, prompt_template
from palimpsest.tasks.rows import Row
from palimpsest.train.method import Applied, apply, check_model, check_needs, is_objective
from palimpsest.train.progress import TimeLeft, duration

BROKEN = (ValueError, RuntimeError, MemoryError)  # ends one method, and the others go on
RULE = "highest balance: the harmonic mean of the share forgotten and the share kept"
RULE_AT_LEVEL = "most kept by a method that reached the level of forgetting; where none did, highest balance"


@dataclass(frozen=True)
class Result:
    """What became of one method.

    Attributes:
        forget, retain: the scores of every row afterwards; `retain` is None without retain rows, both where it failed.
        perplexity: of the general text afterwards; NaN without one.
        forgotten, kept, balance: see `palimpsest.forget.forgotten_and_kept`; NaN where they cannot be had.
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
    _check(methods, bool(retain or text), until, look_every, tune)
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

    progress("scoring the model as it is")
    asked = partial(Questions, model, tokenizer, max_rows=max_rows, seed=seed)
    to_forget, to_keep, held_out = asked(forget), asked(retain, text), asked(held, held_text)
    indices = subsample(range(len(to_forget.before)), LOOK_ROWS, seed)
    look_rows = [subsample(forget, max_rows, seed)[i] for i in indices]
    training = {"steps": 60, "lr": 1e-5, **options, "batch_size": batch_size, "seed": seed}
    level = {"answers": until is not None, "steps": training["steps"]}
    looks = Looks(tokenizer, look_rows, at(to_forget.before, indices), **level)
    if until is not None and not measurable(looks.before, FORGOTTEN_BY):
        raise UserError("the model does not know the forget rows: there is no level of forgetting to reach")
    forgetting = Forgetting(load, [model], data, training, looks, until, look_every)
    del model, asked  # only one copy is in memory
    lr = training["lr"]
    tried = {name: rates(lr, tune) if tune and trains_at_rate(method) else [] for name, method in methods.items()}
    contest = Contest(forgetting, to_forget, to_keep, held_out, tried, progress, keep)
    everything = (forget, retain, held, text, held_text)
    for name, method in methods.items():
        key = digest(method, options, batch_size, seed, until, look_every, max_rows, max_length, *everything)
        contest.enter(name, method, checkpoint(name), key)
    return contest.comparison


def _check(methods: Mapping[str, Any], kept: bool, until: float | None, look_every: int, tune: int | None) -> None:
    """The arguments of `compare` that can be refused before a model is loaded; `kept` is whether anything is to be."""
    if not methods:
        raise UserError("no method given")
    if len(methods) > 1 and not kept:
        raise UserError("methods are compared by what they keep: give retain rows, general text, or one method only")
    if until is not None and not 0 < until <= 1:
        raise UserError(f"until={until}: the share to forget must be above 0 and at most 1")
    if look_every < 1:
        raise UserError(f"look_every={look_every}: it must be at least 1")
    if tune is not None and not 2 <= tune <= MOST_RATES:
        raise UserError(f"tune={tune}: give at least 2 learning rates to choose from, and at most {MOST_RATES}")
    if tune is not None and not kept:
        raise UserError("learning rates are chosen by what is kept: give retain rows or general text")


class Questions:
    """Rows and a text, either of which may be empty, that every model is asked in the same way.

    Attributes:
        before, spoken: the scores and the perplexity of the first model, as `ask` gives them.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, rows: Sequence[Row], text: str = "", **scoring: Any) -> None:
        self.tokenizer, self.rows, self.text, self.scoring = tokenizer, rows, text, scoring
        self.before, self.spoken = self.ask(model)

    def ask(self, model: nn.Module) -> tuple[RowScores | None, float]:
        """The scores of a model's answers, None without rows, and its perplexity on the text, NaN without one."""
        scores = tofu_score(model, self.rows, tokenizer=self.tokenizer, **self.scoring) if self.rows else None
        return scores, perplexity(model, self.tokenizer, self.text) if self.text else float("nan")

    def kept(self, scores: RowScores | None, spoken: float) -> float:
        """The share of what the first model knew that is left in one with these scores and this perplexity."""
        return share_kept(self.before, scores, self.spoken, spoken)


@dataclass(frozen=True)
class Run:
    """What came of training one model: what `apply` gave, and the seconds of training and of looks.

    Attributes:
        base: the model that was given; of an intervention, the one without it.
        until: the level of forgetting at which training ends, or None.
    """

    base: nn.Module
    applied: Applied
    seconds: float
    looking: float
    until: float | None

    @property
    def losses(self) -> list[float]:
        """The loss of every step; none of a method that is no objective."""
        return [step["loss"] for step in self.applied.history.steps] if self.applied.history else []

    def reached(self, forgotten: float) -> bool | None:
        """Whether the level was reached: what training saw where it looked, since weights are rounded after it."""
        if self.until is None:
            return None
        history = self.applied.history
        return reached(self.until, history.evaluations[-1] if history else {"forgotten": forgotten})


@dataclass
class Forgetting:
    """Makes models forget, each a fresh copy, with the same rows and the same training.

    Attributes:
        load: gives a model and its tokenizer; `fresh` has those that are loaded already, and as they were.
        data, training: for `palimpsest.train.method.apply`.
        looks: at what an objective has forgotten, every `look_every` steps where that is to end its training.
    """

    load: Callable[[], tuple[nn.Module, Any]]
    fresh: list[nn.Module]
    data: ForgetData
    training: dict[str, Any]
    looks: Looks
    until: float | None
    look_every: int

    def by(self, method: Any, folder: Any, lr: float | None, warn: Callable[[str], None] | None = None) -> Run:
        """One model that forgot by a method: with checkpoints in a folder, at a rate, unless they are None."""
        model = self.fresh.pop() if self.fresh else self.load()[0]
        training = self.training if lr is None else {**self.training, "lr": lr}
        if is_objective(method):
            stop = {"stop": partial(reached, self.until)} if self.until is not None else {}
            every = self.look_every if stop else self.looks.first
            training = {**training, **stop, "evaluate": self.looks, "evaluate_every": every}
        self.looks.begin(warn)
        started = time.perf_counter()
        applied = apply(model, method, self.data, checkpoint=folder, **training)
        seconds = time.perf_counter() - started - self.looks.seconds
        return Run(model, applied, seconds, self.looks.seconds, self.until)


@dataclass
class Contest:
    """Methods that forget under equal conditions, one after the other, and the comparison as far as it has come.

    Attributes:
        forgetting: makes the models forget.
        forget, retain: what they are scored by.
        held: what learning rates are chosen by.
        rates: name of a method -> the rates to try, if there are any.
        progress, keep: as for `compare`.
    """

    forgetting: Forgetting
    forget: Questions
    retain: Questions
    held: Questions
    rates: Mapping[str, Sequence[float]]
    progress: Callable[[str], None]
    keep: Callable[..., None]

    def __post_init__(self) -> None:
        before = self.forget.before, self.retain.before, [], self.retain.spoken
        self.comparison = Comparison(*before, self.forgetting.until, len(self.held.rows))
        tuned, self.total = sum(map(bool, self.rates.values())), sum(len(some) or 1 for some in self.rates.values())
        self.left = TimeLeft(trial=sum(map(len, self.rates.values())), best=tuned, once=len(self.rates) - tuned)

    def enter(self, name: str, method: Any, folder: Any, key: str) -> None:
        """Puts what a method comes to, at the best of its rates if there are any, into the comparison.

        Args:
            folder: of its checkpoints, or None.
            key: digest of what a trial depends on besides its rate.
        """
        trials: list[Trial] = []
        for lr in self.rates[name]:
            trials.append(self.tried(name, method, place(folder, lr), lr, key))
            keep_best(folder, trials)
        best = best_trial(trials)
        if trials and best is None:
            self.left.done("best")
            error = "; ".join(f"lr {trial.lr:.3g}: {trial.error}" for trial in trials)
            self.progress(f"{name}: {error}")
            self.comparison.results.append(Result(name, error=error, trials=trials))
            return
        if best:
            self.progress(f"{name}: lr {best.lr:.3g} is the best of {len(trials)}{self.rest()}")
        else:
            self.announce(name)
        with self.left.timed("best" if best else "once"):
            self.comparison.results.append(self.final(name, method, folder, best, trials))

    def announce(self, what: str) -> None:
        number = self.total - self.left.jobs["trial"] - self.left.jobs["once"] + 1
        self.progress(f"{what} ({number} of {self.total}{self.rest()})")

    def rest(self) -> str:
        """Words about the time that is left, where it can be told."""
        return f", {self.left}" if str(self.left) else ""

    def tried(self, name: str, method: Any, folder: Any, lr: float, key: str) -> Trial:
        """A trial, as it was written down if it was made before."""
        if folder and (known := recall(folder, key)):
            self.left.done("trial")
            return known
        self.announce(f"{name} at lr {lr:.3g}")
        with self.left.timed("trial"):
            trial = self.trial(method, folder, lr)
        if folder and not trial.error:
            record(folder, key, trial)
        return trial

    def trial(self, method: Any, folder: Any, lr: float) -> Trial:
        """One learning rate, judged by the rows that are held out."""
        try:
            run = self.forgetting.by(method, folder, lr)
            forgotten = self.forgetting.looks.forgotten(run.applied.model)
            kept = self.held.kept(*self.held.ask(run.applied.model))
        except BROKEN as error:
            return Trial(lr, error=reason(error))
        shares = forgotten, kept, balance(forgotten, kept)
        return Trial(lr, *shares, len(run.losses), run.seconds, run.looking, run.reached(forgotten))

    def final(self, name: str, method: Any, folder: Any, best: Trial | None, trials: list[Trial]) -> Result:
        """The method as it is reported; the best so far is handed to `keep`."""
        result = Result(name, lr=best.lr if best else None, trials=trials)
        started = time.perf_counter()
        try:
            warn = None if best else lambda text: self.progress(f"{name}: {text}")
            run = self.forgetting.by(method, place(folder, result.lr), result.lr, warn)
            self.progress(f"{name}: scoring")
            scores, _ = self.forget.ask(run.applied.model)
            retain, spoken = self.retain.ask(run.applied.model)
        except BROKEN as error:
            self.progress(f"{name}: {reason(error)}")
            return replace(result, seconds=time.perf_counter() - started, error=reason(error))
        forgotten, kept = 1 - left(self.forget.before, scores, FORGOTTEN_BY), self.retain.kept(retain, spoken)
        trained = best or run  # at the best rate its trial did
        result = replace(
            result,
            forget=scores,
            retain=retain,
            perplexity=spoken,
            forgotten=forgotten,
            kept=kept,
            balance=balance(forgotten, kept),
            seconds=trained.seconds,
            looking=trained.looking,
            loss=run.losses,
            reached=run.reached(forgotten),
        )
        measured = ", ".join(f"{k} {getattr(result, k):.3g}" for k in ("forgotten", "kept", "balance"))
        looking = "" if self.comparison.until is None else f" and {duration(result.looking)} of looks"
        self.progress(f"{name}: {measured}, {duration(result.seconds)}{looking}")
        if replace(self.comparison, results=[*self.comparison.results, result]).best is result:
            learned = run.applied.learned
            self.keep(result, run.applied.model if learned is None else run.base, self.forget.tokenizer, learned)
        return result


def reason(error: Exception) -> str:
    """The first line of what an error says, or that memory has ended."""
    if out_of_memory(error):
        return "there is not enough memory: a smaller batch_size or max_length needs less"
    return next(iter(str(error).splitlines()), type(error).__name__)
