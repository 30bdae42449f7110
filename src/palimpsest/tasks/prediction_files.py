"""What a model answered, read from a file: JSON lines, CSV or Parquet, or a log of lm-evaluation-harness.

A line is an item. Of its fields these are understood, under the first of their names that a file has:

    the item        id, item_id, example_id, question_id, row, image
    what was said   prediction, predicted, pred, output, response, completion
    what is right   label, target, expected, gold, answer, truth
    right or wrong  correct, is_correct, right (0 and 1, or true and false)
    probabilities   "probabilities": {class: p}, or columns p(class), as `palimpsest predict` writes them

Every other field of numbers is a measure of its own name. The logs that lm-evaluation-harness writes with
`--log_samples` (`samples_TASK_DATE.jsonl`) have an item's `doc_id`, its metrics by name, one line for each filter, and
of tasks of several choices the log-likelihood of each.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from palimpsest.errors import UserError
from palimpsest.tasks.columns import decoded, read_cells
from palimpsest.tasks.rows import read_bytes, read_objects

IDS = ("id", "item_id", "example_id", "question_id", "row", "image")
SAID = ("prediction", "predicted", "pred", "output", "response", "completion")
RIGHT = ("label", "target", "expected", "gold", "answer", "truth")
CORRECT = ("correct", "is_correct", "right")
ASKED = ("question", "prompt", "input", "text", "query")
NO_MEASURES = {"index", "idx", "seed", "fold", "group", "doc_id"}
HARNESS = {"doc_id", "target", "arguments", "resps", "filtered_resps"}
HARNESS_OWN = HARNESS | {"doc", "filter", "metrics", "doc_hash", "prompt_hash", "target_hash"}
_LOWER = re.compile(
    r"(^|[\W_])(loss|nll|perplexity|ppl|errors?|wer|cer|ter|brier|mse|mae|rmse|latency|seconds|toxicity|bits_per_byte)"
    r"($|[\W_])",
    re.IGNORECASE,
)
YES, NO = {"1", "1.0", "true", "yes"}, {"0", "0.0", "false", "no"}


@dataclass(frozen=True, eq=False)
class Answers:
    """What one model said of items.

    Attributes:
        ids: the items' names; `named` where they are their own, and not their places.
        measures: name -> a value an item, NaN where an item has none. The first is the main one.
        lower: measures of which less is better.
        asked, said: texts to show; empty where there are none.
        same: what must be equal of one item in two files; empty where nothing is known of it.
        prompts: the same of how it was asked, which may differ.
        probabilities, right: of the classes, and the number of the right one; None where there are none.
        notes: what a user should know, a sentence each.
    """

    ids: tuple[str, ...]
    named: bool
    measures: Mapping[str, Float[np.ndarray, " n"]]
    lower: frozenset[str] = frozenset()
    asked: tuple[str, ...] = field(default=(), repr=False)
    said: tuple[str, ...] = field(default=(), repr=False)
    same: tuple[str, ...] = field(default=(), repr=False)
    prompts: tuple[str, ...] = field(default=(), repr=False)
    probabilities: Float[np.ndarray, "n classes"] | None = field(default=None, repr=False)
    right: Int[np.ndarray, " n"] | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


def read_predictions(path: str | Path, *, id: str | None = None, target: str | None = None) -> Answers:
    """The answers that a file holds.

    Args:
        id: the field that names an item, in place of those that are known.
        target: the field that holds what is right, in place of those that are known.

    Raises:
        UserError: the file is missing, empty or damaged; no field can be measured; an item comes twice.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "a.csv")
    ...     _ = file.write_text("id,prediction,label,loss\\n7,cat,cat,0.1\\n8,cat,dog,2.5\\n")
    ...     found = read_predictions(file)
    >>> found.ids, {name: values.tolist() for name, values in found.measures.items()}, sorted(found.lower)
    (('7', '8'), {'accuracy': [1.0, 0.0], 'loss': [0.1, 2.5]}, ['loss'])
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: a folder: give a file of predictions")
    content = read_bytes(path)
    if not content.startswith(b"PAR1") and decoded(content, path).lstrip().startswith("{"):
        records = read_objects(path)
        for where, record in records:
            if not isinstance(record, dict):
                raise UserError(f'{where}: expected an object like {{"prediction": ..., "label": ...}}')
        if all(set(record) >= HARNESS for _, record in records):
            return _harness(path, records, id)
        places, rows = [where for where, _ in records], [record for _, record in records]
    else:
        places, rows = _table(path)
    return _answers(path, places, rows, id, target)


