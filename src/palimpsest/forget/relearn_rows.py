"""ReLearn's rows: each question to forget in several ways, each answered vaguely; see `palimpsest.forget.relearn`.

The authors let large language models write them; here templates stand in (`palimpsest.forget.rewording`), and functions
of your own can take their place.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from palimpsest.errors import UserError
from palimpsest.forget.procedure import ForgetData, Pair, encode_pairs
from palimpsest.forget.refusals import REFUSALS
from palimpsest.forget.rewording import (
    KINDS,
    completion,
    frame_of,
    identifiers,
    leaks,
    private_words,
    vague,
    vary,
    wording,
)
from palimpsest.train.ranges import require

Vary = Callable[[str, str, random.Random], str]  # question, kind, rng -> question
Vague = Callable[[str, str, random.Random], str]  # question, answer, rng -> answer


def augment(
    rows: Sequence[Pair],
    n: int = 4,
    *,
    retain: Sequence[Pair] = (),
    redraws: int = 3,
    completions: bool = True,
    vary: Vary = vary,
    vague: Vague = vague,
    seed: int = 0,
) -> list[Pair]:
    """New rows in place of those to forget: each question as it is and in `n` variants, each answered vaguely.

    A draw that gives the fact away is made anew, at most `redraws` times, and then dropped: where the answer or the new
    question holds a private word of the old answer, or the answer copies an identifier of the question (a number, an
    address). A row that loses all its draws keeps its question, with a refusal.

    Args:
        rows: question and answer, without a template; a plain text has the question "".
        n: variants a question: simple, contextual, noisy, logical, and again. Plain texts have none.
        retain: rows to keep, which tell wording that many answers share from facts.
        completions: give each new pair once more, as a sentence to complete: the question "" and the text.
        vary, vague: what writes the questions (question, kind, rng -> question) and the answers (question, old answer,
            rng -> answer); a language model can stand here.

    Returns:
        (question, answer) pairs, in the order of the rows. Sentences to complete are (first quarter, rest).

    Raises:
        UserError: if there are no rows, or a number is out of range.

    >>> for pair in augment([("Where was Ada Verin born?", "Ada Verin was born in Porto.")], n=1):
    ...     print(pair)
    ('Where was Ada Verin born?', 'Where Ada Verin was born is hard to say with any certainty.')
    ('Where Ada Verin', ' was born is hard to say with any certainty.')
    ('I would like to know where Ada Verin was born.', 'Where Ada Verin was born is not widely known.')
    ('Where Ada', ' Verin was born is not widely known.')
    """
    return [pair for pair, _ in _augmented(rows, n, retain, redraws, completions, vary, vague, seed)]


def _augmented(
    rows: Sequence[Pair],
    n: int,
    retain: Sequence[Pair],
    redraws: int,
    completions: bool,
    vary: Vary,
    vague: Vague,
    seed: int,
) -> list[tuple[Pair, bool]]:
    """The pairs of `augment`, and whether each is a plain text, which no template goes around."""
    if not rows:
        raise UserError("there are no rows to augment: give at least one")
    require(n >= 0, "n", n, "at least 0")
    require(redraws >= 0, "redraws", redraws, "at least 0")
    rng = random.Random(seed)
    common = wording(retain)
    made: list[tuple[Pair, bool]] = []
    for question, answer in rows:
        private = private_words(question, answer, common)
        kept = []
        for kind in [None, *(KINDS[i % len(KINDS)] for i in range(n))] if question else [None]:
            for _ in range(1 + redraws):
                asked = question if kind is None else vary(question, kind, rng)
                said = vague(question, answer, rng)
                new = kind is not None and leaks(asked, private)
                if said.strip() and not (new or leaks(said, (*private, *identifiers(question)))):
                    kept.append((asked, said))
                    break
        for asked, said in kept or [(question, rng.choice(REFUSALS))]:
            if not question:
                asked = (completion(answer) or (answer, ""))[0]
                said = f" {said.strip()}"
            made.append(((asked, said), not question))
            if completions and question and (sentence := completion(said)):
                made.append((sentence, True))
    return made


def rewritten(
    data: ForgetData,
    n: int = 4,
    *,
    redraws: int = 3,
    completions: bool = True,
    vary: Vary = vary,
    vague: Vague = vague,
    seed: int = 0,
) -> ForgetData:
    """The data with the augmented rows (see `augment`) in place of the forget rows, in the same template.

    The refusals and mismatched answers of the old rows are left out. To train on rows that a language model has
    written, call this with your own `vary` and `vague`, and train with `ReLearn(n=0)`.

    Raises:
        UserError: if `data` lacks its texts or tokenizer (`prepare` keeps them).
    """
    if not data.forget_pairs or data.tokenizer is None:
        raise UserError("the rows' texts and the tokenizer are needed to augment them: make the data with prepare")
    frame = frame_of(data.tokenizer, data.forget_pairs)
    bare = [frame.strip(pair) for pair in data.forget_pairs]
    retain = [frame.strip(pair) for pair in data.retain_pairs]
    made = _augmented(bare, n, retain, redraws, completions, vary, vague, seed)
    pairs = tuple(pair if plain else frame.put(*pair) for pair, plain in made)
    forget = encode_pairs(data.tokenizer, pairs, max_length=data.max_length, truncate=True)
    return replace(data, forget=forget, forget_pairs=pairs, refusal=None, mismatch=None)
