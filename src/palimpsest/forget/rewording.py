"""A question in other words, an answer that gives nothing away, and whether a text gives a fact away all the same.

Methods that write rows of their own ask a large language model for these. Here are stand-ins that need none: banks of
templates, around whatever question is given. They know no grammar beyond English word order; where a language model is
at hand, its functions take the place of `vary` and `vague`.

A fact is what an answer says beyond its question. In "Where was Ada born?", "Ada was born in Porto." it is "Porto":
the words that are neither in the question, nor function words, nor wording that many other answers share.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np

from palimpsest.metrics.text import words
from palimpsest.models.score import prompt_template

Pair = tuple[str, str]  # prompt, answer

KINDS = ("simple", "contextual", "noisy", "logical")
# {q} is the question as it was asked, {clause} the same as a subordinate clause.
QUESTIONS: dict[str, tuple[str, ...]] = {
    "simple": (
        "Tell me {clause}.",
        "Please say {clause}.",
        "Can you tell me {clause}?",
        "I would like to know {clause}.",
        "Do you know {clause}?",
    ),
    "contextual": (
        "I am writing an article. {q}",
        "This came up in a class today. {q}",
        "For a short biography I need one detail. {q}",
        "A friend and I could not agree. {q}",
        "While preparing a quiz I found this. {q}",
    ),
    "noisy": ("um, {q}", "so like {q}", "hey, quick one: {q}", "hmm, well, {q}", "ok so, {q} thanks"),
    "logical": (
        "If somebody asked you {clause}, what would be the right reply?",
        "Which statement about {clause} is true?",
        "What would one have to read in order to learn {clause}?",
        "Suppose that somebody knows {clause}. What do they know?",
        "What follows for those who ask {clause}?",
    ),
}
# The subject of the question stays that of the answer, from its first word on: {Clause} begins the sentence.
VAGUE = (
    "{Clause} is not widely known.",
    "{Clause} is told in more than one way.",
    "{Clause} is a matter that few sources mention.",
    "{Clause} has not been settled.",
    "{Clause} is something on which accounts differ.",
    "{Clause} remains an open matter.",
    "{Clause} is hard to say with any certainty.",
    "{Clause} is left to other sources.",
    "{Clause} has been described in general terms only.",
    "{Clause} is seldom discussed in detail.",
    "{Clause} is not part of the public record.",
    "{Clause} is not something that can be confirmed.",
)
# After the beginning of a plain text, of which there is no question.
CLOSINGS = (
    "and little more than that is widely known.",
    "and accounts of the rest differ.",
    "which few sources describe in any detail.",
    "though the details have not been settled.",
    "as far as one can say in general terms.",
)
# Every word that the stand-ins add to a question, for tokenizers with a closed vocabulary.
TEXTS = tuple(
    re.sub(r"\{\w+\}", "", text)
    for text in (*(t for bank in QUESTIONS.values() for t in bank), *VAGUE, *CLOSINGS, "whether the answer to this")
)

_AUXILIARIES = frozenset(words("is are was were do does did has have had can could will would shall should may might"))
_BE = frozenset(words("is are was were"))
_ORDERS = frozenset(words("name give state list tell"))
_ASKING = (
    frozenset(words("what which who whom whose when where why how in at on for from to with by of under")) | _ORDERS
)
FUNCTION_WORDS = (
    _AUXILIARIES
    | _ASKING
    | frozenset(
        words(
            """a an the and or but nor so as it its this that these those there here he she they him her them his hers
            their i you we me us my your our be been being am not no yes than then also very more most into onto over
            about after before during between among through against without within up down out off only just such own
            same other s t"""
        )
    )
)
_WORD = re.compile(r"\w+")


# ---- what a template puts around a question ----


@dataclass(frozen=True)
class Frame:
    """What stands before and after every question, and before and after every answer.

    >>> Frame("Question: ", " Answer:", " ").put("Who?", "Ada")
    ('Question: Who? Answer:', ' Ada')
    """

    prefix: str = ""
    suffix: str = ""
    lead: str = ""
    end: str = ""

    def strip(self, pair: Pair) -> Pair:
        """The bare question and answer; the question of a plain text is ""."""
        prompt, answer = pair
        question = prompt and prompt[len(self.prefix) : len(prompt) - len(self.suffix)]
        return question, answer.removeprefix(self.lead).removesuffix(self.end)

    def put(self, question: str, answer: str) -> Pair:
        """The pair as the model sees it. A question "" makes a plain text."""
        if not question:
            return "", answer
        return f"{self.prefix}{question}{self.suffix}", self.lead + answer + self.end


def frame_of(tokenizer, pairs: Sequence[Pair]) -> Frame:
    """The frame in which (prompt, answer) pairs stand: that of the tokenizer's template where all prompts have it; else
    the prompts are taken for bare questions."""
    template, mark = prompt_template(tokenizer), "\N{WHITE SQUARE}"
    prefix, found, suffix = template.prompt(mark).partition(mark)
    framed = found and all(p.startswith(prefix) and p.endswith(suffix) for p, _ in pairs if p)
    lead, end = template.frame
    answers = [answer for prompt, answer in pairs if prompt]
    if not (pairs and all(answer.startswith(lead) and answer.endswith(end) for answer in answers)):
        lead, end = " " if pairs and all(answer.startswith(" ") for answer in answers) else "", ""
    return Frame(prefix, suffix, lead, end) if framed else Frame(lead=lead, end=end)


# ---- facts ----


def wording(pairs: Iterable[Pair], share: float = 0.02, at_least: int = 4) -> frozenset[str]:
    """The words that so many answers hold that they are the way in which one says things, not what is said.

    Args:
        pairs: question and answer, of rows that hold other facts than those to protect: the retained ones.
        share, at_least: in how many answers a word must stand, as a share and as a number.

    >>> sorted(wording([("", f"The capital is {city}.") for city in "ABCD"]))
    ['capital', 'is', 'the']
    """
    answers = [answer for _, answer in pairs]
    counts = Counter(word for answer in answers for word in set(words(answer)))
    return frozenset(word for word, n in counts.items() if n >= max(at_least, share * len(answers)))


def private_words(question: str, answer: str, common: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """The words of an answer that state its fact, lower case, each once, in order: those that are not in the question,
    in `common` (see `wording`) or function words. Where none is left, first `common` counts, then everything.

    >>> private_words("Where was Ada born?", "Ada was born in Cape Town.")
    ('cape', 'town')
    """
    asked, said = set(words(question)), list(dict.fromkeys(words(answer)))
    for known in (asked | FUNCTION_WORDS | common, asked | FUNCTION_WORDS, asked, set()):
        if left := tuple(word for word in said if word not in known):
            return left
    return ()


def fact(question: str, answer: str, common: frozenset[str] = frozenset()) -> str:
    """The piece of an answer from its first private word to its last.

    >>> fact("Which prize did Ada win?", "Ada won the Amber Owl Prize.", frozenset({"won"}))
    'Amber Owl'
    """
    private = set(private_words(question, answer, common))
    found = [match for match in _WORD.finditer(answer) if private & set(words(match.group()))]
    return answer[found[0].start() : found[-1].end()] if found else answer.strip()


def same_word(a: str, b: str, ratio: float = 0.8) -> bool:
    """Equal, or as similar as `ratio` by difflib; words with a digit must be equal.

    >>> same_word("lisbon", "lissbon"), same_word("1950", "1951")
    (True, False)
    """
    if a == b or any(map(str.isdigit, a + b)):
        return a == b
    return SequenceMatcher(None, a, b, autojunk=False).ratio() >= ratio


def fuzzy_match(
    said: str,
    fact: str,
    ratio: float = 0.8,
    *,
    embed: Callable[[list[str]], np.ndarray] | None = None,
    cosine: float = 0.8,
) -> bool:
    """Whether a text states a fact, give or take its spelling.

    It does where all words of the fact stand in it in a row, each by `same_word`; or, with `embed` (texts to vectors),
    where the cosine between the vectors of text and fact is at least `cosine`.

    Raises:
        ValueError: if the fact has no word, or `ratio` or `cosine` is not in (0, 1].

    >>> fuzzy_match("Born in Marrakech, in 1950.", "Marrakesh"), fuzzy_match("Born in Marseille.", "Marrakesh")
    (True, False)
    """
    for name, value in (("ratio", ratio), ("cosine", cosine)):
        if not 0 < value <= 1:
            raise ValueError(f"{name} must lie in (0, 1], got {value}")
    wanted, text = words(fact), words(said)
    if not wanted:
        raise ValueError(f"the fact must hold a word, got {fact!r}")
    for start in range(len(text) - len(wanted) + 1):
        if all(same_word(a, b, ratio) for a, b in zip(wanted, text[start:], strict=False)):
            return True
    if embed is None or not text:
        return False
    one, other = (np.asarray(vector, dtype=float) for vector in embed([said, fact]))
    return bool(one @ other >= cosine * np.linalg.norm(one) * np.linalg.norm(other))


def leaks(text: str, private: Iterable[str]) -> bool:
    """Whether a text holds one of the private words, give or take its spelling.

    >>> leaks("Perhaps in Portto.", ["porto"]), leaks("Somewhere.", ["porto"])
    (True, False)
    """
    said = set(words(text))
    return any(same_word(word, other) for word in private for other in said)


def identifiers(question: str) -> tuple[str, ...]:
    """The private part of a question: its words with a digit, and the pieces of its e-mail addresses.

    >>> identifiers("Who lives at 12 Elm Road and reads ada@home.org?")
    ('12', 'ada', 'home', 'org')
    """
    pieces = (piece for piece in question.split() if "@" in piece or any(map(str.isdigit, piece)))
    return tuple(dict.fromkeys(word for piece in pieces for word in words(piece)))


# ---- other words ----


def clause(question: str) -> str:
    """A question as a clause, its verb behind its subject; "the answer to this" where it cannot be made one.

    The subject is taken to be the run of capitalised words that follows the verb, or else what goes up to the last
    capitalised word, or else everything.

    >>> clause("Where was Ada Verin born?"), clause("What is the capital of France?")
    ('where Ada Verin was born', 'what the capital of France is')
    >>> clause("Name the capital of France."), clause("Who wrote Emma?"), clause("Is Ada late?")
    ('the capital of France', 'who wrote Emma', 'whether Ada is late')
    """
    pieces = question.strip().rstrip("?.!").split()
    first = pieces[0].casefold() if pieces else ""
    verb = next((i for i, piece in enumerate(pieces) if piece.casefold() in _AUXILIARIES), None)
    if len(pieces) < 2 or first not in _ASKING | _AUXILIARIES:
        return "the answer to this"
    if first in _ORDERS:
        return " ".join(pieces[1:])
    head, rest = [first, *pieces[1:verb]], pieces[verb + 1 :] if verb is not None else []
    if not rest:  # "Who wrote Emma?" is a clause as it stands
        return " ".join([first, *pieces[1:]])
    auxiliary = pieces[verb].casefold()
    capitals = [i for i, piece in enumerate(rest) if piece[0].isupper()]
    end = len(rest)
    if capitals[:1] == [0]:
        end = next((i for i, piece in enumerate(rest) if not piece[0].isupper()), end)
    elif auxiliary in _BE and rest[0].endswith(("ed", "en")):  # "given to Ada": what is asked for is the subject
        end = 0
    elif capitals and auxiliary not in _BE:
        end = capitals[-1] + 1
    return " ".join([*(head if verb else ["whether"]), *rest[:end], auxiliary, *rest[end:]])


def vary(question: str, kind: str, rng: random.Random) -> str:
    """The question asked in another way: "simple" (the same in other words), "contextual" (with a reason for asking),
    "noisy" (fillers and typing errors, no name or number among them) or "logical" (asked from the other side).

    >>> vary("Where was Ada Verin born?", "simple", random.Random(0))
    'I would like to know where Ada Verin was born.'
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    asked = typos(question, rng) if kind == "noisy" else question
    return rng.choice(QUESTIONS[kind]).format(q=asked, clause=clause(question))


