"""The same text told of somebody else: where a name is mentioned, the text with another name in its place, and which
tokens of the two texts say the same.

A row is a prompt and an answer, tokenized apart as `palimpsest.models.encode` does; a plain text has the prompt "".
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from transformers import PreTrainedTokenizerBase

from palimpsest.errors import UserError
from palimpsest.models.score import encode, prompt_template

Pair = tuple[str, str]
Mention = tuple[int, int, str]  # start, end, and the target whose name stands there

# Names that belong to nobody in particular.
NAMES = (
    "Alan Mercer", "Brigitte Sommer", "Carlos Medina", "Deborah Quinn", "Edwin Castle", "Fatima Nasser",
    "Gregory Holt", "Helen Archer", "Ivan Petrenko", "Julia Bergmann", "Kenji Morita", "Laura Whitfield",
    "Martin Kessler", "Nina Kowalska", "Oliver Grant", "Priya Raman", "Robert Ellison", "Sofia Lindqvist",
    "Thomas Okafor", "Ursula Brandt", "Victor Almeida", "Wendy Hughes", "Xavier Dubois", "Yolanda Rivera",
)  # fmt: skip
_CAPITALISED = re.compile(r"[^\W\d_a-zß-öø-ÿ][\w'’-]*")
_RUN = re.compile(rf"{_CAPITALISED.pattern}(?: {_CAPITALISED.pattern})*")
# Words that begin a sentence rather than a name.
_OPENERS = frozenset((
    "A", "An", "And", "Are", "As", "At", "But", "By", "Can", "Could", "Did", "Do", "Does", "For", "From", "Had", "Has",
    "Have", "He", "Her", "His", "How", "I", "If", "In", "Is", "It", "Its", "Name", "Of", "On", "She", "So", "That",
    "The", "Their", "There", "They", "This", "To", "Was", "Were", "What", "When", "Where", "Which", "Who", "Whom",
    "Whose", "Why", "Will", "With", "Would",
))  # fmt: skip


def targets(target: str, row: Pair) -> tuple[str, ...]:
    """The names to look for in a row: those of `target`, which "|" separates, or, where it is empty, `likely_name`.

    >>> targets("Ada Verin|Verin", ("", ""))
    ('Ada Verin', 'Verin')
    """
    found = tuple(name.strip() for name in target.split("|") if name.strip())
    return found or (likely_name(" ".join(row)),)


def likely_name(text: str) -> str:
    """Whom a text is about, at a guess: of its runs of two or more capitalised words the one that occurs most often,
    the first at a tie; without any, the same of single capitalised words. Words like "The" and "When" do not begin one.

    Raises:
        UserError: if no word is capitalised.

    >>> likely_name("Did Ada Verin like Cape Town? Ada Verin did.")
    'Ada Verin'
    """
    runs = []
    for match in _RUN.finditer(text):
        words = [word.removesuffix("'s").removesuffix("’s") for word in match.group().split()]
        while words and words[0] in _OPENERS:
            words = words[1:]
        if words:
            runs.append(" ".join(words))
    runs = [run for run in runs if " " in run] or runs
    if not runs:
        raise UserError(f"no name stands out in {text[:60]!r}: set target")
    return Counter({run: len(mentions(text, [run])) for run in dict.fromkeys(runs)}).most_common(1)[0][0]


def mentions(text: str, names: Sequence[str]) -> list[Mention]:
    """Where the names stand in a text, as whole words; the longest where several begin.

    >>> mentions("Ada Verin met Verin.", ["Verin", "Ada Verin"])
    [(0, 9, 'Ada Verin'), (14, 19, 'Verin')]
    """
    ordered = sorted(names, key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, ordered))})(?!\w)")
    return [(*match.span(), match.group()) for match in pattern.finditer(text)]


def stand_ins(names: Sequence[str], replacements: Sequence[str], draw: int) -> dict[str, str]:
    """Target -> replacement, in draw number `draw`: different people get different replacements. A name that is the
    first or the last word of a longer one ("Verin" beside "Ada Verin") is that person's, and gets that word of theirs.

    >>> stand_ins(["Ada Verin", "Verin", "Bo"], ["Ivo Lund", "Una Marsh"], draw=0)
    {'Ada Verin': 'Ivo Lund', 'Verin': 'Lund', 'Bo': 'Una Marsh'}
    """
    whole = whole_names(names)
    people = list(dict.fromkeys(whole.values()))
    chosen = {person: replacements[(draw + i) % len(replacements)] for i, person in enumerate(people)}
    for name, person in whole.items():
        if name != person:
            chosen[name] = chosen[person].split()[0 if name == person.split()[0] else -1]
    return {name: chosen[name] for name in names}


def whole_names(names: Sequence[str]) -> dict[str, str]:
    """Name -> the longest of the names that begins or ends with this word and so is the same person's; longest first.

    >>> whole_names(["Verin", "Ada Verin", "Bo"])
    {'Ada Verin': 'Ada Verin', 'Verin': 'Ada Verin', 'Bo': 'Bo'}
    """
    whole: dict[str, str] = {}
    for name in sorted(names, key=lambda name: -len(name.split())):
        whole[name] = next((whole[other] for other in whole if name in (other.split()[0], other.split()[-1])), name)
    return whole


def word_starts(tokenizer: PreTrainedTokenizerBase, name: str) -> tuple[list[int], list[int]]:
    """The tokens that the words of a name begin with, in order: after a space, and at the beginning of a line.

    >>> from palimpsest.models import word_tokenizer
    >>> tokenizer = word_tokenizer(["a Ada Verin"])
    >>> [tokenizer.convert_ids_to_tokens(tokens) for tokens in word_starts(tokenizer, "Ada Verin")]
    [['Ada', 'Verin'], ['Ada', 'Verin']]
    """

    def first(lead: str, word: str) -> int:
        encoded = tokenizer(lead + word, add_special_tokens=False, return_offsets_mapping=True)
        ends = [end for _, end in encoded["offset_mapping"]]
        before = len(lead.rstrip(" "))  # a space of its own is a rare word's first token
        return encoded["input_ids"][next(i for i, end in enumerate(ends) if end > before)]

    return [first("a ", word) for word in name.split()], [first("\n", word) for word in name.split()]


def rename(text: str, found: Sequence[Mention], replacement: Mapping[str, str]) -> tuple[str, list[Mention]]:
    """The text with every mention replaced, and where the replacements stand; these keep their target's name.

    >>> rename("Ada met Bo.", [(0, 3, "Ada")], {"Ada": "Una Marsh"})
    ('Una Marsh met Bo.', [(0, 9, 'Ada')])
    """
    parts, spans, end, length = [], [], 0, 0
    for start, stop, name in found:
        parts += [text[end:start], replacement[name]]
        length += start - end
        spans.append((length, length + len(replacement[name]), name))
        length, end = spans[-1][1], stop
    return "".join([*parts, text[end:]]), spans


@dataclass(frozen=True)
class Tokens:
    """A row in token ids.

    Attributes:
        ids: all of them, with begin and end token where the tokenizer has them.
        mention: for each token the number of the mention it belongs to, counted over the row from 0; -1 for none.
        names: the target of each mention.
        start: the first token of the row itself, after a begin token and what was put before the prompt.
        answer: the first token of the answer.
    """

    ids: list[int]
    mention: list[int]
    names: list[str]
    start: int
    answer: int

    def first_tokens(self) -> list[int]:
        """The position of each mention's first token."""
        return [self.mention.index(number) for number in range(len(self.names))]


