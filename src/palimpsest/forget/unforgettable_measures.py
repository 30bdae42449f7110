"""How far the forgetting of a skill reaches, and how deep it goes (Zhang, Choshen and Andreas, 2024, arXiv
2409.02228)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from palimpsest.models.score import encode, pad_token_id, score
from palimpsest.tasks.choices import Choice, ChoiceTask

MAX_TOKENS = 512  # of a prompt and its answer


def option_probabilities(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Choice], options: Sequence[str]
) -> Float[Tensor, "rows options"]:
    """p(option | prompt), divided by its sum over the options."""
    pairs = [(row.prompt, f" {option}") for row in rows for option in options]
    encoded = encode(tokenizer, *zip(*pairs, strict=True), max_length=MAX_TOKENS, add_eos=False)
    logp = score(model, encoded, pad_id=pad_token_id(tokenizer), batch_size=128).logp
    return torch.from_numpy(logp).view(len(rows), len(options)).softmax(-1)


def accuracy(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Choice], options: Sequence[str]
) -> float:
    """The share of rows whose true answer is the most likely option."""
    best = option_probabilities(model, tokenizer, rows, options).argmax(-1)
    return float(np.mean([options[i] == row.answer for i, row in zip(best.tolist(), rows, strict=True)]))


def forget_ratio(acc_ft: float, acc_forget: float, acc_random: float) -> float:
    """(acc_ft - acc_forget) / (acc_ft - acc_random): 1 where the skill is forgotten, 0 where it is all there; above 1
    for a model that is worse than a guess, below 0 for one that became better.

    Raises:
        ValueError: if the model was no better than a guess before: there is nothing to forget.

    >>> forget_ratio(0.9, 0.7, 0.5)
    0.5
    """
    if not acc_ft > acc_random:
        raise ValueError(f"there is nothing to forget: accuracy {acc_ft} is not above that of a guess, {acc_random}")
    return round((acc_ft - acc_forget) / (acc_ft - acc_random), 12)


def forget_matrix(
    models: Mapping[str, nn.Module],
    original: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Mapping[str, ChoiceTask],
) -> dict[str, dict[str, float]]:
    """Forgotten task -> task -> forget ratio on the latter's held-out rows: the diagonal says whether forgetting
    generalises within a task, the rest what else it took. NaN for a task at which the original was no better than a
    guess.

    Args:
        models: by the name of the task that each has forgotten.
        original: the model before.
    """

    def held_out(model: nn.Module, task: ChoiceTask) -> float:
        return accuracy(model, tokenizer, task.test, task.options)

    before = {name: held_out(original, task) for name, task in tasks.items()}
    return {
        forgotten: {
            name: forget_ratio(before[name], held_out(model, task), task.chance)
            if before[name] > task.chance
            else float("nan")
            for name, task in tasks.items()
        }
        for forgotten, model in models.items()
    }


@torch.no_grad()
def last_token_states(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Choice], *, batch_size: int = 128
) -> Float[Tensor, "layers+1 rows d"]:
    """The residual stream at the last token of every prompt, on the CPU: from the embedding to the last layer, which
    comes after the final norm."""
    encoded = encode(tokenizer, [row.prompt for row in rows], [""] * len(rows), max_length=MAX_TOKENS, add_eos=False)
    device, found = next(model.parameters()).device, []
    for start in range(0, len(rows), batch_size):
        batch = encoded.batch(range(start, min(start + batch_size, len(rows))), pad_token_id(tokenizer))
        last = batch["attention_mask"].sum(1) - 1
        inputs = {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}
        states = model(**inputs, output_hidden_states=True).hidden_states
        found.append(torch.stack([state[torch.arange(len(last)), last].float().cpu() for state in states]))
    return torch.cat(found, dim=1)


def total_variance(states: Float[Tensor, "rows d"]) -> float:
    """The trace of the (unbiased) covariance of the rows.

    >>> total_variance(torch.tensor([[0.0, 0.0], [2.0, 4.0]]))
    10.0
    """
    if states.ndim != 2 or len(states) < 2:
        raise ValueError(f"states must be [rows, d] with at least two rows, got {tuple(states.shape)}")
    return float(states.var(dim=0).sum())


def predictors(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Choice], options: Sequence[str]
) -> dict[str, float]:
    """What the paper predicts generalisation by, of the model before forgetting, on the rows that will be trained on:
    "confidence", the mean probability of the likeliest option, and "total variance" of the last layer's states."""
    return {
        "confidence": float(option_probabilities(model, tokenizer, rows, options).amax(-1).mean()),
        "total variance": total_variance(last_token_states(model, tokenizer, rows)[-1]),
    }


def predictor_correlations(found: Mapping[str, Mapping[str, float]], ratios: Mapping[str, float]) -> dict[str, float]:
    """Spearman's rank correlation over tasks between each predictor and the held-out forget ratio; 0 where one of both
    does not vary. The paper finds both predictors negatively correlated with it.

    Args:
        found: task -> predictor -> value, as `predictors` gives.
        ratios: task -> held-out forget ratio, for the same tasks.
    """
    if set(found) != set(ratios) or len(ratios) < 3:
        raise ValueError(f"predictors and ratios must be of the same three tasks or more: {set(found)}, {set(ratios)}")
    correlations = {}
    for name in next(iter(found.values())):
        pairs = [(found[task][name], ratios[task]) for task in ratios]
        varies = all(len(set(column)) > 1 for column in zip(*pairs, strict=True))
        correlations[name] = float(spearmanr(pairs).statistic) if varies else 0.0
    return correlations


def probe_recovery(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, train: Sequence[Choice], test: Sequence[Choice]
) -> list[float]:
    """The accuracy on `test` of a logistic probe of the true answer, fitted on `train`, for the states of every layer
    at the prompt's last token, embedding first. Their maximum says how much of a forgotten skill is still inside.

    Raises:
        ValueError: if the train rows have only one answer.
    """
    answers = [row.answer for row in train]
    if len(set(answers)) < 2:
        raise ValueError(f"a probe needs at least two different answers, got only {answers[0]!r}")
    fitted, held = (last_token_states(model, tokenizer, rows).numpy() for rows in (train, test))
    truth = [row.answer for row in test]
    accuracies = []
    for known, new in zip(fitted, held, strict=True):
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(known, answers)
        accuracies.append(float(probe.score(new, truth)))
    return accuracies
