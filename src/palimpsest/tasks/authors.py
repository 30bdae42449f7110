"""Fictitious authors with attributes, and facts of the real world: what a small language model can be made to forget.

After TOFU (Maini, Feng, Schwarzschild, Lipton and Kolter, 2024, "TOFU: A Task of Fictitious Unlearning for LLMs",
arXiv 2401.06121). Its 200 authors were written by GPT-4; ours are generated, so that a model with two layers
learns them in seconds and every seed gives people nobody has seen.

An attribute has three question and three answer templates. A row trains on two of each, paired at random: (first
question, first answer) and (second question, second answer). The third of each is held out *for that row* and
gives the paraphrased question and the paraphrased answer; since every row draws its own, every template, and
every combination of a question's and an answer's, is trained on elsewhere. Values are drawn independently of the
names and of each other, from the same pool as the wrong values, so that a model that never saw an author has no
reason to prefer the true value to a wrong one.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from palimpsest.tasks.authors_words import (
    ATTRIBUTES,
    CODAS,
    FIRST_NAMES,
    MIDDLES,
    ONSETS,
    REAL_AUTHORS,
    VOWELS,
    WORLD_FACTS,
    Attribute,
    Relation,
)
from palimpsest.tasks.fresh import check_disjoint

SPLITS = ("forget", "retain", "real_authors", "world_facts")
MAX_AUTHORS = 900
N_WRONG = 5
N_WRONG_FACT = 3

_NAMES = len(FIRST_NAMES) * len(ONSETS) * len(VOWELS) * len(MIDDLES) * len(VOWELS) * len(CODAS)
_STRIDE = 7_919_573  # coprime with _NAMES, whose prime factors are 2, 3 and 5: multiplying by it permutes the names
_BLOCK = 1000  # names that belong to one seed; more than MAX_AUTHORS, because a few are passed over
_REAL_WORDS = {
    word
    for text in itertools.chain(
        *(attribute.values for attribute in ATTRIBUTES.values()),
        *(fact for relation in REAL_AUTHORS + WORLD_FACTS for fact in relation.facts),
    )
    for word in text.split()
}


@dataclass(frozen=True)
class AuthorRow:
    """One fact: an author's attribute, or a fact of the real world (then `author` is the fact's subject).

    `pairs` are the (question, answer) pairs a model trains on; the first of them is (`q`, `answer`). `q_para` and
    `para` are the held-out wording; `perturbed` is `para` with each of `wrong`, other values of the same attribute.
    A fact of the real world is answered by the bare value: there `para` is `answer`, as TOFU scores it.
    """

    author: str
    attr: str
    q: str
    q_para: str
    answer: str
    para: str
    perturbed: tuple[str, ...]
    value: str
    wrong: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, str | list[str]]:
        """The row under TOFU's published names, with author, attr and value added.

        >>> row = authors_task(n_authors=5, n_attr=1).forget[0]
        >>> list(row.to_json())[:4]
        ['question', 'answer', 'paraphrased_question', 'paraphrased_answer']
        """
        return {
            "question": self.q,
            "answer": self.answer,
            "paraphrased_question": self.q_para,
            "paraphrased_answer": self.para,
            "perturbed_answer": list(self.perturbed),
            "author": self.author,
            "attr": self.attr,
            "value": self.value,
        }


@dataclass(frozen=True)
class AuthorsTask:
    """The rows to forget, those to retain, and two sets of real-world facts that are always retained."""

    forget: tuple[AuthorRow, ...]
    retain: tuple[AuthorRow, ...]
    real_authors: tuple[AuthorRow, ...]
    world_facts: tuple[AuthorRow, ...]
    attributes: tuple[Attribute, ...]
    seed: int

    def rows(self, split: str) -> tuple[AuthorRow, ...]:
        """The rows of a split, of "kept" (all but the forget rows: the gold model's training data), or of "all"."""
        if split == "kept":
            return self.retain + self.real_authors + self.world_facts
        if split == "all":
            return self.forget + self.rows("kept")
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}: choose one of {', '.join((*SPLITS, 'kept', 'all'))}")
        return getattr(self, split)

    def training_pairs(self, split: str) -> list[tuple[str, str]]:
        """The (question, answer) pairs that a model trains on, two a row, row by row.

        >>> task = authors_task(n_authors=5, n_attr=2)
        >>> len(task.training_pairs("forget")), len(task.training_pairs("retain"))
        (4, 16)
        """
        return [pair for row in self.rows(split) for pair in row.pairs]

    def authors(self, split: str) -> list[str]:
        """The people (or subjects) of a split, in order, each once."""
        return list(dict.fromkeys(row.author for row in self.rows(split)))

    def document(self, author: str) -> str:
        """A short text about an author: the first trained sentence for each attribute."""
        sentences = [row.answer for row in self.forget + self.retain if row.author == author]
        if not sentences:
            raise ValueError(f"no author named {author!r} in this task: task.authors('all') lists them")
        return " ".join(sentences)

    def words(self, extra: Iterable[str] = ()) -> list[str]:
        """Every word of the task, sorted, signs still attached: what `word_tokenizer` builds its vocabulary from.

        Covers the rows, all values that the task's attributes can take, all templates (so also wrong answers and
        paraphrases built later), "Question:" and "Answer:", and `extra` texts, such as refusals.

        >>> "sorry," in authors_task(n_authors=5, n_attr=1).words(["I am sorry, I forgot."])
        True
        """
        texts = ["Question: Answer:", *extra]
        for row in self.rows("all"):
            texts += [row.q_para, row.para, *row.perturbed, *(text for pair in row.pairs for text in pair)]
        for attribute in self.attributes:
            texts += attribute.values
            texts += [t.format(author="", value="") for t in attribute.questions + attribute.answers]
        return sorted({word for text in texts for word in text.split()})

    def write_jsonl(self, folder: str | Path) -> dict[str, Path]:
        """Write `forget.jsonl`, `retain.jsonl`, `real_authors.jsonl` and `world_facts.jsonl`, in TOFU's format."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = {split: folder / f"{split}.jsonl" for split in SPLITS}
        for split, path in paths.items():
            lines = (json.dumps(row.to_json(), ensure_ascii=False) + "\n" for row in self.rows(split))
            path.write_text("".join(lines), encoding="utf-8")
        return paths


def authors_task(
    n_authors: int = 40,
    n_attr: int = 8,
    forget: float = 0.2,
    seed: int = 0,
    *,
    attributes: Sequence[str] | None = None,
) -> AuthorsTask:
    """Generate fictitious authors and split their rows, by author, into what is forgotten and what is retained.

    Args:
        n_authors: how many authors, 2 to 900.
        n_attr: how many attributes each, the first ones of `ATTRIBUTES`; ignored where `attributes` names them.
        forget: share of the authors to forget, in (0, 1); at least one author is forgotten and one retained.
        seed: fixes everything; different seeds give different people (see `author_names`).
        attributes: names of attributes, out of `ATTRIBUTES`; the private ones are address, phone and salary.

    Raises:
        ValueError: for a number out of range, an unknown attribute, or splits that share an item.

    >>> task = authors_task(n_authors=10, n_attr=8, forget=0.2, seed=3)
    >>> len(task.forget), len(task.retain), len(task.real_authors), len(task.world_facts)
    (16, 64, 50, 52)
    >>> task == authors_task(n_authors=10, n_attr=8, forget=0.2, seed=3)
    True
    """
    if not 2 <= n_authors <= MAX_AUTHORS:
        raise ValueError(f"n_authors must lie between 2 and {MAX_AUTHORS}, got {n_authors}")
    if not 0 < forget < 1:
        raise ValueError(f"forget is the share of authors to forget, in (0, 1), got {forget}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    chosen = _choose(n_attr, attributes)
    names = author_names(seed, n_authors)
    n_forget = min(max(round(forget * n_authors), 1), n_authors - 1)
    # Separate streams: no value depends on who is forgotten or on the attributes beside it.
    forgotten = set(_stream(seed, "split").sample(names, n_forget))
    by_author = zip(*(_attribute_rows(attribute, names, seed) for attribute in chosen), strict=True)
    rows = [row for rows_of_one in by_author for row in rows_of_one]
    task = AuthorsTask(
        forget=tuple(row for row in rows if row.author in forgotten),
        retain=tuple(row for row in rows if row.author not in forgotten),
        real_authors=tuple(row for relation in REAL_AUTHORS for row in _fact_rows(relation, seed)),
        world_facts=tuple(row for relation in WORLD_FACTS for row in _fact_rows(relation, seed)),
        attributes=chosen,
        seed=seed,
    )
    check_disjoint(forget=task.authors("forget"), retain=task.authors("retain"))
    check_disjoint(**{split: [question for question, _ in task.training_pairs(split)] for split in SPLITS})
    return task


def author_names(seed: int, n_authors: int) -> list[str]:
    """Full names: one of 60 first names with one of 216 000 made-up surnames.

    All names stand in one fixed shuffled order, of which seed s owns the thousand from 1000 s on: they differ between
    the authors of a task, and between seeds below 12 960. A surname that is also a word of the task ("River") is
    passed over.

    >>> author_names(seed=0, n_authors=3)
    ['Ada Babab', 'Ulrich Vifer', 'Sabine Taliga']
    """
    names = (_name(seed * _BLOCK + index) for index in range(_BLOCK))
    return list(itertools.islice((name for name in names if name.split()[1] not in _REAL_WORDS), n_authors))


def _name(index: int) -> str:
    number, first = divmod(index * _STRIDE % _NAMES, len(FIRST_NAMES))
    surname = ""
    for parts in (ONSETS, VOWELS, MIDDLES, VOWELS, CODAS):
        number, part = divmod(number, len(parts))
        surname += parts[part]
    return f"{FIRST_NAMES[first]} {surname}"


def _choose(n_attr: int, attributes: Sequence[str] | None) -> tuple[Attribute, ...]:
    if attributes is None:
        if not 1 <= n_attr <= len(ATTRIBUTES):
            raise ValueError(f"n_attr must lie between 1 and {len(ATTRIBUTES)}, got {n_attr}")
        attributes = list(ATTRIBUTES)[:n_attr]
    if not attributes or len(set(attributes)) < len(attributes) or not set(attributes) <= set(ATTRIBUTES):
        raise ValueError(f"attributes must be different names out of {', '.join(ATTRIBUTES)}, got {list(attributes)}")
    return tuple(ATTRIBUTES[name] for name in attributes)


def _stream(seed: int, *purpose: str) -> random.Random:
    # A string seed goes through SHA-512: the same on every machine, independent between purposes.
    return random.Random(f"{seed}/{'/'.join(purpose)}")


def _attribute_rows(attribute: Attribute, names: Sequence[str], seed: int) -> list[AuthorRow]:
    values, wording = _stream(seed, "values", attribute.name), _stream(seed, "wording", attribute.name)
    rows = []
    for name in names:
        value, *wrong = values.sample(attribute.values, 1 + N_WRONG)
        questions = [question.format(author=name) for question in wording.sample(attribute.questions, 3)]
        templates = wording.sample(attribute.answers, 3)
        answers = [template.format(author=name, value=value) for template in templates]
        rows.append(
            AuthorRow(
                author=name,
                attr=attribute.name,
                q=questions[0],
                q_para=questions[2],
                answer=answers[0],
                para=answers[2],
                perturbed=tuple(templates[2].format(author=name, value=other) for other in wrong),
                value=value,
                wrong=tuple(wrong),
                pairs=((questions[0], answers[0]), (questions[1], answers[1])),
            )
        )
    return rows


def _fact_rows(relation: Relation, seed: int) -> list[AuthorRow]:
    draws = _stream(seed, "facts", relation.name)
    rows = []
    for subject, answer in relation.facts:
        questions = [question.format(subject=subject) for question in draws.sample(relation.questions, 3)]
        others = [other for _, other in relation.facts if other != answer]
        wrong = tuple(draws.sample(others, N_WRONG_FACT))
        rows.append(
            AuthorRow(
                author=subject,
                attr=relation.name,
                q=questions[0],
                q_para=questions[2],
                answer=answer,
                para=answer,
                perturbed=wrong,
                value=answer,
                wrong=wrong,
                pairs=((questions[0], answer), (questions[1], answer)),
            )
        )
    return rows
