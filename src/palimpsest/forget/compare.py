"""Several methods on one model: each forgets on its own copy, all are scored alike, and a stated rule names the best.

    forgotten = 1 - mean of after / before over {probability, ROUGE-L recall, extraction strength} on the forget rows
    kept      = mean of after / before over {probability, ROUGE-L recall} on the retain rows, and of before / after of
                the perplexity of general text, where there is some
    balance   = harmonic mean of forgotten and kept

where each ratio is of means over rows and counts as 1 at most; a measure below 0.01 before has nothing to lose and is
left out. The best method has the highest balance: one that forgets by destroying the model keeps nothing, one that does
nothing forgets nothing, and both have balance 0.
"""

from __future__ import annotations

import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import regex
from torch import Tensor, nn

from palimpsest.errors import UserError
from palimpsest.forget.evaluation import perplexity, settle_end
from palimpsest.forget.intervention import Intervention, intervene
from palimpsest.forget.procedure import ForgetData, encode_pairs, prepare, unlearn
from palimpsest.forget.tofu import RowScores, tofu_score
from palimpsest.models.score import context_length, prompt_template
from palimpsest.tasks.rows import Row
from palimpsest.train.method import check_model, check_needs
from palimpsest.train.progress import duration

RULE = "highest balance: the harmonic mean of the share forgotten and the share kept"
FORGOTTEN_BY = ("probability", "rouge", "extraction_strength")
KEPT_BY = ("probability", "rouge")
LEAST = 0.01  # what is below it before has nothing to lose


def mean(scores: RowScores, name: str) -> float:
    """The mean over rows of one of the columns; NaN entries (rows without wrong answers) are left out."""
    values = np.asarray(getattr(scores, name))
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def measurable(before: RowScores, names: Sequence[str]) -> list[str]:
    """The named columns that had something to lose: those with a mean of at least 0.01."""
    return [name for name in names if mean(before, name) >= LEAST]


def left(before: RowScores, after: RowScores, names: Sequence[str], *more: float) -> float:
    """The mean of after / before over the named columns that had something to lose, and of `more`, each at most 1; NaN
    where there is none."""
    ratios = [mean(after, name) / mean(before, name) for name in measurable(before, names)]
    return float(np.mean(np.minimum([*ratios, *more], 1.0))) if ratios or more else float("nan")


def balance(forgotten: float, kept: float) -> float:
    """The harmonic mean of both; 0 where either is, NaN where either cannot be had.

    >>> balance(1.0, 0.5), balance(1.0, 0.0)
    (0.6666666666666666, 0.0)
    """
    if np.isnan(forgotten) or np.isnan(kept):
        return float("nan")
    return 2 * forgotten * kept / (forgotten + kept) if forgotten > 0 and kept > 0 else 0.0


@dataclass(frozen=True)
class Result:
    """What became of one method.

    Attributes:
        forget, retain: the scores of every row afterwards; `retain` is None without retain rows, both where it failed.
        perplexity: of the general text afterwards; NaN without one.
        forgotten, kept, balance: see the module; NaN where they cannot be had.
        seconds: of training, scoring left out.
        loss: the loss of every step.
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


@dataclass(frozen=True)
class Comparison:
    """A model before and after each method; `before_perplexity` is that of the general text, NaN without one."""

    before_forget: RowScores
    before_retain: RowScores | None
    results: list[Result]
    before_perplexity: float = float("nan")

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
        """The result with the highest balance, or where that cannot be had, that keeps most; with one method, that one.

        Raises:
            UserError: if no method came to its end.
        """
        done = [result for result in self.results if not result.error]
        if not done:
            raise UserError("; ".join(f"{result.method}: {result.error}" for result in self.results))
        return (
            done[0]
            if len(done) == 1
            else max(done, key=lambda result: tuple(-1.0 if np.isnan(x) else x for x in (result.balance, result.kept)))
        )


def apply(
    model: nn.Module, method: Any, data: ForgetData, *, checkpoint: Any = None, **options: Any
) -> tuple[nn.Module, list[float], dict[str, Tensor] | None]:
    """Makes a model forget by a method of any shape: an objective, an edit or an intervention.

    Args:
        model: changed in place by all but interventions.
        checkpoint: a folder for an objective's checkpoints, or None; the others keep none.
        options: steps, lr, batch_size, seed, optimizer, schedule, ...

    Returns:
        The model that forgets, the loss of every step (of an objective), and what was learned (of an intervention).

    Raises:
        UserError: if the method needs rows that `data` lacks.
        NonFiniteLoss: if the loss is not finite.
    """
    check_needs(method, data)
    check_model(method, model)
    if not isinstance(method, Intervention) and not hasattr(method, "edit"):
        history = unlearn(model, method, data, checkpoint=checkpoint, **options)
        return model, [step["loss"] for step in history.steps], None
    options.pop("checkpoint_every", None)
    if hasattr(method, "edit"):
        return method.edit(model, data, **options), [], None
    changed, learned = intervene(model, method, data, **options)
    return changed, [], learned


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
        keep: called with each new best result, its model (of an intervention, the model without it), the tokenizer and
            what an intervention learned (None for other methods), so that they can be saved.
        checkpoint: method -> the folder of its checkpoints, or None.
        options: for `unlearn`: steps, lr, optimizer, schedule, ...

    Raises:
        UserError: for bad rows or fields, or a method that needs other rows, before anything is computed. What stops a
            method later (a loss that is not finite, rows that it cannot use, too little memory) is its result's error,
            and the others go on.
    """
    if not methods:
        raise UserError("no method given")
    if len(methods) > 1 and not retain and not text:
        raise UserError("methods are compared by what they keep: give retain rows, general text, or one method only")
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
    results = []
    first = time.perf_counter()
    for i, (name, method) in enumerate(methods.items()):
        if i:
            model = changed = None  # only one copy is in memory
            model, _ = load()
        left_over = (time.perf_counter() - first) / i * (len(methods) - i) if i else 0.0
        progress(f"{name} ({i + 1} of {len(methods)}{f', about {duration(left_over)} left' if i else ''})")
        started = time.perf_counter()
        try:
            changed, loss, learned = apply(
                model, method, data, batch_size=batch_size, seed=seed, checkpoint=checkpoint(name), **options
            )
            seconds = time.perf_counter() - started
            after_forget, after_retain = scores(changed)
            after_text = perplexity(changed, tokenizer, text) if text else float("nan")
        except (ValueError, RuntimeError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            results.append(Result(name, seconds=time.perf_counter() - started, error=reason))
            progress(f"{name}: {reason}")
            continue
        forgotten = 1 - left(before_forget, after_forget, FORGOTTEN_BY)
        kept = float("nan")
        if retain or text:
            spoken = [before_text / after_text] if text else []
            kept = left(before_retain, after_retain, KEPT_BY if retain else (), *spoken)
        parts = (forgotten, kept, balance(forgotten, kept), seconds, loss)
        results.append(Result(name, after_forget, after_retain, after_text, *parts))
        measured = {"forgotten": forgotten, "kept": kept, "balance": results[-1].balance}
        progress(f"{name}: {', '.join(f'{k} {v:.3g}' for k, v in measured.items())}, {duration(seconds)}")
        comparison = Comparison(before_forget, before_retain, results, before_text)
        if comparison.best is results[-1]:
            keep(results[-1], changed if learned is None else model, tokenizer, learned)
    return Comparison(before_forget, before_retain, results, before_text)
