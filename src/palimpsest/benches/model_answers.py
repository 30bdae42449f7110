"""What one model says of a user's items, whatever kind of model it is: `Answers`, which two can be compared by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from palimpsest.errors import UserError
from palimpsest.models.adapters import ADAPTER
from palimpsest.tasks.prediction_files import Answers, lower_is_better

KINDS = {
    "predictions": "a file of predictions",
    "classifier": "a classifier that palimpsest classify has saved",
    "encoder": "a sentence encoder",
    "language model": "a causal language model",
}
NEEDS = {
    "predictions": (),
    "classifier": ("table", "images"),
    "encoder": ("pairs",),
    "language model": ("rows", "text"),
}


@dataclass(frozen=True)
class Manner:
    """How questions and answers are written for a language model.

    Attributes:
        system, options: of the chat template.
        end: whether the end token is a part of the answers; None where the models say.
        batch_size: answers scored at once.
    """

    system: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    end: bool | None = None
    batch_size: int = 16


def kind_of(path: str | Path) -> str:
    """Which of `KINDS` is at a path.

    Raises:
        UserError: none of them.
    """
    path = Path(path)
    if path.is_file():
        return "predictions"
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder: give a model's folder, or a file of predictions")
    marks = {
        "classifier": ("classifier.json",),
        "encoder": ("modules.json",),
        "language model": ("config.json", ADAPTER),
    }
    for kind, files in marks.items():
        if any((path / file).is_file() for file in files):
            return kind
    raise UserError(f"{path}: no config.json, modules.json or classifier.json in it: give a model's folder")


def of_table(folder: str | Path, table: str | Path, target: str | None = None, id: str | None = None) -> Answers:
    """What a classifier says of the rows of a table whose classes are known.

    Raises:
        UserError: no such column, or a class that the classifier does not know.
    """
    from palimpsest.classify.saved import load_classifier
    from palimpsest.tasks.columns import read_cells

    classifier = load_classifier(folder)
    probabilities = classifier.of_table(table).numpy()
    cells = read_cells(table)
    column = target or classifier.target
    cells.check(column, "target")
    truth = cells.column(column).as_text()
    names = tuple(str(row) for row in range(1, len(cells) + 1))
    if id is not None:
        named = cells.names_in(id, "id")
        names = tuple(named.levels[code] for code in named.values)
        if len(set(names)) < len(names):
            again = next(name for name in names if names.count(name) > 1)
            raise UserError(f"{table}: the id {again!r} stands in two rows: give a column that names each row once")
    labels = [truth.levels[code] if code >= 0 else None for code in truth.values]
    return _classified(folder, table, classifier.classes, probabilities, names, labels, named=id is not None)


def of_images(folder: str | Path, images: str | Path) -> Answers:
    """What a classifier says of images in a folder for each class.

    Raises:
        UserError: an image that is in no class's folder, or a class that the classifier does not know.
    """
    from palimpsest.classify.saved import load_classifier

    classifier = load_classifier(folder)
    if not Path(images).is_dir():
        raise UserError(f"{images}: give a folder with a folder of images for each class")
    names, probabilities = classifier.of_images(images)
    if loose := [name for name in names if "/" not in name]:
        raise UserError(f"{images}: {loose[0]} is in no class's folder, so that its class is not known")
    labels = [name.split("/")[-2] for name in names]
    return _classified(folder, images, classifier.classes, probabilities.numpy(), tuple(names), labels, named=True)


def _classified(
    folder: Any,
    data: Any,
    classes: Sequence[str],
    probabilities: np.ndarray,
    names: tuple[str, ...],
    labels: Sequence[str | None],
    named: bool,
) -> Answers:
    kept = [row for row, label in enumerate(labels) if label is not None]
    notes = [f"{len(labels) - len(kept)} rows without a class are left out"] if len(kept) < len(labels) else []
    if not kept:
        raise UserError(f"{data}: no row has a class to compare with")
    if unknown := sorted({labels[row] for row in kept} - set(classes)):
        raise UserError(f"{data}: the class {unknown[0]!r} is none of {folder}: it knows {', '.join(classes)}")
    # The order of the classes may differ between two models: they are put into that of their names.
    order = sorted(range(len(classes)), key=lambda place: classes[place])
    probabilities = probabilities[np.array(kept)][:, order]
    ordered = [classes[place] for place in order]
    right = np.array([ordered.index(labels[row]) for row in kept])
    likeliest = probabilities.argmax(1)
    return Answers(
        tuple(names[row] for row in kept),
        named,
        {
            "accuracy": (likeliest == right).astype(float),
            "probability": probabilities[np.arange(len(kept)), right],
        },
        said=tuple(ordered[place] for place in likeliest),
        same=tuple(labels[row] for row in kept),
        probabilities=probabilities,
        right=right,
        notes=tuple(notes),
    )


def of_pairs(folder: str | Path, pairs: str | Path) -> Answers:
    """What a sentence encoder finds of the documents that answer each query, among all documents of the file."""
    from palimpsest.benches.pairs_yours import FIRST, of_queries
    from palimpsest.benches.pairs_yours import SentenceEncoder as Encoder
    from palimpsest.models.sentence_encoders import load_encoder
    from palimpsest.tasks.pair_files import read_pairs

    read = read_pairs(pairs)
    found = of_queries(Encoder(load_encoder(folder), {}), read.pairs)
    found = {FIRST: found.pop(FIRST), **found}
    return Answers(
        tuple(str(row) for row in range(1, len(read) + 1)),
        False,
        {name: values.double().numpy() for name, values in found.items()},
        asked=read.pairs.summary,
        notes=read.notes,
    )


def of_rows(model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]], id: str | None, manner: Manner) -> Answers:
    """What a language model says to rows: whether it states what is asked for (a row's `key`, or its whole answer), how
    likely the answers are, and how much of them it reproduces.

    Where rows have wrong answers (`perturbed_answer`), whether the right one is the likeliest, and the probabilities
    among them.
    """
    from palimpsest.forget.evaluation import score_candidates, states
    from palimpsest.forget.tofu_measures import tofu_score

    scores = tofu_score(model, list(rows), tokenizer=tokenizer, batch_size=manner.batch_size)
    asked = np.array([bool(row["question"]) for row in rows])
    says = [states(said, str(row.get("key") or row["answer"])) for said, row in zip(scores.output, rows, strict=True)]
    measures = {"accuracy": np.where(asked, says, np.nan)} if asked.any() else {}
    measures |= {"probability": scores.probability, "ROUGE-L": scores.rouge}
    probabilities = right = None
    several = [bool(row["perturbed_answer"]) for row in rows]
    if any(several):
        answers = [[row["answer"], *row["perturbed_answer"]] for row in rows]
        questions = [row["question"] for row in rows]
        nll, _ = score_candidates(model, tokenizer, questions, answers, batch_size=manner.batch_size)
        likely = np.where(np.isnan(nll), 0.0, np.exp(-nll))
        chosen = (likely.argmax(1) == 0).astype(float)
        measures["choice accuracy"] = np.where(several, chosen, np.nan)
        if all(several):
            probabilities, right = likely / likely.sum(1, keepdims=True), np.zeros(len(rows), dtype=int)
    measures |= {"extraction strength": scores.extraction_strength, "exact memorization": scores.exact_memorization}
    names = [str(place) for place in range(1, len(rows) + 1)]
    if id is not None:
        if any(row.get(id) is None for row in rows):
            raise UserError(f"row {next(i for i, row in enumerate(rows, 1) if row.get(id) is None)} has no {id!r}")
        names = [str(row[id]) for row in rows]
    return Answers(
        tuple(names),
        id is not None,
        {name: np.asarray(values, dtype=float) for name, values in measures.items()},
        frozenset(filter(lower_is_better, measures)),
        asked=tuple(row["question"] or row["answer"][:80] for row in rows),
        said=tuple(scores.output),
        probabilities=probabilities,
        right=right,
    )
