"""Prepared models ("worlds"): trained once per seed, kept on disk by the digest of their settings, shared by all.

Two processes that ask for the same world at once get one training: the second waits on a file lock. A folder is
built beside its place, sealed with the digests of its files and renamed, so that a killed build leaves nothing that
looks finished, and one whose bytes changed on disk is noticed and built again.
"""

from __future__ import annotations

import glob
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest import seals
from palimpsest.models.files import load, save
from palimpsest.models.language import causal_lm
from palimpsest.models.score import encode, prompt_template
from palimpsest.models.tokenizers import word_tokenizer
from palimpsest.paths import home
from palimpsest.tasks.authors import AuthorsTask, authors_task
from palimpsest.train.language import fine_tune

MAX_TOKENS = 64  # of a question and its answer in the authors task: the longest has 27


def cached(name: str, settings: dict[str, Any], build: Callable[[Path], None]) -> Path:
    """The folder that `build(folder)` fills, built once for these settings and kept under `home()/worlds`.

    Args:
        name: what it is, for a readable path.
        settings: everything the result depends on, JSON-serialisable; raise a "recipe" number in it when the
            building code changes its result.
        build: writes its files into the empty folder it is given.

    >>> folder = cached("greeting", {"word": "hello"}, lambda folder: (folder / "word").write_text("hello"))
    >>> (folder / "word").read_text()
    'hello'
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    folder = home() / "worlds" / f"{name}-{digest}"
    if not seals.broken(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        # By a build that was killed; and, with a dot more, by its saving of a model, which writes beside and renames.
        for dots in (".", ".."):
            for left in folder.parent.glob(f"{dots}{glob.escape(folder.name)}-*"):
                shutil.rmtree(left)
        if folder.exists():
            if not (why := seals.broken(folder)):
                return folder
            print(f"{folder} is damaged ({why}): it is built again", file=sys.stderr)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            with seals.explained(folder):
                build(unfinished)
                (unfinished / "settings.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
                seals.seal(unfinished)
            if folder.exists():
                folder.rename(f"{unfinished}.damaged")
                shutil.rmtree(f"{unfinished}.damaged")
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


@dataclass(frozen=True)
class AuthorsWorld:
    """The authors task with the models that unlearning starts from and is measured against.

    Attributes:
        seed: of the people, their facts, the split and the weights.
        n_authors, n_attr, forget: see `palimpsest.tasks.authors.authors_task`.
        d_model, n_layers: of a Llama-architecture model over the task's own words.
        epochs, lr, batch_size: of its training by AdamW on two wordings a row, with a linear decay.
        vocabulary: texts whose words the tokenizer knows besides the task's (refusals).
    """

    seed: int
    n_authors: int = 40
    n_attr: int = 8
    forget: float = 0.2
    d_model: int = 128
    n_layers: int = 2
    epochs: int = 13
    lr: float = 3e-3
    batch_size: int = 16
    vocabulary: tuple[str, ...] = ()

    @cached_property
    def task(self) -> AuthorsTask:
        return authors_task(self.n_authors, self.n_attr, self.forget, self.seed)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Of the task's words. Its chat template is the bare question: nothing else is said to these models, and a
        frame around every question would be a fifth of what they read."""
        tokenizer = word_tokenizer(self.task.words(self.vocabulary))
        tokenizer.chat_template = "{{ messages[0]['content'] }}"
        return tokenizer

    def model(self, kind: Literal["base", "gold", "second gold"] = "base") -> PreTrainedModel:
        """A fresh copy of a trained model, from the cache if it was trained before.

        "base" has seen all rows; "gold" all but the forget rows, from other weights and in another order; "second
        gold" likewise once more.
        """
        kinds = ("base", "gold", "second gold")
        if kind not in kinds:
            raise ValueError(f"kind must be one of {', '.join(kinds)}, got {kind!r}")
        # Seeds of a world's three models lie 10^7 apart: no two worlds share weights or order.
        template = prompt_template(self.tokenizer)
        pairs = self.task.training_pairs("all" if kind == "base" else "kept")
        return trained_lm(
            f"authors-{kind.replace(' ', '-')}-{self.seed}",
            self.tokenizer,
            [template.pair(*pair) for pair in pairs],
            seed=self.seed + 10_000_000 * kinds.index(kind),
            d_model=self.d_model,
            n_layers=self.n_layers,
            epochs=self.epochs,
            lr=self.lr,
            batch_size=self.batch_size,
        )


def trained_lm(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[str, str]],
    *,
    seed: int,
    d_model: int = 128,
    n_layers: int = 2,
    max_length: int = MAX_TOKENS,
    epochs: float = 13,
    lr: float = 3e-3,
    batch_size: int = 16,
    **architecture: Any,
) -> PreTrainedModel:
    """A small causal language model trained on (prompt, answer) pairs, by AdamW with a linear decay, from the cache if
    it was trained before; a fresh copy at every call.

    Args:
        name: for a readable path in the cache; what decides is the digest of everything else.
        tokenizer: the model's, whose vocabulary is the model's.
        pairs: what it learns, as it will see it (the template is already applied); the prompt "" makes a document.
        seed: of the weights and of the order.
        architecture: further arguments of `palimpsest.models.causal_lm`.
    """
    shape = {"d_model": d_model, "n_layers": n_layers, "max_length": max_length, **architecture}
    training = {"epochs": epochs, "lr": lr, "batch_size": batch_size}

    def build(folder: Path) -> None:
        prompts, answers = zip(*pairs, strict=True)
        model = causal_lm(len(tokenizer), seed=seed, **shape)
        fine_tune(
            model,
            encode(tokenizer, prompts, answers, max_length=max_length),
            pad_id=tokenizer.pad_token_id,
            schedule="linear",
            warmup=10,
            clip=1.0,
            seed=seed,
            progress=False,
            **training,
        )
        save(model, tokenizer, folder, force=True)

    data = json.dumps([sorted(tokenizer.get_vocab().items()), list(map(list, pairs))])
    settings = {**shape, **training, "seed": seed, "data": hashlib.sha256(data.encode()).hexdigest(), "recipe": 2}
    return load(cached(name, settings, build))[0]
