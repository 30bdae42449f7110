"""TOFU: has a model forgotten as if it had never known, and is it still of use?

Maini, Feng, Schwarzschild, Lipton and Kolter, 2024, "TOFU: A Task of Fictitious Unlearning for LLMs", arXiv 2401.06121.
Section 2.2 asks two questions of an unlearned model. *Forget quality*: is the distribution of its truth ratios on the
forget rows that of a model retrained without them? *Model utility*: how well does it do on everything else?

    P(a|q)         = exp(-mean NLL of the tokens of a and the end)
    R              = mean_i P(wrong_i|q) / P(paraphrase|q)        below 1 where the fact is known
    forget quality = p-value of a two-sample Kolmogorov-Smirnov test between the R' of both models
    model utility  = harmonic mean of {P, ROUGE-L recall, mean max(0, 1 - R)} on {retain, real authors, world facts}

On the last two sets P is P(a|q) / (P(a|q) + sum_i P(wrong_i|q)) and the answer stands for its paraphrase. R' has the
geometric mean over the wrong answers where R has the arithmetic one. The paper writes R in both places; its published
figures are made as above (`utils.py` of locuslab/tofu). The script for its leaderboard there, and OpenUnlearning, take
R' in both: their model utility is `model_utility` of parts made from `RowScores.truth_ratio_geometric`. What else is
otherwise than published, unless it is asked for: how questions are written (`TofuTemplate`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp
from scipy.stats import hmean, ks_2samp
from torch import nn
from transformers import PreTrainedTokenizerBase

from palimpsest.errors import UserError
from palimpsest.forget.evaluation import greedy_answers, score_candidates, subsample
from palimpsest.forget.intervention import load
from palimpsest.metrics.text import exact_memorization, extraction_strength, rouge_l_recall
from palimpsest.models.score import Encoded, greedy
from palimpsest.tasks.authors import SPLITS, AuthorRow, AuthorsTask
from palimpsest.tasks.rows import Row, normalise, read_rows

SMALLEST_LOG10 = -300.0  # of a p-value: what lies below underflows
NEW_TOKENS = 200  # that an answer to a published template may have


@dataclass(frozen=True)
class TofuTemplate:
    """How the released checkpoints were shown a question and its answer: one text, encoded in one piece.

    Of its tokens the first n are not scored, n being how many the prompt alone has, and the end is. Without a template
    questions are written as the tokenizer asks for, or as "Question: ...\\nAnswer:", since a model of yours has learnt
    no other form; a released model scored in that form gets other numbers than were published.

    Attributes:
        prompt: what comes before the answer, with {question} in it.
        answer: the answer's part, with {answer} in it: what it begins with is scored too.
    """

    prompt: str
    answer: str = "{answer}"

    def __post_init__(self) -> None:
        for text, name in ((self.prompt, "{question}"), (self.answer, "{answer}")):
            if text.count(name) != 1:
                raise UserError(f"a template must have {name} once, got {text!r}")

    def asked(self, question: str) -> str:
        """The text before an answer.

        >>> TEMPLATES["phi"].asked("Who?")
        'Question: Who?\\n'
        """
        if not question:
            raise UserError("a template is for questions, and a row has no question: leave the template out")
        return self.prompt.replace("{question}", question)

    def encode(self, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], max_length: int) -> Encoded:
        """Questions and answers as rows of token ids.

        Raises:
            UserError: a row is longer than `max_length`, or without question.
        """
        prompts = [self.asked(question) for question, _ in pairs]
        texts = [p + self.answer.replace("{answer}", a) for p, (_, a) in zip(prompts, pairs, strict=True)]
        lengths = [len(ids) for ids in tokenizer(prompts).input_ids]
        ends = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        rows = [ids if ids[-1:] == ends else ids + ends for ids in tokenizer(texts).input_ids]
        longest = max(map(len, rows))
        if longest > max_length:
            raise UserError(f"a row of {longest} tokens is longer than the model's context of {max_length} tokens")
        return Encoded(rows, [max(1, min(n, len(row))) for n, row in zip(lengths, rows, strict=True)])


TEMPLATES = {  # of locuslab/tofu; OpenUnlearning's differ for phi, where "Answer: " belongs to the prompt
    "llama-2": TofuTemplate("[INST] {question} [/INST]"),
    "phi": TofuTemplate("Question: {question}\n", "Answer: {answer}"),
    "phi-openunlearning": TofuTemplate("Question: {question}\nAnswer: "),
}


def answer_probability(nll: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """P(a|q) = exp(-nll), the geometric mean of the tokens' probabilities; `nll` in nats a token.

    >>> answer_probability(np.array([0.0, np.log(4.0), np.inf])).round(2)
    array([1.  , 0.25, 0.  ])
    """
    return np.exp(-np.asarray(nll, dtype=np.float64))


def choice_probability(
    nll_answer: Float[np.ndarray, "rows"], nll_wrong: Float[np.ndarray, "rows wrong"]
) -> Float[np.ndarray, "rows"]:
    """P(a) / (P(a) + sum_i P(wrong_i)), the right answer's share among the choices; NaN wrong answers do not exist.

    >>> choice_probability(np.array([1.0]), np.array([[1.0, 1.0, 1.0]]))
    array([0.25])
    """
    nll_answer, nll_wrong = _check(nll_answer, nll_wrong)
    choices = -np.concatenate([nll_answer[:, None], np.where(np.isnan(nll_wrong), np.inf, nll_wrong)], axis=1)
    with np.errstate(invalid="ignore"):
        share = np.exp(choices[:, 0] - logsumexp(choices, axis=1))
    return np.where(np.isinf(nll_answer), 0.0, share)


def truth_ratio(
    nll_para: Float[np.ndarray, "rows"], nll_wrong: Float[np.ndarray, "rows wrong"], *, geo: bool = False
) -> Float[np.ndarray, "rows"]:
    """R = mean_i P(wrong_i) / P(paraphrase), computed from logarithms: low where the fact is known, about 1 where not.

    Args:
        nll_para: mean NLL of the paraphrased answer, in nats a token.
        nll_wrong: the same of each wrong answer; NaN where a row has fewer.
        geo: the geometric mean over wrong answers, exp(nll_para - mean_i nll_wrong_i), which forget quality takes.

    Returns:
        R; infinite where the paraphrase has no probability left, NaN for a row without wrong answers.

    >>> nll = np.log([[4.0, 2.0, 8.0]])  # probabilities 1/4 for the paraphrase, 1/2 and 1/8 for wrong answers
    >>> truth_ratio(nll[:, 0], nll[:, 1:]), truth_ratio(nll[:, 0], nll[:, 1:], geo=True)
    (array([1.25]), array([1.]))
    """
    nll_para, nll_wrong = _check(nll_para, nll_wrong)
    exists = ~np.isnan(nll_wrong)
    count = exists.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        if geo:
            log_wrong = -np.where(exists, nll_wrong, 0.0).sum(axis=1) / count
        else:
            log_wrong = logsumexp(-np.where(exists, nll_wrong, np.inf), axis=1) - np.log(count)
        ratio = np.exp(nll_para + log_wrong)
    ratio = np.where(np.isinf(nll_para), np.inf, ratio)
    return np.where(count == 0, np.nan, ratio)


class ForgetQuality(NamedTuple):
    """Of a two-sample Kolmogorov-Smirnov test: `p`, its decimal logarithm (at least -300), the largest distance."""

    p: float
    log10_p: float
    statistic: float


def forget_quality(
    truth_ratios: Float[np.ndarray, "rows"], gold_truth_ratios: Float[np.ndarray, "gold_rows"]
) -> ForgetQuality:
    """Whether a model's truth ratios on the forget rows could be those of a model that never saw these rows.

    A high p means that nothing tells the two apart. Only ranks count: any increasing function of R gives the same.

    >>> forget_quality(np.arange(1.0, 9.0), np.arange(1.0, 9.0))
    ForgetQuality(p=1.0, log10_p=0.0, statistic=0.0)
    """
    samples = [np.asarray(sample, dtype=np.float64).ravel() for sample in (truth_ratios, gold_truth_ratios)]
    for name, sample in zip(("truth_ratios", "gold_truth_ratios"), samples, strict=True):
        if sample.size == 0 or np.isnan(sample).any():
            raise ValueError(f"{name} must be numbers: {np.isnan(sample).sum()} of {sample.size} are NaN")
    with warnings.catch_warnings():
        # An exact p-value too small for a float makes SciPy warn and fall back on the asymptotic one.
        warnings.simplefilter("ignore", RuntimeWarning)
        test = ks_2samp(*samples)
    p = float(test.pvalue)
    log10_p = max(float(np.log10(p)), SMALLEST_LOG10) if p > 0 else SMALLEST_LOG10
    return ForgetQuality(p, log10_p, float(test.statistic))


def model_utility(parts: Sequence[float]) -> float:
    """The harmonic mean of the nine parts, each in [0, 1]: 0 as soon as one of them is.

    >>> round(model_utility([0.5] * 8 + [0.25]), 6)
    0.45
    """
    values = np.asarray(list(parts), dtype=np.float64)
    if values.size == 0 or np.isnan(values).any() or (values < 0).any() or (values > 1 + 1e-9).any():
        raise ValueError(f"the parts of the utility must lie in [0, 1], got {values.tolist()}")
    return float(hmean(values))


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


def _check(
    nll_right: Float[np.ndarray, "rows"], nll_wrong: Float[np.ndarray, "rows wrong"]
) -> tuple[Float[np.ndarray, "rows"], Float[np.ndarray, "rows wrong"]]:
    right, wrong = np.asarray(nll_right, dtype=np.float64), np.asarray(nll_wrong, dtype=np.float64)
    if right.ndim != 1 or wrong.ndim != 2 or len(right) != len(wrong):
        raise ValueError(f"expected shapes [rows] and [rows, wrong answers], got {right.shape} and {wrong.shape}")
    if np.isnan(right).any():
        raise ValueError(f"{np.isnan(right).sum()} of {len(right)} right answers have a NaN likelihood")
    return right, wrong
