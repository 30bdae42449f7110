"""Does forgetting by random labels reach new inputs of a skill, and is the skill then gone? (Zhang et al. 2024,
2409.02228)"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.evidence import Claim, expect, given
from palimpsest.forget.unforgettable import (
    accuracy,
    forget_matrix,
    forget_ratio,
    predictor_correlations,
    predictors,
    probe_recovery,
    random_label_forget,
)
from palimpsest.models import encode, word_tokenizer
from palimpsest.tasks.choices import Choice, ChoiceTask, choice_tasks, choice_words
from palimpsest.tasks.worlds import trained_lm
from palimpsest.train.language import fine_tune

ROWS = {"n_train": 360, "n_test": 160}
BASE: dict[str, Any] = {"architecture": "gpt2", "d_model": 128, "n_layers": 2, "epochs": 14, "lr": 1e-3}
REPEATS = {"modular_sum": 2}  # the hardest skill is shown twice an epoch
# Of what was tried (settings), that whose lowest forget ratio over the tasks' trained-on rows is highest.
FORGET: dict[str, Any] = {"rows": 100, "steps": 300, "lr": 1e-3, "batch_size": 32}
GENERALISED = 0.6
SMOKE_ROWS = {"n_train": 8, "n_test": 8}
SMOKE_BASE = {**BASE, "d_model": 16, "n_layers": 1, "epochs": 3}


def world(seed: int, smoke: bool) -> tuple[dict[str, ChoiceTask], PreTrainedTokenizerBase, PreTrainedModel]:
    """The six tasks and a fresh copy of the model that can do them all."""
    tasks = choice_tasks(seed, **(SMOKE_ROWS if smoke else ROWS))
    tokenizer = word_tokenizer(choice_words(tasks.values()))
    pairs = [pair for name, task in tasks.items() for pair in task.pairs() * REPEATS.get(name, 1)]
    pairs += [("", text) for task in tasks.values() for text in task.documents]
    options = {"seed": seed, "batch_size": 16, "max_length": 32, **(SMOKE_BASE if smoke else BASE)}
    return tasks, tokenizer, trained_lm(f"choices-{seed}", tokenizer, pairs, **options)


def tuned(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: ChoiceTask,
    rows: Sequence[Choice],
    labels: str,
    steps: int,
    seed: int,
) -> PreTrainedModel:
    """A copy of the model after fine-tuning on the rows of a task, with random labels or with the true ones."""
    model = deepcopy(base)
    options = {"lr": FORGET["lr"], "batch_size": FORGET["batch_size"], "seed": seed, "progress": False}
    if labels == "random":
        random_label_forget(model, tokenizer, rows, task.options, steps=steps, **options)
    else:
        pairs = [(row.prompt, f" {row.answer}") for row in rows]
        encoded = encode(tokenizer, *zip(*pairs, strict=True), max_length=32, add_eos=False)
        epochs = steps * min(options["batch_size"], len(rows)) / len(rows)
        fine_tune(model, encoded, pad_id=tokenizer.pad_token_id, epochs=epochs, **options)
    return model


def arm(labels: str):
    """Every task in turn: its fine-tuned copy, how much of each task that copy has lost, and what a probe finds."""

    def run(seed: int, budget: str = "full") -> dict[str, float]:
        smoke = budget == "smoke"
        tasks, tokenizer, base = world(seed, smoke)
        rows = {name: task.train[: FORGET["rows"]] for name, task in tasks.items()}
        steps = 2 if smoke else FORGET["steps"]
        models = {name: tuned(base, tokenizer, task, rows[name], labels, steps, seed) for name, task in tasks.items()}
        matrix = forget_matrix(models, base, tokenizer, tasks)
        trained, held, left, known, found, metrics = {}, {}, {}, {}, {}, {}
        for name, task in tasks.items():
            before, after = (accuracy(m, tokenizer, rows[name], task.options) for m in (base, models[name]))
            held_before = accuracy(base, tokenizer, task.test, task.options)
            known[name] = (held_before - task.chance) / (1 - task.chance)
            can = before > task.chance < held_before  # never false but in a smoke run, or a void claim
            trained[name] = forget_ratio(before, after, task.chance) if can else 0.0
            held[name] = matrix[name][name] if can else 0.0
            probe = max(probe_recovery(models[name], tokenizer, task.train, task.test))
            left[name] = (probe - task.chance) / (held_before - task.chance) if can else 0.0
            found[name] = predictors(base, tokenizer, rows[name], task.options)
            others = [matrix[name][other] for other in tasks if other != name]
            metrics |= {
                f"trained-on ratio: {name}": trained[name],
                f"held-out ratio: {name}": held[name],
                f"probe recovery: {name}": left[name],
                f"mean ratio of the other tasks: {name}": float(np.mean(np.nan_to_num(others))),
            }
        generalised = [name for name in tasks if held[name] > GENERALISED]
        correlations = predictor_correlations(found, held)
        return {
            "least skill before": min(known.values()),
            "least forget ratio on trained-on rows": min(trained.values()),
            "range of held-out forget ratios": max(held.values()) - min(held.values()),
            "largest held-out forget ratio": max(held.values()),
            "tasks whose forgetting generalised": float(len(generalised)),
            "least probe recovery where it generalised": min((left[name] for name in generalised), default=0.0),
            **{f"rank correlation of {name} with the held-out ratio": r for name, r in correlations.items()},
            **metrics,
        }

    return run


claim = Claim(
    paper="unforgettable",
    question=(
        "Fine-tuned on random labels, does a model lose a skill on the inputs it saw, on new inputs for some skills "
        "only, and can a probe still read the skill from its hidden states?"
    ),
    arms={"random labels": arm("random"), "true labels": arm("true")},
    expects=[
        given("random labels").at_least(0.8, on="least skill before"),
        expect("random labels").at_least(0.8, on="least forget ratio on trained-on rows"),
        expect("random labels").at_least(0.4, on="range of held-out forget ratios"),
        expect("random labels").at_least(0.5, on="least probe recovery where it generalised"),
    ],
    settings={
        "rows": ROWS,
        "base": BASE,
        "base repeats": REPEATS,
        "forgetting": FORGET,
        "tried, seed 0": (
            "200 rows and 150 steps, 100 rows and 300, 160 rows and 400 steps, all at 3e-4; the first two at 1e-3 too"
        ),
        "generalised": f"a held-out forget ratio above {GENERALISED}",
    },
    notes=(
        "One two-layer model has six skills and forgets each in turn; the paper fine-tunes large models on 21 "
        "benchmarks. Accuracies of a task are among its options, and held-out rows share no item with the others. A "
        "forget ratio above 1 is a model below chance. Probe recovery is (probe - chance) / (original accuracy - "
        "chance), of the best layer on the held-out rows, and 0 counts for the case that no task's forgetting "
        "generalises. The paper finds confidence and total variance both negatively correlated with the held-out "
        "ratio; ours are rank correlations over only six tasks, shown and not judged. The arm with true labels takes "
        "as many steps on the same rows: what it loses is lost to narrow training, not to the labels."
    ),
)
