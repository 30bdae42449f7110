"""Single-hop facts about made-up people: subject, relation, object, told and asked for in several wordings.

A relation has three statements that begin with the subject and end with the object, three the other way round, and
three questions after either. So a fact can be trained on in one order and tested in the other, in a wording that was
held out, as a statement to complete or as a question. Objects are drawn independently of the subjects, from the same
values as the wrong ones; with `unique` no two subjects of a split share one, and a fact can be turned round.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from palimpsest.tasks.authors import author_names
from palimpsest.tasks.authors_words import ATTRIBUTES
from palimpsest.tasks.fresh import check_disjoint

Pair = tuple[str, str]
Wordings = tuple[str, str, str]
# Of a seed's names, those that each split owns.
SHARES = {"train": (0, 600), "validation": (600, 750), "test": (750, 900)}
N_WRONG = 5


@dataclass(frozen=True)
class Relation:
    """What can be said of a subject: templates with {subject} and {object}, and the values the object can take.

    Attributes:
        statements: with the object last, then a full stop.
        reversals: with the subject last, then a full stop.
        questions: answered by the object.
        reverse_questions: answered by the subject.
    """

    name: str
    statements: Wordings
    reversals: Wordings
    questions: Wordings
    reverse_questions: Wordings
    objects: tuple[str, ...]

    def __post_init__(self) -> None:
        for templates, last in ((self.statements, "object"), (self.reversals, "subject")):
            for template in templates:
                if not template.endswith(f" {{{last}}}."):
                    raise ValueError(f"{self.name}: {template!r} must end with ' {{{last}}}.'")
        if len(set(self.objects)) < len(self.objects) or len(self.objects) < 2:
            raise ValueError(f"{self.name}: the objects must be two or more different values")


RELATIONS: dict[str, Relation] = {
    relation.name: relation
    for relation in (
        Relation(
            "birthplace",
            (
                "{subject} was born in {object}.",
                "The birthplace of {subject} is {object}.",
                "The life of {subject} began in {object}.",
            ),
            (
                "{object} is the birthplace of {subject}.",
                "A child born in {object} was {subject}.",
                "{object} is the home town of {subject}.",
            ),
            (
                "Where was {subject} born?",
                "In which city was {subject} born?",
                "What is the birthplace of {subject}?",
            ),
            ("Who was born in {object}?", "Whose birthplace is {object}?", "Who comes from {object}?"),
            ATTRIBUTES["birthplace"].values,
        ),
        Relation(
            "language",
            (
                "{subject} writes in {object}.",
                "The mother tongue of {subject} is {object}.",
                "At home {subject} speaks {object}.",
            ),
            (
                "{object} is the mother tongue of {subject}.",
                "{object} is spoken by {subject}.",
                "A speaker of {object} is {subject}.",
            ),
            (
                "Which language does {subject} speak?",
                "In which language does {subject} write?",
                "What is the mother tongue of {subject}?",
            ),
            ("Who speaks {object}?", "Who writes in {object}?", "Whose mother tongue is {object}?"),
            ATTRIBUTES["language"].values,
        ),
        Relation(
            "hobby",
            (
                "{subject} enjoys {object}.",
                "The favourite hobby of {subject} is {object}.",
                "On a free day {subject} is busy with {object}.",
            ),
            (
                "{object} is the favourite hobby of {subject}.",
                "A lover of {object} is {subject}.",
                "{object} fills the free days of {subject}.",
            ),
            (
                "What does {subject} enjoy?",
                "What is the favourite hobby of {subject}?",
                "How does {subject} spend a free day?",
            ),
            ("Who enjoys {object}?", "Whose hobby is {object}?", "Who spends free days on {object}?"),
            ATTRIBUTES["hobby"].values,
        ),
        Relation(
            "job",
            (
                "{subject} works as a {object}.",
                "The job of {subject} is that of a {object}.",
                "By day {subject} is a {object}.",
            ),
            (
                "The {object} of the town is {subject}.",
                "A {object} by profession is {subject}.",
                "The work of a {object} is done by {subject}.",
            ),
            (
                "What does {subject} work as?",
                "What is the job of {subject}?",
                "How does {subject} earn a living?",
            ),
            ("Who works as a {object}?", "Who is a {object}?", "Who earns a living as a {object}?"),
            ATTRIBUTES["father"].values,
        ),
        Relation(
            "book",
            (
                "{subject} is the author of {object}.",
                "The first book by {subject} was {object}.",
                "Readers know {subject} for {object}.",
            ),
            (
                "{object} was written by {subject}.",
                "The author of {object} is {subject}.",
                "{object} was the first book by {subject}.",
            ),
            (
                "What did {subject} write?",
                "Which book is by {subject}?",
                "What was the first book by {subject}?",
            ),
            ("Who wrote {object}?", "By whom is {object}?", "Who is the author of {object}?"),
            ATTRIBUTES["book"].values,
        ),
    )
}


@dataclass(frozen=True)
class Fact:
    """One fact, and how to tell it. `wording` is 0, 1 or 2; a pair is a prompt and what follows it.

    Attributes:
        wrong: other objects of the relation.
    """

    subject: str
    relation: Relation
    object: str
    wrong: tuple[str, ...] = ()

    def _told(self, templates: Wordings, wording: int) -> str:
        return templates[wording].format(subject=self.subject, object=self.object)

    def statement(self, wording: int = 0, *, reverse: bool = False) -> str:
        """A sentence: subject first or, with `reverse`, object first.

        >>> fact = Fact("Ada Verin", RELATIONS["birthplace"], "Porto")
        >>> fact.statement(), fact.statement(reverse=True)
        ('Ada Verin was born in Porto.', 'Porto is the birthplace of Ada Verin.')
        """
        return self._told(self.relation.reversals if reverse else self.relation.statements, wording)

    def cloze(self, wording: int = 0, *, reverse: bool = False) -> Pair:
        """The statement up to its last words, and these: the object or, with `reverse`, the subject.

        >>> Fact("Ada Verin", RELATIONS["birthplace"], "Porto").cloze()
        ('Ada Verin was born in', ' Porto')
        """
        last = self.subject if reverse else self.object
        return self.statement(wording, reverse=reverse).removesuffix(f" {last}."), f" {last}"

    def question(self, wording: int = 0, *, reverse: bool = False) -> Pair:
        """A question and its answer: the object or, with `reverse`, the subject.

        >>> Fact("Ada Verin", RELATIONS["birthplace"], "Porto").question(reverse=True)
        ('Who was born in Porto?', 'Ada Verin')
        """
        templates = self.relation.reverse_questions if reverse else self.relation.questions
        return self._told(templates, wording), self.subject if reverse else self.object


def facts(
    n: int,
    split: str = "train",
    seed: int = 0,
    *,
    relations: Sequence[str | Relation] = tuple(RELATIONS),
    unique: bool = False,
) -> list[Fact]:
    """The facts of `n` people, one of each relation, person by person; no two splits of a seed share a person.

    Args:
        n: how many people: at most 600 in "train", 150 in "validation" and "test".
        relations: names out of `RELATIONS`, or relations of your own.
        unique: give no object to two people, for facts that are to be asked for in both directions.

    Raises:
        ValueError: if there are too few people, or with `unique` too few objects; for an unknown split or relation.

    >>> [(fact.subject, fact.relation.name) for fact in facts(2, relations=["job", "hobby"])]
    [('Ada Babab', 'job'), ('Ada Babab', 'hobby'), ('Ulrich Vifer', 'job'), ('Ulrich Vifer', 'hobby')]
    """
    if split not in SHARES:
        raise ValueError(f"split must be one of {', '.join(SHARES)}, got {split!r}")
    start, end = SHARES[split]
    if not 1 <= n <= end - start:
        raise ValueError(f"n must be from 1 to {end - start} people of the {split} split, got {n}")
    unknown = [name for name in relations if isinstance(name, str) and name not in RELATIONS]
    if unknown or not relations:
        raise ValueError(f"relations must be among {', '.join(RELATIONS)}, got {unknown or list(relations)}")
    names = author_names(seed, end)
    check_disjoint(split=names[start:], others=names[:start])
    by_relation = [
        _of_relation(RELATIONS[name] if isinstance(name, str) else name, names[start : start + n], split, seed, unique)
        for name in relations
    ]
    return [fact for person in zip(*by_relation, strict=True) for fact in person]


def fact_words(rows: Iterable[Fact]) -> list[str]:
    """Every text that can be made of the facts: what `palimpsest.models.word_tokenizer` makes its vocabulary of.

    Covers all templates of the relations met, and all their objects.
    """
    rows = list(rows)
    relations = {fact.relation.name: fact.relation for fact in rows}
    texts = list(dict.fromkeys(fact.subject for fact in rows))
    for relation in relations.values():
        templates = relation.statements + relation.reversals + relation.questions + relation.reverse_questions
        texts += [template.format(subject="", object="") for template in templates]
        texts += relation.objects
    return texts


def _of_relation(relation: Relation, subjects: Sequence[str], split: str, seed: int, unique: bool) -> list[Fact]:
    draws = random.Random(f"{seed}/facts/{split}/{relation.name}")
    if unique and len(subjects) > len(relation.objects):
        raise ValueError(f"{relation.name} has {len(relation.objects)} objects, fewer than {len(subjects)} people")
    if unique:
        objects = draws.sample(relation.objects, len(subjects))
    else:
        objects = draws.choices(relation.objects, k=len(subjects))
    made = []
    for subject, value in zip(subjects, objects, strict=True):
        others = [other for other in relation.objects if other != value]
        made.append(Fact(subject, relation, value, tuple(draws.sample(others, min(N_WRONG, len(others))))))
    return made
