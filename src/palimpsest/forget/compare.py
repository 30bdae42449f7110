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

import numpy as np
import regex
from torch import Tensor, nn

from palimpsest.errors import UserError
from palimpsest.forget.evaluation import perplexity, settle_end, subsample
from palimpsest.forget.intervention import Intervention, intervene
from palimpsest.forget.looks import LOOK_ROWS, Looks, at, reached
from palimpsest.forget.procedure import ForgetData, encode_pairs, prepare, unlearn
from palimpsest.forget.shares import FORGOTTEN_BY, KEPT_BY, balance, left, measurable
from palimpsest.forget.tofu import RowScores, tofu_score
from palimpsest.models.score import context_length, prompt_template
from palimpsest.tasks.rows import Row
from palimpsest.train.history import History
from palimpsest.train.method import check_model, check_needs
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


@dataclass(frozen=True)
class Comparison:
    """A model before and after each method; `before_perplexity` is that of the general text, NaN without one, and
    `until` the level of forgetting at which training ended, None without one."""

    before_forget: RowScores
    before_retain: RowScores | None
    results: list[Result]
    before_perplexity: float = float("nan")
    until: float | None = None

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

        def merit(result: Result) -> tuple[float, ...]:
            values = (1.0, result.kept) if result.reached else (0.0, result.balance, result.kept)
            return tuple(-1.0 if np.isnan(x) else x for x in values)

        return done[0] if len(done) == 1 else max(done, key=merit)


def apply(
    model: nn.Module, method: Any, data: ForgetData, *, checkpoint: Any = None, **options: Any
) -> tuple[nn.Module, History | None, dict[str, Tensor] | None]:
    """Makes a model forget by a method of any shape: an objective, an edit or an intervention.

    Args:
        model: changed in place by all but interventions.
        checkpoint: a folder for an objective's checkpoints, or None; the others keep none.
        options: steps, lr, batch_size, seed, optimizer, schedule, ...; an objective's `evaluate`, `evaluate_every` and
            `stop` too, which the others ignore.

    Returns:
        The model that forgets, the history of an objective's training, and what an intervention learned.

    Raises:
        UserError: if the method needs rows that `data` lacks.
        NonFiniteLoss: if the loss is not finite.
    """
    check_needs(method, data)
    check_model(method, model)
    if not isinstance(method, Intervention) and not hasattr(method, "edit"):
        return model, unlearn(model, method, data, checkpoint=checkpoint, **options), None
    for name in ("checkpoint_every", "evaluate", "evaluate_every", "stop"):
        options.pop(name, None)
    if hasattr(method, "edit"):
        return method.edit(model, data, **options), None, None
    changed, learned = intervene(model, method, data, **options)
    return changed, None, learned


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
        keep: called with each new best result, its model (of an intervention, the model without it), the tokenizer and
            what an intervention learned (None for other methods), so that they can be saved.
        checkpoint: method -> the folder of its checkpoints, or None.
        options: for `unlearn`: steps, lr, optimizer, schedule, ...

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
    model, tokenizer = load()
    settle_end(model, tokenizer, [*forget, *retain], batch_size=batch_size)
    max_length = min(max_length, context_length(model) or max_length)
    if truncate:
        forget, retain = (shorten(tokenizer, rows, max_length, progress) for rows in (forget, retain))
    data = prepare(tokenizer, pairs(tokenizer, forget), pairs(tokenizer, retain), max_length=max_length, seed=seed)

    def scores(model: nn.Module) -> tuple[RowScores, RowScores | None]:
        sets = [
            tofu_score(model, rows, tokenizer=tokenizer, max_rows=max_rows, seed=seed) if rows else None
            for rows in (forget, retain)
        ]
        return sets[0], sets[1]

    for name, method in methods.items():
        try:
            check_needs(method, data)
            check_model(method, model)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
    progress("scoring the model as it is")
    before_forget, before_retain = scores(model)
    before_text = perplexity(model, tokenizer, text) if text else float("nan")
    stopping: dict[str, Any] = {}
    if until is not None:
        asked = subsample(range(len(before_forget)), LOOK_ROWS, seed)
        scored = subsample(forget, max_rows, seed)
        looks = Looks(tokenizer, [scored[i] for i in asked], at(before_forget, asked))
        if not measurable(looks.before, FORGOTTEN_BY):
            raise UserError("the model does not know the forget rows: there is no level of forgetting to reach")
        stopping = {"evaluate": looks, "evaluate_every": look_every, "stop": partial(reached, until)}
    comparison = Comparison(before_forget, before_retain, [], before_text, until)
    first = time.perf_counter()
    for i, (name, method) in enumerate(methods.items()):
        if i:
            model = changed = None  # only one copy is in memory
            model, _ = load()
        left_over = (time.perf_counter() - first) / i * (len(methods) - i) if i else 0.0
        progress(f"{name} ({i + 1} of {len(methods)}{f', about {duration(left_over)} left' if i else ''})")
        if until is not None:
            looks.seconds = 0.0
        started = time.perf_counter()
        try:
            changed, history, learned = apply(
                model,
                method,
                data,
                batch_size=batch_size,
                seed=seed,
                checkpoint=checkpoint(name),
                **stopping,
                **options,
            )
            seconds = time.perf_counter() - started
            after_forget, after_retain = scores(changed)
            after_text = perplexity(changed, tokenizer, text) if text else float("nan")
        except (ValueError, RuntimeError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            comparison.results.append(Result(name, seconds=time.perf_counter() - started, error=reason))
            progress(f"{name}: {reason}")
            continue
        forgotten = 1 - left(before_forget, after_forget, FORGOTTEN_BY)
        kept = float("nan")
        if retain or text:
            spoken = [before_text / after_text] if text else []
            kept = left(before_retain, after_retain, KEPT_BY if retain else (), *spoken)
        result = Result(
            name,
            after_forget,
            after_retain,
            after_text,
            forgotten,
            kept,
            balance(forgotten, kept),
            loss=[step["loss"] for step in history.steps] if history else [],
            seconds=seconds,
        )
        if until is not None:
            found = history.evaluations[-1] if history else {"forgotten": forgotten}
            result = replace(
                result, reached=reached(until, found), seconds=seconds - looks.seconds, looking=looks.seconds
            )
        comparison.results.append(result)
        measured = {"forgotten": forgotten, "kept": kept, "balance": result.balance}
        taken = f"{duration(result.seconds)}{f' and {duration(result.looking)} of looks' if result.looking else ''}"
        progress(f"{name}: {', '.join(f'{k} {v:.3g}' for k, v in measured.items())}, {taken}")
        if comparison.best is result:
            keep(result, changed if learned is None else model, tokenizer, learned)
    return comparison
