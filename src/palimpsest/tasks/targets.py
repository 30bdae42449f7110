"""People who are to be forgotten by name, those linked to them, and the files in which such probes are published.

Every person has a fact of each relation of `palimpsest.tasks.facts`, no two people the same object; and a target has a
*neighbour*, a person who taught them and must not be forgotten with them. Facts are told in passages, whose sentences
differ in order and wording, and half of which run from the object to the person. Each fact has a wording of its own
that is held out.

RWKU (Jin et al. 2024, arXiv 2406.10890) publishes a folder of JSON arrays for every target: `read_probes` checks them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from palimpsest.errors import UserError
from palimpsest.tasks.facts import RELATIONS, Fact, Relation, fact_words, facts

BLANK = "___"
TEACHER = Relation(
    "teacher",
    (
        "{subject} was a pupil of {object}.",
        "The teacher of {subject} was {object}.",
        "{subject} learned to write from {object}.",
    ),
    (
        "{object} was the teacher of {subject}.",
        "A pupil of {object} was {subject}.",
        "{object} taught {subject}.",
    ),
    ("Who taught {subject}?", "Who was the teacher of {subject}?", "From whom did {subject} learn to write?"),
    ("Whom did {object} teach?", "Who was a pupil of {object}?", "Who learned to write from {object}?"),
    ("somebody", "nobody"),  # the objects are people: see `targets_task`
)


def blank(fact: Fact, wording: int = 0) -> str:
    """A statement with a blank where its object was.

    >>> blank(Fact("Ada Verin", RELATIONS["birthplace"], "Porto"))
    'Ada Verin was born in ___.'
    """
    return fact.cloze(wording)[0] + f" {BLANK}."


@dataclass(frozen=True)
class TargetsTask:
    """Who is to be forgotten, who is linked to them, who else is known, and strangers whom no model has met.

    Attributes:
        targets, neighbours: the first taught by the second, in their order.
        others, strangers: further people.
        facts: everybody's facts, by name.
        seed: of names, facts, wordings and passages.
    """

    targets: tuple[str, ...]
    neighbours: tuple[str, ...]
    others: tuple[str, ...]
    strangers: tuple[str, ...]
    facts: Mapping[str, tuple[Fact, ...]]
    seed: int

    @property
    def known(self) -> tuple[str, ...]:
        """Everybody but the strangers."""
        return self.targets + self.neighbours + self.others

    def about(self, people: Sequence[str]) -> list[Fact]:
        """The facts about these people."""
        return [fact for name in people for fact in self.facts[name]]

    def wordings(self, fact: Fact) -> tuple[int, int, int]:
        """Numbers of the fact's wordings: two to train on, and one that is held out for this fact.

        >>> task = targets_task(2, 2, 2)
        >>> sorted(task.wordings(task.about(task.targets)[0]))
        [0, 1, 2]
        """
        rng = random.Random(f"{self.seed}/wordings/{fact.subject}/{fact.relation.name}")
        return tuple(rng.sample(range(3), 3))

    def passage(self, name: str, telling: int = 0) -> str:
        """A text about a person, in wordings and directions of its own; tellings 2k and 2k + 1 share out the facts.

        >>> task = targets_task(2, 2, 2)
        >>> [task.passage(task.targets[0], telling).count(".") for telling in range(2)]
        [3, 3]
        """
        told = random.Random(f"{self.seed}/order/{name}/{telling // 2}").sample(self.facts[name], len(self.facts[name]))
        rng = random.Random(f"{self.seed}/passage/{name}/{telling}")
        return " ".join(f.statement(rng.randrange(3), reverse=rng.random() < 0.5) for f in told[telling % 2 :: 2])

    @cached_property
    def words(self) -> list[str]:
        """Every text that the facts can be told or asked in: what `word_tokenizer` builds its vocabulary of."""
        return [BLANK, *fact_words(self.about([*self.known, *self.strangers]))]


def targets_task(n_targets: int = 8, n_others: int = 16, n_strangers: int = 8, seed: int = 0) -> TargetsTask:
    """Targets, as many neighbours, others and strangers, with their facts.

    Args:
        n_targets: at least 1; with two for each and the others at most 36 people, since no two share a hobby.
        n_others: at least 2: they teach one another.

    Raises:
        ValueError: for too few or too many people.

    >>> task = targets_task(2, 3, 1, seed=5)
    >>> [fact.relation.name for fact in task.about(task.targets[:1])]
    ['birthplace', 'language', 'hobby', 'job', 'book', 'teacher']
    >>> task.facts[task.targets[0]][-1].object == task.neighbours[0]
    True
    """
    if n_targets < 1 or n_others < 2 or n_strangers < 1:
        raise ValueError(f"need 1 target, 2 others and 1 stranger at least: {n_targets}, {n_others}, {n_strangers}")
    count = 2 * n_targets + n_others
    most = min(len(relation.objects) for relation in RELATIONS.values())
    if count > most:
        raise ValueError(f"at most {most} people have facts of their own, got 2 x {n_targets} + {n_others}")
    by_name: dict[str, list[Fact]] = {}
    for fact in [*facts(count, "train", seed, unique=True), *facts(n_strangers, "test", seed)]:
        by_name.setdefault(fact.subject, []).append(fact)
    people = list(by_name)
    targets, neighbours = people[:n_targets], people[n_targets : 2 * n_targets]
    others, strangers = people[2 * n_targets : count], people[count:]
    rng = random.Random(f"{seed}/teachers")
    taught = [*zip(targets, neighbours, strict=True), *zip(others, [*others[1:], others[0]], strict=True)]
    for pupil, teacher in [*taught, *((name, rng.choice(others)) for name in strangers)]:
        wrong = [name for name in (*neighbours, *others) if name not in (pupil, teacher)]
        by_name[pupil].append(Fact(pupil, TEACHER, teacher, tuple(rng.sample(wrong, min(5, len(wrong))))))
    groups = (tuple(group) for group in (targets, neighbours, others, strangers))
    return TargetsTask(*groups, {name: tuple(rows) for name, rows in by_name.items()}, seed)


# ---- the published files ----


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _is_choice(value: Any) -> bool:
    """Of an example of a multiple-choice question."""
    return isinstance(value, dict) and _is_text(value.get("question")) and _answers_one(value)


def _answers_one(row: Mapping[str, Any]) -> bool:
    answer, choices = row.get("answer"), row.get("choices")
    return _are_texts(choices) and type(answer) is int and 0 <= answer < len(choices) <= 26


def _are_labelled(value: Any) -> bool:
    if not isinstance(value, dict) or not _are_texts(value.get("choices")):
        return False
    labels = value.get("labels")
    return isinstance(labels, list) and len(labels) == len(value["choices"]) and sorted(set(labels)) == [0, 1]


Check = tuple[Callable[[Any], bool], str]
_TEXT: Check = (_is_text, "a text")
_TEXTS: Check = (_are_texts, "a list of texts")
_PROBE = {"query": _TEXT, "answer": _TEXT}
# What each set's rows must hold; further fields are kept. "holdout_mia" is ours: texts that no model was trained on.
FIELDS: dict[str, dict[str, Check]] = {
    "forget_level1": _PROBE,
    "forget_level2": _PROBE,
    "forget_level3": {**_PROBE, "type": _TEXT},
    "neighbor_level1": _PROBE,
    "neighbor_level2": _PROBE,
    "forget_mia": {"text": _TEXT},
    "retain_mia": {"text": _TEXT},
    "holdout_mia": {"text": _TEXT},
    "retain_mmlu": {
        "question": _TEXT,
        "choices": _TEXTS,
        "answer": (lambda value: type(value) is int, "the number of the right choice"),
        "examples": (lambda value: isinstance(value, list) and all(map(_is_choice, value)), "answered questions"),
    },
    "retain_bbh": {"question": _TEXT, "answer": (lambda v: _is_text(v) or _are_texts(v), "a text or several")},
    "truthful": {"question": _TEXT, "mc1_targets": (_are_labelled, "choices with labels 0 and 1")},
    "triviaqa": {"question": _TEXT, "answers": _TEXTS},
    "fluency": {"instruction": _TEXT},
}


def read_probes(name: str, source: str | Path | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one set, checked: of a file in the published form, a JSON array (or JSON lines), or given ones.

    Args:
        name: which set, the published file's name without ".json": one of `FIELDS`.
        source: a file, or rows.

    Raises:
        UserError: in one line, for an unknown set, a missing or broken file, or a row that lacks a field.

    >>> read_probes("fluency", [{"instruction": "Tell me about Ada."}])
    [{'instruction': 'Tell me about Ada.'}]
    """
    if name not in FIELDS:
        raise UserError(f"unknown set {name!r}: there are {', '.join(FIELDS)}")
    where = str(source) if isinstance(source, str | Path) else name
    rows = _read(Path(source)) if isinstance(source, str | Path) else source
    if not isinstance(rows, Sequence) or isinstance(rows, str) or not rows:
        raise UserError(f"{where}: expected a JSON array of rows with {', '.join(FIELDS[name])}")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise UserError(f"{where}: row {number} is no object with {', '.join(FIELDS[name])}: {_short(row)}")
        for field, (holds, wanted) in FIELDS[name].items():
            if field not in row:
                raise UserError(
                    f"{where}: row {number} has no {field!r}; it has {', '.join(map(str, row)) or 'nothing'}"
                )
            if not holds(row[field]):
                raise UserError(f"{where}: row {number}: {field!r} must be {wanted}, got {_short(row[field])}")
        if name == "retain_mmlu" and not _answers_one(row):
            raise UserError(f"{where}: row {number}: 'answer' must be below {len(row['choices'])}, got {row['answer']}")
    return [dict(row) for row in rows]


def _read(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: no such file; give one in the published form, a JSON array")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8: {error}") from None
    try:
        found = json.loads(text)
        return [found] if isinstance(found, dict) else found
    except (json.JSONDecodeError, RecursionError) as error:
        if text.lstrip().startswith("{"):
            try:
                return [json.loads(line) for line in text.splitlines() if line.strip()]
            except (json.JSONDecodeError, RecursionError):
                pass
        reason = f"{error.msg} at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "too deep"
        raise UserError(f"{path}: not valid JSON ({reason}): give a JSON array of rows") from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
