"""TOFU's scores of a causal language model: of rows, and of the benchmark's four sets (Maini et al. 2024, arXiv
2401.06121)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import nn
from transformers import PreTrainedTokenizerBase

from palimpsest.errors import UserError
from palimpsest.forget.evaluation import greedy_answers, score_candidates, subsample
from palimpsest.forget.intervention import load
from palimpsest.forget.tofu import (
    ForgetQuality,
    answer_probability,
    choice_probability,
    forget_quality,
    model_utility,
    truth_ratio,
)
from palimpsest.forget.tofu_templates import TEMPLATES, TofuTemplate
from palimpsest.metrics.text import exact_memorization, extraction_strength, rouge_l_recall
from palimpsest.models.score import greedy
from palimpsest.tasks.authors import SPLITS, AuthorRow, AuthorsTask
from palimpsest.tasks.rows import Row, normalise, read_rows

NEW_TOKENS = 200  # that an answer to a published template may have


@dataclass(frozen=True)
class RowScores:
    """TOFU's numbers for every row of a set.

    Attributes:
        output: the model's greedy answer.
        probability: P(a|q).
        choice_probability: P(a|q) / (P(a|q) + sum_i P(wrong_i|q)); NaN without wrong answers.
        rouge: ROUGE-L recall of the stemmed words of the output, for a text without question of its second half; 0 for
            an empty one.
        truth_ratio: R; NaN without wrong answers.
        truth_ratio_geometric: R', of the geometric mean over the wrong answers.
        extraction_strength: 1 - k/n, k the shortest given prefix of the n answer tokens after which all are right; the
            end is none of them. (OpenUnlearning's loop stops at k = n - 1: it has 1/n where the last token is wrong,
            and 0 stands here.)
        exact_memorization: share of the same tokens that are the model's first choice.
    """

    output: list[str]
    probability: Float[np.ndarray, "rows"]
    choice_probability: Float[np.ndarray, "rows"]
    rouge: Float[np.ndarray, "rows"]
    truth_ratio: Float[np.ndarray, "rows"]
    truth_ratio_geometric: Float[np.ndarray, "rows"]
    extraction_strength: Float[np.ndarray, "rows"]
    exact_memorization: Float[np.ndarray, "rows"]

    def __len__(self) -> int:
        return len(self.output)

    def records(self) -> list[dict[str, Any]]:
        """A dict for every row, ready for JSON: what is not a finite number is None."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return [
            {
                name: column[i] if name == "output" else float(column[i]) if np.isfinite(column[i]) else None
                for name, column in columns.items()
            }
            for i in range(len(self))
        ]


