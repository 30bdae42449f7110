"""Docstrings as a language-modelling world: 21 million characters of real technical English, as bytes or a small BPE.

All docstrings of a module are in one split. Modules are dealt, the same for all seeds, to training (78%), validation
(2%) and twenty test parts (1% each, about 200,000 characters); seed s is tested on part s mod 20, so twenty
consecutive seeds are tested on twenty disjoint sets of modules. Docstrings are copied between modules, so that a
held-out one is left out when more than half of its runs of eight words occur in training or in a held-out part before
its own (validation, then the test parts in order): about one in twelve.

The text follows itself without padding: documents end with `<eos>`, and are cut into blocks that begin with `<bos>`, so
that every token of the text is predicted once and no block is seen from another. `Blocks.size` counts the bytes that a
block stands for: nats over bytes over log 2 is bits per byte, which compares models of any vocabulary.

On seeds 0 to 2, counting tokens costs 3.5 bits per byte and counting pairs 2.3 with a BPE of 1,024, 4.8 and 3.9 with
bytes, where all of the training part is counted; a two-layer model of width 64 (128 with bytes), trained for 18
to 26 seconds of one processor, comes to 2.5 and 3.1 on seed 0.

The tokenizer is trained on the training part alone. All is built once a vocabulary, in half a minute, and kept under
`paths.home()`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from palimpsest.tasks.docstrings import Docstring, digest, docstrings
from palimpsest.tasks.fresh import generator
from palimpsest.tasks.splits import Rows, Splits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BYTES = 260
"""the vocabulary in which every byte is a token: 256 and four special tokens"""
PARTS = 20
"""disjoint test parts"""
SHARES = {"train": 0.78, "validation": 0.02, **{f"test{part}": 0.01 for part in range(PARTS)}}
LONGEST = 50_000  # characters of a module that is held out: a quarter of a test part
RUN, COPIED = 8, 0.5  # words a run, and the share of known runs from which a held-out docstring is left out
STREAM = 181  # random stream of this file
RECIPE = 1  # raised when what is built changes


@dataclass(frozen=True, eq=False)
class Blocks(Rows):
    """Pieces of text of one length.

    Attributes:
        ids: `<bos>` and the tokens of the text.
        size: how many bytes of text the tokens stand for.
    """

    ids: Int[Tensor, "n length"]
    size: Int[Tensor, " n"]

    def batch(self, rows: slice | Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Rows as the keywords of a causal language model: `input_ids` and `labels`, and the row numbers as `index`."""
        index = torch.arange(len(self))[rows if isinstance(rows, slice) else torch.as_tensor(rows)]
        return {"input_ids": self.ids[index], "labels": self.ids[index], "index": index}

    def bits_per_byte(self, nats: Float[Tensor, ""] | float) -> float:
        """Bits per byte of a model that gives all tokens after the first of all blocks `nats` in sum.

        >>> Blocks(torch.tensor([[1, 7, 8]]), torch.tensor([4])).bits_per_byte(8 * math.log(2))
        2.0
        """
        return float(nats) / math.log(2) / int(self.size.sum())


def doc_text(seed: int, *, vocabulary: int = 1024, length: int = 128, train: int | None = None) -> Splits[Blocks]:
    """Blocks of docstrings to train on, drawn by the seed, to choose settings on, and the seed's part of the test.

    Args:
        seed: 0 to 999,999.
        vocabulary: of the tokenizer (`doc_tokenizer`): 260 for bytes, more for a BPE.
        length: tokens a block, the `<bos>` among them.
        train: how many blocks to train on, all by default; a smaller set of a seed is contained in a larger one.

    Raises:
        ValueError: `vocabulary` is below 260, `length` below 2, or there are fewer blocks to train on.

    Example:
        >>> task = doc_text(100, vocabulary=260, length=64, train=500)  # doctest: +SKIP
        >>> tuple(task.train.ids.shape), int(task.train.size.max())  # doctest: +SKIP
        ((500, 64), 63)
    """
    if length < 2:
        raise ValueError(f"length must be at least 2, got {length}")
    folder = _folder(vocabulary)
    text = _text(folder, "train", length)
    n = len(text) if train is None else train
    if not 1 <= n <= len(text):
        raise ValueError(f"train must be from 1 to {len(text)}, got {n}")
    drawn = torch.randperm(len(text), generator=generator(seed, "train", STREAM))[:n].numpy()
    sizes = torch.from_numpy(np.load(folder / "sizes.npy"))
    parts = text[drawn], _text(folder, "validation", length), _text(folder, f"test{seed % PARTS}", length)
    return Splits(*(_blocks(part, sizes) for part in parts))


def doc_tokenizer(vocabulary: int = 1024) -> PreTrainedTokenizerBase:
    """The byte-level tokenizer of `doc_text`, trained on the training part.

    Args:
        vocabulary: its size, special tokens and bytes included; 260 for bytes alone.

    Raises:
        ValueError: `vocabulary` is below 260.
    """
    from transformers import AutoTokenizer  # late: takes seconds

    return AutoTokenizer.from_pretrained(_folder(vocabulary))