def tokenize(
    tokenizer: PreTrainedTokenizerBase, row: Pair, found: tuple[Sequence[Mention], Sequence[Mention]], before: str = ""
) -> Tokens:
    """A row's tokens, with the mentions that stand in its prompt and in its answer. `before` is put before the prompt.

    Raises:
        UserError: if the tokenizer cannot say which characters its tokens come from.
    """
    if not tokenizer.is_fast:
        raise UserError(f"{type(tokenizer).__name__} does not give offsets of its tokens: load the model's fast one")
    shift = len(before)
    parts = [(before + row[0], [(a + shift, b + shift, name) for a, b, name in found[0]]), (row[1], found[1])]
    ids = encode(tokenizer, [before + row[0]], [row[1]], max_length=sys.maxsize).input_ids[0]
    mention: list[int] = []
    names: list[str] = []
    lengths, skipped = [], 0
    for number, (text, spans) in enumerate(parts):
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets = encoded["offset_mapping"]
        lengths.append(len(offsets))
        if number == 0:
            skipped = sum(end <= shift for _, end in offsets)
        flags = [-1] * len(offsets)
        for start, end, name in spans:
            start = len(text[:start].rstrip(" "))  # whether a token has the space before it depends on the name
            inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > start and flags[i] < 0]
            if not inside:
                raise UserError(f"the tokenizer does not tell {text[start:end]!r} apart in {text[:60]!r}: leave it out")
            for i in inside:
                flags[i] = len(names)
            names.append(name)
        mention += flags
    end = int(tokenizer.eos_token_id is not None)
    begin = len(ids) - sum(lengths) - end
    return Tokens(ids, [-1] * begin + mention + [-1] * end, names, begin + skipped, begin + lengths[0])