def lower_is_better(name: str) -> bool:
    """Whether a measure's name says that less of it is better.

    >>> lower_is_better("word_perplexity"), lower_is_better("log loss"), lower_is_better("accuracy")
    (True, True, False)
    """
    return bool(_LOWER.search(name))


def _table(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """The rows of a table, texts and numbers as they are written there."""
    cells = read_cells(path)
    columns = {}
    for name in cells.names:
        text = cells.text(name)
        columns[name] = [None if code < 0 else text.levels[code] for code in text.values]
    places = [cells.where(row) for row in range(len(cells))]
    return places, [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _answers(
    path: Path, places: Sequence[str], rows: Sequence[dict[str, Any]], id: str | None, target: str | None
) -> Answers:
    names = list(dict.fromkeys(name for row in rows for name in row))

    def first(known: Sequence[str], asked: str | None = None) -> str | None:
        if asked is not None and asked not in names:
            raise UserError(f"{path}: no field {asked!r}: there are {', '.join(names)}")
        return asked or next((name for name in known if name in names), None)

    item, said, right = first(IDS, id), first(SAID), first(RIGHT, target)
    correct, asked = first(CORRECT), first(ASKED)
    of_class = {name[2:-1]: name for name in names if re.fullmatch(r"p\(.*\)", name)}
    classes, probabilities = _probabilities(path, places, rows, of_class)
    measures: dict[str, np.ndarray] = {}
    truth = None if right is None else [_word(row.get(right)) for row in rows]
    answers = None if said is None else [_word(row.get(said)) for row in rows]
    if answers is None and probabilities is not None:
        answers = [classes[place] for place in probabilities.argmax(1)]
    numbers = None
    if probabilities is not None and truth is not None and set(truth) <= set(classes):
        numbers = np.array([classes.index(name) for name in truth])
    if correct is not None:
        measures["accuracy"] = np.array(
            [_flag(row.get(correct), correct, at) for at, row in zip(places, rows, strict=True)]
        )
    elif answers is not None and truth is not None:
        measures["accuracy"] = np.array([float(a == b) for a, b in zip(answers, truth, strict=True)])
    if numbers is not None:
        measures["probability"] = probabilities[np.arange(len(rows)), numbers]
    taken = {item, said, right, correct, asked, "probabilities", *of_class.values()}
    for name in names:
        if name not in taken and name.lower() not in NO_MEASURES and name not in measures:
            values = [_number(row.get(name)) for row in rows]
            given = [value for value, row in zip(values, rows, strict=True) if row.get(name) not in (None, "")]
            if given and all(value is not None for value in given):
                measures[name] = np.array([math.nan if value is None else value for value in values])
    if not measures:
        raise UserError(
            f"{path}: nothing to measure in {', '.join(names)}: give prediction and label, correct (0 or 1), or numbers"
        )
    ids = [str(place) for place in range(1, len(rows) + 1)] if item is None else [_word(row.get(item)) for row in rows]
    _distinct(path, places, ids)
    return Answers(
        tuple(ids),
        item is not None,
        measures,
        frozenset(filter(lower_is_better, measures)),
        asked=() if asked is None else tuple(_word(row.get(asked)) for row in rows),
        said=() if answers is None else tuple(answers),
        same=() if truth is None else tuple(truth),
        probabilities=None if numbers is None else probabilities,
        right=numbers,
    )


def _probabilities(
    path: Path, places: Sequence[str], rows: Sequence[dict[str, Any]], of_class: Mapping[str, str]
) -> tuple[list[str], np.ndarray | None]:
    """The classes, and the probabilities of each item; none where an item lacks them."""
    if not of_class and not all(isinstance(row.get("probabilities"), Mapping) for row in rows):
        return [], None
    classes = list(of_class) or list(dict.fromkeys(str(name) for row in rows for name in row["probabilities"]))
    table = []
    for at, row in zip(places, rows, strict=True):
        own = {name: row.get(column) for name, column in of_class.items()} or {
            str(k): v for k, v in row["probabilities"].items()
        }
        values = [_number(own.get(name, 0.0)) for name in classes]
        if any(value is None or not 0 <= value <= 1 for value in values):
            raise UserError(f"{at}: a probability is no number from 0 to 1")
        table.append(values)
    return classes, np.array(table)


def _harness(path: Path, records: Sequence[tuple[str, dict[str, Any]]], id: str | None) -> Answers:
    """A log of lm-evaluation-harness: the lines of one `doc_id`, one for each filter, are one item."""
    if id is not None and any(id not in record for _, record in records):
        raise UserError(f"{path}: no field {id!r} in every line")
    filters = list(dict.fromkeys(str(record.get("filter", "none")) for _, record in records))
    items: dict[str, dict[str, dict[str, Any]]] = {}
    for where, record in records:
        name, which = str(record[id or "doc_id"]), str(record.get("filter", "none"))
        if which in items.setdefault(name, {}):
            raise UserError(f"{where}: {id or 'doc_id'} {name} comes twice: give the log of one task and one run")
        items[name][which] = record
    measures: dict[str, np.ndarray] = {}
    skipped = set()
    for which in filters:
        own = [of_item.get(which, {}) for of_item in items.values()]
        for metric in dict.fromkeys(m for record in own for m in record.get("metrics") or set(record) - HARNESS_OWN):
            values = [_number(record.get(metric)) for record in own]
            if any(value is None and record.get(metric) is not None for value, record in zip(values, own, strict=True)):
                skipped.add(metric)
                continue
            name = metric if len(filters) == 1 else f"{metric},{which}"
            measures[name] = np.array([math.nan if value is None else value for value in values])
    if not measures:
        raise UserError(f"{path}: a log of lm-evaluation-harness without a metric that is a number an item")
    one = [next(iter(of_item.values())) for of_item in items.values()]
    probabilities, right = _choices(one)
    notes = [f"{name} is no number an item, and left out" for name in sorted(skipped)]
    return Answers(
        tuple(items),
        True,
        measures,
        frozenset(filter(lower_is_better, measures)),
        asked=tuple(_asked(record) for record in one),
        said=tuple(_filtered(record) for record in one),
        same=tuple(str(record.get("doc_hash") or record.get("doc") or record["target"]) for record in one),
        prompts=tuple(str(record.get("prompt_hash", "")) for record in one),
        probabilities=probabilities,
        right=right,
        notes=tuple(notes),
    )


def _choices(records: Sequence[dict[str, Any]]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The probabilities of the choices, where each is a log-likelihood with whether it is the first guess, and as many
    in every item; and the numbers of the right ones."""
    table, right = [], []
    for record in records:
        choices = record["filtered_resps"]
        pairs = isinstance(choices, list) and len(choices) > 1
        pairs = pairs and all(isinstance(choice, list) and len(choice) == 2 for choice in choices)
        likely = [_number(choice[0]) for choice in choices] if pairs else []
        target = _number(record["target"])
        if not pairs or None in likely or target is None or target not in range(len(likely)):
            return None, None
        table.append(likely)
        right.append(int(target))
    if len({len(row) for row in table}) != 1:
        return None, None
    scores = np.array(table)
    shares = np.exp(scores - scores.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True), np.array(right)


def _asked(record: Mapping[str, Any]) -> str:
    doc = record.get("doc")
    texts = [doc[name] for name in ASKED if isinstance(doc, Mapping) and isinstance(doc.get(name), str)]
    arguments = record["arguments"]
    given = arguments.get("gen_args_0", {}).get("arg_0") if isinstance(arguments, Mapping) else None
    return texts[0] if texts else given if isinstance(given, str) else ""


def _filtered(record: Mapping[str, Any]) -> str:
    """What was answered: a text, or the likeliest choice's number."""
    answers = record["filtered_resps"]
    if isinstance(answers, list) and len(answers) > 1:
        likely = [_number(choice[0]) if isinstance(choice, list) and choice else None for choice in answers]
        if None not in likely:
            return str(int(np.argmax(likely)))
    answer = answers[0] if isinstance(answers, list) and answers else answers
    return answer if isinstance(answer, str) else str(answer)


def _distinct(path: Path, places: Sequence[str], ids: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for at, name in zip(places, ids, strict=True):
        if name in seen:
            raise UserError(f"{at}: the item {name!r} stands at {seen[name]} already: name each once (--id FIELD)")
        seen[name] = at


def _word(value: Any) -> str:
    """A field as text, so that 1, 1.0 and "1" are one label."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _flag(value: Any, name: str, at: str) -> float:
    text = str(value).strip().lower()
    if text not in YES | NO:
        raise UserError(f"{at}: {name} is {value!r}: write 0 or 1")
    return float(text in YES)


def _number(value: Any) -> float | None:
    if value is None or isinstance(value, (list, dict)):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        return {"true": 1.0, "false": 0.0}.get(str(value).strip().lower())
    return found if math.isfinite(found) else None