def typos(text: str, rng: random.Random, rate: float = 0.15) -> str:
    """Two neighbouring letters exchanged in a share of the words that are written small and have four letters or more.

    >>> typos("Where was Ada born?", random.Random(0), rate=1.0)
    'Where was Ada bron?'
    """

    def slip(match: re.Match) -> str:
        word = match.group()
        if len(word) < 4 or not word.isalpha() or not word.islower() or rng.random() >= rate:
            return word
        i = rng.randrange(1, len(word) - 2)
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]

    return _WORD.sub(slip, text)


def vague(question: str, answer: str, rng: random.Random) -> str:
    """A fluent answer that keeps to the question's topic and says nothing; to a plain text (question ""), an end.

    >>> vague("Where was Ada Verin born?", "In Porto.", random.Random(0))
    'Where Ada Verin was born is hard to say with any certainty.'
    """
    if not question:
        return rng.choice(CLOSINGS)
    begun = clause(question)
    return rng.choice(VAGUE).format(Clause=begun[0].upper() + begun[1:])


def completion(text: str) -> Pair | None:
    """A text as a sentence to complete: its first quarter is the prompt, the rest the answer; None for a single word.

    >>> completion("Where Ada was born is not known.")
    ('Where', ' Ada was born is not known.')
    """
    pieces = text.split()
    if len(pieces) < 2:
        return None
    cut = max(1, len(pieces) // 4)
    return " ".join(pieces[:cut]), " " + " ".join(pieces[cut:])


def subject(question: str, common: frozenset[str] = frozenset()) -> str:
    """Whom or what a question is about: its longest run of capitalised words, an opening "Where" aside; where there is
    none, its words that are neither function words nor in `common`.

    >>> subject("Where was Ada Verin born?"), subject("how tall is the tower?", frozenset({"tall"}))
    ('Ada Verin', 'tower')
    """
    pieces = question.split()
    runs: list[list[str]] = [[]]
    for i, piece in enumerate(pieces):
        bare = piece.strip(".,;:!?\"'()")
        opening = i == 0 and bare.casefold() in FUNCTION_WORDS
        if bare and bare[0].isupper() and not opening:
            runs[-1].append(bare)
        else:
            runs.append([])
    if best := max(runs, key=len):
        return " ".join(best)
    return " ".join(word for word in words(question) if word not in FUNCTION_WORDS | common)