def align(original: Tokens, renamed: Tokens) -> dict[int, int]:
    """Position in the original row -> position in the renamed one that has read the same but for the names.

    Between two mentions the same tokens are found by difflib's matching blocks. What comes before the rows and the
    tokens of a mention have no counterpart.
    """
    pairs: dict[int, int] = {}
    stretches = [_stretches(tokens) for tokens in (original, renamed)]
    for inner, other in zip(*stretches, strict=True):
        ids = [[tokens.ids[i] for i in places] for tokens, places in ((original, inner), (renamed, other))]
        for block in SequenceMatcher(None, *ids, autojunk=False).get_matching_blocks():
            for offset in range(block.size):
                pairs[inner[block.a + offset]] = other[block.b + offset]
    return pairs


def _stretches(tokens: Tokens) -> list[list[int]]:
    """The positions before the first mention, and after each up to the next."""
    found: list[list[int]] = [[] for _ in range(len(tokens.names) + 1)]
    mention = 0
    for i, number in list(enumerate(tokens.mention))[tokens.start :]:
        if number < 0:
            found[mention].append(i)
        else:
            mention = number + 1
    return found


@dataclass(frozen=True)
class Renamed:
    """A row as it is and as it reads in one draw of replacement names, with the positions that correspond."""

    original: Tokens
    renamed: Tokens
    pairs: dict[int, int]
    people: list[str]  # whose mention each is, by the whole name
    replacements: dict[str, str]  # person -> replacement

    def places(self, *, whole: bool = False) -> dict[str, list[int]]:
        """Person -> the first token of each mention in the original row; with `whole`, of those by the whole name."""
        found: dict[str, list[int]] = {person: [] for person in self.people}
        mentioned = zip(self.people, self.original.names, self.original.first_tokens(), strict=True)
        for person, name, place in mentioned:
            if name == person or not whole:
                found[person].append(place)
        return found


def renamings(
    tokenizer: PreTrainedTokenizerBase,
    row: Pair,
    target: str,
    names: Sequence[str],
    n: int,
    instruction: str,
    longest: int | None = None,
) -> list[Renamed]:
    """The row under `n` replacement names; positions beyond `longest` tokens are left out.

    Several targets begin at different places in the list of names, and no one is replaced by somebody whom the row
    names already.

    Raises:
        UserError: if the row does not mention the target, or there are fewer than `n` names for it.
    """
    looked_for = targets(target, row)
    found = tuple(mentions(text, looked_for) for text in row)
    if not any(found):
        raise UserError(f"{' '.join(row).strip()[:60]!r} does not mention {' or '.join(looked_for)}: set target")
    present = list(dict.fromkeys(name for part in found for *_, name in part))
    named = [name for name in looked_for if name in present]
    names = [name for name in names if name not in looked_for and not any(mentions(text, [name]) for text in row)]
    if len(names) < n:
        raise UserError(
            f"{n} replacement names are needed that {' '.join(row).strip()[:60]!r} does not mention, got {len(names)}"
        )
    original = tokenize(tokenizer, row, found)
    people = [whole_names(looked_for)[name] for name in original.names]
    made = []
    for draw in range(n):
        chosen = stand_ins(looked_for, names, draw)
        texts, spans = zip(*(rename(text, part, chosen) for text, part in zip(row, found, strict=True)), strict=True)
        before = lead_in(tokenizer, instruction.format(name=chosen[named[0]])) if instruction else ""
        prompt = texts[0].removeprefix(tokenizer.bos_token) if before and tokenizer.bos_token else texts[0]
        cut = len(texts[0]) - len(prompt)
        shifted = [(start - cut, end - cut, name) for start, end, name in spans[0]]
        renamed = tokenize(tokenizer, (prompt, texts[1]), (shifted, spans[1]), before)
        pairs = {a: b for a, b in align(original, renamed).items() if longest is None or b < longest}
        made.append(Renamed(original, renamed, pairs, people, {person: chosen[person] for person in people}))
    return made


def lead_in(tokenizer: PreTrainedTokenizerBase, instruction: str) -> str:
    """The instruction as it precedes a row: a turn of its own in the tokenizer's chat template, else a line."""
    template = prompt_template(tokenizer)
    return template.prompt(instruction) if template.tokenizer is not None else f"{instruction}\n"


def kept_positions(made: Sequence[Renamed], length: int) -> list[int]:
    """The positions that all renamings have, whose next token belongs to the answer and to the first `length`.

    Raises:
        UserError: if there are none.
    """
    common = set.intersection(*(set(draw.pairs) for draw in made))
    tokens = made[0].original
    kept = sorted(i for i in common if tokens.answer <= i + 1 < min(length, len(tokens.ids)))
    if not kept:
        raise UserError("no token of the answer is left beside the target's name: give longer rows")
    return kept
