"""Recognition, recall and retention: what a language model remembers of texts that it saw a few times.

Source: Orhan (2023), Recognition, recall, and retention of few-shot memories in large language models, arXiv
2303.17557.

A model studies some texts, each exactly once a pass. *Recognition*: of a text that it saw and a foil that it did not,
which has the lower mean loss a token? *Recall*: given the first half of a text, does it go on as the text does?
*Retention*: how much of both is left while it trains on other texts? Recognition comes after one exposure and is
robust; recall takes a few, and most of it is overwritten within the first updates with something new.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerBase

from palimpsest.metrics.text import ngram_overlap
from palimpsest.models.decode import greedy
from palimpsest.models.encoding import Encoded, encode, pad_token_id
from palimpsest.models.score import cross_entropy, score
from palimpsest.train.loop import fit
from palimpsest.train.method import Edit
from palimpsest.train.order import shuffled
from palimpsest.train.ranges import AtLeast

Stimulus = Literal["natural", "shuffled", "gibberish", "random"]
Foil = Literal["novel", "perturbed", "paraphrase"]
LOOKS = (0, 1, 2, 5, 10, 20, 50, 100, 200)
LONGEST = 128  # tokens of a text


def stimuli(texts: Sequence[str], kind: Stimulus, seed: int = 0) -> list[str]:
    """Texts with less and less structure: as they are, their words shuffled, their words' letters shuffled too, and
    words drawn from all texts alike; each has as many words as before.

    >>> sorted(stimuli(["the cat sat"], "shuffled")[0].split())
    ['cat', 'sat', 'the']
    """
    _checked(kind, Stimulus)
    draws = random.Random(f"{seed}/{kind}")
    pool = sorted({word for text in texts for word in text.split()})
    found = []
    for text in texts:
        words = text.split()
        if kind == "random":
            words = draws.choices(pool, k=len(words))
        if kind == "gibberish":
            words = ["".join(draws.sample(word, len(word))) for word in words]
        if kind in ("shuffled", "gibberish"):
            draws.shuffle(words)
        found.append(" ".join(words))
    return found


def foils(
    texts: Sequence[str],
    kind: Foil,
    *,
    novel: Sequence[str] = (),
    changed: int = 2,
    paraphrase: Callable[[str], str] = lambda text: f"In other words, {text[:1].lower()}{text[1:]}",
    seed: int = 0,
) -> list[str]:
    """A foil for each text: another text of the same source; the text with `changed` of its words replaced by words of
    `novel`; or a paraphrase. The latter two share all but what was changed, and are harder.

    Args:
        novel: texts that are not studied; as many as there are texts, for "novel".

    >>> foil = foils(["a b c d"], "perturbed", novel=["x y"], changed=1)[0].split()
    >>> sum(word in "abcd" for word in foil), len(foil)
    (3, 4)
    """
    _checked(kind, Foil)
    if kind == "paraphrase":
        return [paraphrase(text) for text in texts]
    if kind == "novel":
        if len(novel) < len(texts):
            raise ValueError(f"every text needs a novel one: there are {len(novel)} for {len(texts)}")
        return list(novel[: len(texts)])
    draws = random.Random(f"{seed}/{kind}")
    pool = sorted({word for text in novel for word in text.split()})
    found = []
    for text in texts:
        words = text.split()
        for place in draws.sample(range(len(words)), min(changed, len(words))):
            words[place] = draws.choice([word for word in pool if word != words[place]])
        found.append(" ".join(words))
    return found


def encoded(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Encoded:
    """Texts as rows all of whose tokens are learned and scored; of a long one, its first 128 tokens."""
    return encode(tokenizer, [""] * len(texts), texts, max_length=LONGEST, add_eos=False, truncate=True)


def study(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    exposures: int,
    *,
    lr: float = 1e-5,
    batch_size: int = 16,
    seed: int = 0,
    **options: object,
) -> nn.Module:
    """A copy of a model that saw every text exactly `exposures` times, once a pass and in a new order each: AdamW at a
    constant rate, without weight decay. Where the texts do not fill the last batch of a pass, it is smaller.

    Args:
        options: of `palimpsest.train.fit`.
    """
    copy = deepcopy(model)
    if exposures < 0:
        raise ValueError(f"exposures must not be negative, got {exposures}")
    if exposures == 0:
        return copy.eval()
    rows, pad_id = encoded(tokenizer, texts), pad_token_id(tokenizer)
    passes = [passed(len(rows), batch_size, seed, number) for number in range(exposures)]
    batches = [rows.batch(chosen, pad_id) for one in passes for chosen in one]
    options = {"progress": False, **options}
    fit(copy, cross_entropy, lambda step: batches[step], steps=len(batches), lr=lr, seed=seed, **options)
    return copy


def passed(n: int, batch_size: int, seed: int, number: int) -> list[list[int]]:
    """The batches of one pass over n rows, each row once.

    >>> sorted(sum(passed(5, 2, seed=0, number=1), []))
    [0, 1, 2, 3, 4]
    """
    order = list(range(n))
    random.Random(f"{seed}/{number}").shuffle(order)
    return [order[start : start + batch_size] for start in range(0, n, batch_size)]


@dataclass(frozen=True)
class Study(Edit):
    """`study` as a method: the data have `tokenizer` and `texts`.

    Attributes:
        exposures: how many times each text is seen.
    """

    exposures: Annotated[int, AtLeast(0)] = 3

    def edit(self, model: nn.Module, data: Any, *, steps: int | None = None, **training: Any) -> nn.Module:
        """The copy that studied; `steps` counts for nothing: texts and exposures say how many there are."""
        return study(model, data.tokenizer, data.texts, self.exposures, **training)


def losses(model: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> np.ndarray:
    """The mean loss a token of each text, in nats [texts]."""
    return score(model, encoded(tokenizer, texts), pad_id=pad_token_id(tokenizer)).nll


def recognition(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, seen: Sequence[str], foils: Sequence[str], *, tie: float = 0.5
) -> float:
    """Two-alternative forced choice: the share of pairs in which the seen text has the lower mean loss than its foil.

    Args:
        tie: what a pair of equal losses counts; the authors' code counts 0.
    """
    if len(seen) != len(foils) or not len(seen):
        raise ValueError(f"every text needs one foil, got {len(seen)} texts and {len(foils)} foils")
    difference = losses(model, tokenizer, foils) - losses(model, tokenizer, seen)
    return float(np.where(difference > 0, 1.0, np.where(difference == 0, tie, 0.0)).mean())


@dataclass(frozen=True)
class Recall:
    """How texts were completed, on average.

    Attributes:
        rouge_2: the share of the missing part's pairs of words that the completion has.
        exact: the share of texts completed to the last token.
        tokens: the share of tokens that are right, place by place.
    """

    rouge_2: float
    exact: float
    tokens: float


def recall(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    cue: float = 0.5,
    include_cue: bool = False,
) -> Recall:
    """Greedy completion of each text from its first tokens, as many tokens as are missing, against the missing part.

    Args:
        cue: the share of a text's tokens that is given.
        include_cue: cue and completion are scored against the whole text, as in the authors' code, which gives away
            what was given.
    """
    if not 0 < cue < 1:
        raise ValueError(f"cue must lie between 0 and 1, got {cue}")
    rows = encoded(tokenizer, texts).input_ids
    if min(map(len, rows)) < 3:
        raise ValueError("every text needs tokens to give and tokens to recall: leave out those of a single token")
    begins = [max(2, int(len(row) * cue)) for row in rows]  # the begin token and one more at least
    given = tokenizer.batch_decode([row[:n] for row, n in zip(rows, begins, strict=True)], skip_special_tokens=True)
    wanted = [len(row) - n for row, n in zip(rows, begins, strict=True)]
    said = greedy(model, tokenizer, given, max_new_tokens=wanted)
    rest = tokenizer.batch_decode([row[n:] for row, n in zip(rows, begins, strict=True)], skip_special_tokens=True)
    rouge, exact, right = [], [], []
    for row, n, text, answer, cued in zip(rows, begins, rest, said, given, strict=True):
        tokens = tokenizer(answer, add_special_tokens=False).input_ids
        right.append(float(np.mean([a == b for a, b in zip(row[n:], tokens, strict=False)] or [0.0])))
        exact.append(answer.strip() == text.strip())
        rouge.append(ngram_overlap(*((cued + answer, cued + text) if include_cue else (answer, text)), n=2))
    return Recall(float(np.mean(rouge)), float(np.mean(exact)), float(np.mean(right)))


def retention(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    studied: Sequence[str],
    foils: Sequence[str],
    interference: Sequence[str],
    *,
    looks: Sequence[int] = LOOKS,
    lr: float = 1e-5,
    batch_size: int = 16,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Recognition and recall of studied texts while a copy of the model goes on to train on others.

    Args:
        looks: the updates after which is asked, rising; the first is usually 0.

    Returns:
        "update", "recognition", "recall" (ROUGE-2): one value a look.
    """
    if list(looks) != sorted(set(looks)) or not looks or looks[0] < 0:
        raise ValueError(f"looks must be numbers of updates that rise, got {list(looks)}")
    copy = deepcopy(model)
    rows, pad_id = encoded(tokenizer, interference), pad_token_id(tokenizer)
    order = shuffled(len(rows), batch_size, seed)
    found: dict[str, list[float]] = {"update": [], "recognition": [], "recall": []}

    def look(asked: nn.Module, step: int) -> dict[str, float]:
        if step in looks and step not in found["update"]:
            found["update"].append(step)
            found["recognition"].append(recognition(asked, tokenizer, studied, foils))
            found["recall"].append(recall(asked, tokenizer, studied).rouge_2)
        return {}

    if looks[-1] == 0:
        look(copy, 0)
        return found
    batch = lambda step: rows.batch(order(step), pad_id)  # noqa: E731
    options = {"evaluate": look, "evaluate_every": 1, "progress": False}
    fit(copy, cross_entropy, batch, steps=looks[-1], lr=lr, seed=seed, **options)
    return found


def forgetting_index(updates: Sequence[float], curve: Sequence[float], at: float) -> float:
    """Which fraction of all that a curve loses is lost at update `at`; nan where nothing is lost.

    >>> forgetting_index([0, 10, 100], [1.0, 0.5, 0.25], 10)
    0.6666666666666666
    """
    if at not in updates:
        raise ValueError(f"there was no look at update {at}, only at {list(updates)}")
    lost = curve[0] - curve[-1]
    return (curve[0] - curve[list(updates).index(at)]) / lost if lost > 0 else float("nan")


def _checked(kind: str, kinds: object) -> None:
    if kind not in kinds.__args__:
        raise ValueError(f"kind must be one of {', '.join(kinds.__args__)}, got {kind!r}")