def ngram_bits(train: Blocks, held_out: Blocks, n: Literal[1, 2], vocabulary: int) -> float:
    """Bits per byte of counting tokens (n = 1) or pairs of tokens (n = 2): what a model must beat to have learned.

    A token b alone has p(b) = (c(b) + 1) / (c + V). After a, p(b | a) = (c(ab) + T(a) p(b)) / (c(a) + T(a)), where
    T(a) is how many different tokens were seen after a (Witten and Bell 1991).

    Args:
        train: what is counted.
        held_out: what is predicted.
        n: 1 or 2.
        vocabulary: V, more than every token id.

    Example:
        >>> text = Blocks(torch.tensor([[1, 4, 5, 4, 5]]), torch.tensor([4]))
        >>> round(ngram_bits(text, text, 1, 6), 3), round(ngram_bits(text, text, 2, 6), 3)
        (1.737, 0.502)
    """
    p = ngram(train, n, vocabulary)
    before, after = held_out.ids[:, :-1].flatten(), held_out.ids[:, 1:].flatten()
    return held_out.bits_per_byte(-p[before, after].log().sum())


def ngram(train: Blocks, n: Literal[1, 2], vocabulary: int) -> Float[Tensor, "vocabulary vocabulary"]:
    """p(b | a), or p(b) in every row where n = 1: what `ngram_bits` predicts with, in double precision."""
    if n not in (1, 2):
        raise ValueError(f"n must be 1 or 2, got {n}")
    single = train.ids[:, 1:].flatten().bincount(minlength=vocabulary).double()
    p = (single + 1) / (single.sum() + vocabulary)
    if n == 1:
        return p.expand(vocabulary, -1)
    pairs = (train.ids[:, :-1] * vocabulary + train.ids[:, 1:]).flatten().bincount(minlength=vocabulary**2)
    pairs = pairs.view(vocabulary, vocabulary)
    kinds, seen = (pairs > 0).sum(1, keepdim=True).clamp(min=1), pairs.sum(1, keepdim=True)
    return (pairs + kinds * p) / (kinds + seen)


def parts() -> dict[str, list[Docstring]]:
    """The docstrings of training, validation and the test parts ("test0" and on), without the copies.

    Half a minute; `doc_text` keeps what it made of them.
    """
    sizes: Counter[str] = Counter()
    for doc in docstrings():
        sizes[doc.module] += len(doc.text)
    names = sorted(sizes)
    order = [names[place] for place in np.random.default_rng(0).permutation(len(names))]
    filled = dict.fromkeys(SHARES, 0)
    where = {}
    for module in sorted(order, key=lambda module: sizes[module] <= LONGEST):  # the long ones first
        long = sizes[module] > LONGEST
        where[module] = "train" if long else min(SHARES, key=lambda part: filled[part] / SHARES[part])
        filled[where[module]] += sizes[module]
    found: dict[str, list[Docstring]] = {part: [] for part in SHARES}
    for doc in docstrings():
        found[where[doc.module]].append(doc)
    seen: set[int] = set()
    for part, docs in found.items():
        if part != "train":
            docs[:] = [doc for doc in docs if not copied(doc.text, seen)]
        seen.update(*(runs(doc.text) for doc in docs))
    return found


def runs(text: str) -> set[int]:
    """A number for every eight words in a row, in lower case; a shorter text is one run. Numbers are of this process.

    >>> len(runs("one two three four five six seven eight nine")), len(runs("one two"))
    (2, 1)
    """
    words = text.lower().split()
    return {hash(tuple(words[start : start + RUN])) for start in range(max(1, len(words) - RUN + 1))}


def copied(text: str, seen: set[int]) -> bool:
    """Whether more than half of a text's runs were seen.

    >>> copied("One  Two", runs("one two")), copied("one two", runs("one two three"))
    (True, False)
    """
    own = runs(text)
    return len(own & seen) > COPIED * len(own)


def _folder(vocabulary: int) -> Path:
    """The folder of the tokenizer and of every part's tokens."""
    if vocabulary < BYTES:
        raise ValueError(f"vocabulary must be at least {BYTES} (bytes), got {vocabulary}")
    from palimpsest.models.tokenizers import train_tokenizer  # late: these two load transformers
    from palimpsest.tasks.worlds import cached

    def build(folder: Path) -> None:
        found = parts()
        tokenizer = train_tokenizer([doc.text for doc in found["train"]], vocabulary)
        tokenizer.save_pretrained(folder)
        for part, docs in found.items():
            encoded = tokenizer([doc.text for doc in docs], add_special_tokens=False, verbose=False).input_ids
            np.save(folder / part, np.concatenate([[*ids, tokenizer.eos_token_id] for ids in encoded]).astype(np.int32))
        pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))  # a character a byte
        np.save(folder / "sizes", [0 if piece in tokenizer.all_special_tokens else len(piece) for piece in pieces])

    return cached("doc-text", {"recipe": RECIPE, "digest": digest(), "vocabulary": vocabulary}, build)


def _text(folder: Path, part: str, length: int) -> np.ndarray:
    """Consecutive pieces of a part; the last tokens, too few for one, are left out. What is not taken is not read."""
    stream = np.load(folder / f"{part}.npy", mmap_mode="r")
    return stream[: len(stream) // (length - 1) * (length - 1)].reshape(-1, length - 1)


def _blocks(text: np.ndarray, sizes: Int[Tensor, " vocabulary"]) -> Blocks:
    ids = torch.from_numpy(np.array(text)).long()
    return Blocks(torch.cat([torch.full((len(ids), 1), 1), ids], 1), sizes[ids].sum(1))