def tofu_score(
    model: nn.Module | str | Path,
    rows: Sequence[Row | AuthorRow] | str | Path,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    template: TofuTemplate | str | None = None,
    max_rows: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> RowScores:
    """Score a causal language model on rows in TOFU's format.

    Args:
        model: a Hugging Face model, or the folder of one.
        rows: rows, or a JSON-lines file with `question` and `answer`, and optionally `paraphrased_answer` (the answer
            stands in where it is absent) and `perturbed_answer` (without it the truth ratio is NaN).
        tokenizer: the model's; loaded with the model where that is a folder.
        template: how questions and answers are written, of `TEMPLATES` by name or one of your own; None is the
            tokenizer's chat template, or "Question: ...\\nAnswer:". A released checkpoint has its published numbers
            only in the form that it was trained with.
        max_rows: score at most so many rows, drawn by `seed`.
        batch_size: answers that go through the model at once.

    Raises:
        UserError: the folder, the file, a row or the template is not valid, or an answer does not fit into the model's
            context.
    """
    if isinstance(model, (str, Path)):
        model, own_tokenizer = load(model)
        tokenizer = tokenizer or own_tokenizer
    if tokenizer is None:
        raise ValueError("tofu_score needs the model's tokenizer, unless the model is given as a folder")
    return _score_sets(model, tokenizer, {"rows": subsample(_rows(rows), max_rows, seed)}, template, batch_size)["rows"]


@dataclass(frozen=True)
class TofuScores:
    """A model's place on TOFU's two axes, and what it is made of.

    Attributes:
        quality: p, log10 p and statistic against the gold model; None without gold truth ratios.
        model_utility: the harmonic mean of `parts`.
        parts: "retain probability", "retain rouge", "retain truth", and the same of real_authors and world_facts.
        sets: the numbers of every row of the four sets.
    """

    quality: ForgetQuality | None
    model_utility: float
    parts: dict[str, float]
    sets: dict[str, RowScores]

    @property
    def truth_ratios(self) -> Float[np.ndarray, "rows"]:
        """R' on the forget rows: of a gold model, what `evaluate_tofu` takes as `gold_scores`."""
        return self.sets["forget"].truth_ratio_geometric

    def metrics(self) -> dict[str, float]:
        """The numbers a claim records, as a flat dict: what `fit(evaluate=...)` takes. The "forget truth ratio" is the
        published one, mean min(R, 1/R): 1 where true and false are as likely, lower where either is preferred."""
        forget = self.sets["forget"]
        with np.errstate(divide="ignore"):
            closeness = np.minimum(forget.truth_ratio, 1 / forget.truth_ratio)
        quality = (
            {}
            if self.quality is None
            else {
                "forget quality": self.quality.p,
                "log10 forget quality": self.quality.log10_p,
                "KS statistic": self.quality.statistic,
            }
        )
        return {
            **quality,
            "model utility": self.model_utility,
            "forget probability": float(forget.probability.mean()),
            "forget rouge": float(forget.rouge.mean()),
            "forget truth ratio": float(closeness.mean()),
            "forget extraction strength": float(forget.extraction_strength.mean()),
            "forget exact memorization": float(forget.exact_memorization.mean()),
            **self.parts,
        }


def evaluate_tofu(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    task: AuthorsTask | Mapping[str, Sequence[Row] | str | Path],
    gold_scores: Float[np.ndarray, "gold_rows"] | None = None,
    *,
    max_rows: int | None = 64,
    template: TofuTemplate | str | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> TofuScores:
    """Forget quality and model utility of a model, in one scoring pass and one generation pass over the four sets.

    Args:
        model, tokenizer: any Hugging Face causal language model.
        task: the authors task, or rows or files under "forget", "retain", "real_authors" and "world_facts". Every
            row needs wrong answers.
        gold_scores: `truth_ratios` of the model retrained without the forget rows.
        max_rows: at most so many rows of each retained set, the same ones for a `seed`; None for all. The forget rows
            are all scored: the test of forget quality needs them.
        template: as for `tofu_score`; the same as for `gold_scores`.
        batch_size: answers that go through the model at once.

    Raises:
        UserError: a set is missing, or a row has no wrong answers.
    """
    sets = {split: task.rows(split) for split in SPLITS} if isinstance(task, AuthorsTask) else dict(task)
    if set(sets) != set(SPLITS):
        raise UserError(f"TOFU scores four sets, {', '.join(SPLITS)}; got {', '.join(sets) or 'none'}")
    limits = {split: None if split == "forget" else max_rows for split in SPLITS}
    rows = {split: subsample(_rows(sets[split]), limits[split], seed) for split in SPLITS}
    for split, split_rows in rows.items():
        bare = next((row for row in split_rows if not row["perturbed_answer"]), None)
        if bare is not None:
            raise UserError(f"{split}: the row {bare['question']!r} has no perturbed_answer, which TOFU's scores need")
    scores = _score_sets(model, tokenizer, rows, template, batch_size)
    parts = {}
    for split in SPLITS[1:]:
        s = scores[split]
        parts[f"{split} probability"] = float((s.probability if split == "retain" else s.choice_probability).mean())
        parts[f"{split} rouge"] = float(s.rouge.mean())
        parts[f"{split} truth"] = float(np.maximum(0, 1 - s.truth_ratio).mean())
    quality = None if gold_scores is None else forget_quality(scores["forget"].truth_ratio_geometric, gold_scores)
    return TofuScores(quality, model_utility(list(parts.values())), parts, scores)


def _score_sets(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    sets: dict[str, list[Row]],
    template: TofuTemplate | str | None,
    batch_size: int,
) -> dict[str, RowScores]:
    """All sets at once, so that batches are full and rows of like length go together."""
    if isinstance(template, str):
        if template not in TEMPLATES:
            raise UserError(f"no template {template!r}: give one of {', '.join(TEMPLATES)}, or a TofuTemplate")
        template = TEMPLATES[template]
    rows = [row for set_rows in sets.values() for row in set_rows]
    questions, answers = [row["question"] for row in rows], [row["answer"] for row in rows]
    paraphrases = [row.get("paraphrased_answer", row["answer"]) for row in rows]
    candidates = [[a, para, *row["perturbed_answer"]] for a, para, row in zip(answers, paraphrases, rows, strict=True)]
    form = {} if template is None else {"write": template.encode}
    nll, hits = score_candidates(model, tokenizer, questions, candidates, batch_size=batch_size, **form)
    nll_answer, nll_para, nll_wrong = nll[:, 0], nll[:, 1], nll[:, 2:]
    if template is None:
        output, expected = greedy_answers(model, tokenizer, questions, answers, batch_size=batch_size)
    else:
        prompts = [template.asked(question) for question in questions]
        said = greedy(model, tokenizer, prompts, max_new_tokens=NEW_TOKENS, batch_size=batch_size)
        output, expected = [text.strip() for text in said], answers
    has_wrong = ~np.isnan(nll_wrong).all(axis=1)
    columns = {
        "probability": answer_probability(nll_answer),
        "choice_probability": np.where(has_wrong, choice_probability(nll_answer, nll_wrong), np.nan),
        "rouge": np.array(
            [rouge_l_recall(out, answer, stem=True) for out, answer in zip(output, expected, strict=True)]
        ),
        "truth_ratio": truth_ratio(nll_para, nll_wrong),
        "truth_ratio_geometric": truth_ratio(nll_para, nll_wrong, geo=True),
        "extraction_strength": np.array([extraction_strength(row[0]) for row in hits]),
        "exact_memorization": np.array([exact_memorization(row[0]) for row in hits]),
    }
    scores, start = {}, 0
    for name, set_rows in sets.items():
        part = slice(start, start := start + len(set_rows))
        scores[name] = RowScores(output[part], **{column: values[part] for column, values in columns.items()})
    return scores


def _rows(rows: Sequence[Row | AuthorRow] | str | Path) -> list[Row]:
    if isinstance(rows, (str, Path)):
        return read_rows(rows)
    if not rows:
        raise UserError("no rows to score: give at least one")
    return [
        normalise(row.to_json() if isinstance(row, AuthorRow) else row, f"row {number}")
        if isinstance(row, AuthorRow) or row.get("question") != ""  # a text, normalised before
        else row
        for number, row in enumerate(rows, start=1)
    ]
