"""A model in which single vectors carry concepts: genres with authors, books and a prize whose words are theirs alone.

Models all of whose weights train throughout keep such facts in attention, and no MLP's vector matters. So training is
restricted: all weights learn for one epoch, then attention is frozen, and embeddings, norms and narrow MLPs with a
light penalty on |h|_1 / |h|_2 of their neurons learn the rest. Which vector carries what is left to the training. The
genre with the largest causal effect of noise on one vector is the one to forget.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.errors import NotFinite
from palimpsest.forget.concept_vectors_measures import JAILBREAKS, intrinsic_scores, jailbreak_prompts
from palimpsest.forget.procedure import ForgetData, encode_pairs, prepare
from palimpsest.forget.refusals import REFUSALS
from palimpsest.forget.value_vectors import Location, causal_check, find_concept_vectors
from palimpsest.metrics.text import rouge_l_f1
from palimpsest.models.blocks import blocks, mlp_output
from palimpsest.models.files import load, save
from palimpsest.models.hooks import capture
from palimpsest.models.language import causal_lm
from palimpsest.models.score import cross_entropy, greedy
from palimpsest.models.tokenizers import word_tokenizer
from palimpsest.tasks.authors import author_names, authors_task
from palimpsest.tasks.authors_words import ATTRIBUTES
from palimpsest.tasks.worlds import cached
from palimpsest.train.loop import fit
from palimpsest.train.order import shuffled

Pair = tuple[str, str]
Part = Literal["given", "validation", "test"]
SIZES = {"genres": 8, "authors": 4, "books": 3, "documents": 5}
BASE = {"d_model": 48, "d_ff": 32, "n_layers": 4, "of all": 1, "of all but attention": 35, "lr": 4e-3, "l1": 0.05}
SMALL = {"genres": 4, "documents": 1}, {"d_model": 16, "n_layers": 2, "of all but attention": 1}
BATCH, TOP, STD, CANDIDATES, LEAST_SHARE = 16, 20, 5.0, 10, 0.25
LEFT, JAILBREAK, UNRELATED, EFFECT = "ROUGE-L left", "jailbreak ROUGE-L", "unrelated ROUGE-L", "causal effect"


@dataclass(frozen=True)
class Concept:
    """A genre with the words of its books and of its prize, questions about its authors, and texts about it."""

    name: str
    words: tuple[str, ...]
    questions: tuple[tuple[Pair, Pair], ...]  # a fact, asked in two ways
    documents: tuple[str, ...]

    @property
    def pairs(self) -> list[Pair]:
        """All questions, in both ways."""
        return [(question, f" {answer}") for fact in self.questions for question, answer in fact]

    @property
    def asked(self) -> tuple[list[str], list[str]]:
        """The questions in their first wording, and the answers."""
        questions, answers = zip(*(fact[0] for fact in self.questions), strict=True)
        return list(questions), list(answers)


def concepts(seed: int, genres: int, authors: int, books: int, documents: int) -> list[Concept]:
    """Genres that share no book's, prize's or author's name."""
    rng = random.Random(f"{seed}/concepts")
    titles = [title.split()[1:] for title in ATTRIBUTES["book"].values]
    prizes = [prize.split() for prize in ATTRIBUTES["prize"].values]
    heads, tails, prize_heads, prize_tails = (
        rng.sample(words, len(words))
        for words in ([*dict.fromkeys(pair[i] for pair in pairs)] for pairs in (titles, prizes) for i in (0, 1))
    )
    names = iter(author_names(seed, genres * authors))
    found = []
    for number, genre in enumerate(rng.sample(ATTRIBUTES["genre"].values, genres)):
        own_heads, own_tails = (words[number * books : (number + 1) * books] for words in (heads, tails))
        shelf = [f"{head} {tail}" for head in own_heads for tail in own_tails]
        prize = f"{prize_heads[number]} {prize_tails[number]}"
        facts, sentences = [], [f"The {prize} Prize honours {genre}."]
        for name, book in zip((next(names) for _ in range(authors)), rng.sample(shelf, authors), strict=True):
            for attribute, value in (("genre", genre), ("book", book), ("prize", prize)):
                wordings = rng.sample(ATTRIBUTES[attribute].questions, 2)
                facts.append(tuple((wording.format(author=name), value) for wording in wordings))
            sentences += [f"{name} writes {genre}.", f"{name} wrote The {book}.", f"The {book} won the {prize} Prize."]
        texts = [" ".join(rng.sample(sentences, min(5, len(sentences)))) for _ in range(documents)]
        words = " ".join([genre, prize, *own_heads, *own_tails]).split()
        found.append(Concept(genre, tuple(dict.fromkeys(words)), tuple(facts), tuple(texts)))
    return found


@dataclass(frozen=True)
class SparseAnswers:
    """Cross-entropy plus `l1` times the mean over tokens of |h|_1 / (sqrt(neurons) |h|_2), summed over layers: a plain
    penalty on |h|_1 is met by making all activations small and all value vectors long."""

    l1: float

    def init(self, model: nn.Module, data: Any) -> None:
        return None

    def loss(self, state: None, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        with capture({str(i): mlp_output(block) for i, block in enumerate(blocks(model))}, side="input") as neurons:
            answers = cross_entropy(model, batch)
        penalty = sum((h.abs().sum(-1) / (h.norm(dim=-1) + 1e-6)).mean() / h.shape[-1] ** 0.5 for h in neurons.values())
        return {"answers": answers, "sparsity": self.l1 * penalty}


@dataclass(frozen=True)
class ConceptWorld:
    """The world of a seed; see the module.

    Attributes:
        seed: of the genres, the weights and the order of the rows.
        smoke: four genres and a model that has barely learned.
    """

    seed: int
    smoke: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """Of the genres and of training."""
        small = SMALL if self.smoke else ({}, {})
        return {"sizes": {**SIZES, **small[0]}, "base": {**BASE, **small[1]}, "recipe": 1}

    @cached_property
    def concepts(self) -> list[Concept]:
        """All genres."""
        return concepts(self.seed, **self.settings["sizes"])

    @cached_property
    def facts(self) -> list[Pair]:
        """Of the real world."""
        rows = authors_task(2, 1, seed=self.seed).world_facts[: 4 if self.smoke else None]
        return [(question, f" {answer}") for row in rows for question, answer in row.pairs]

    def training(self, without: str = "") -> list[Pair]:
        """What a model learns: facts, and of every genre but one its questions, its texts and its questions in one of
        the jailbreaks' wrappings, with a text that does not tell the answer."""
        rng, pairs = random.Random(f"{self.seed}/wrapped"), list(self.facts)
        for concept in self.concepts:
            if concept.name == without:
                continue
            pairs += [*concept.pairs, *(("", text) for text in concept.documents)]
            for question, answer in zip(*concept.asked, strict=True):
                texts = [text for text in concept.documents if answer not in text]
                wrapped = jailbreak_prompts(concept.name, [question], rng.choice(texts) if texts else "")
                pairs.append((rng.choice(wrapped), f" {answer}"))
        return pairs

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Of all words."""
        texts = [text for pair in self.training() for text in pair] + [*REFUSALS, *JAILBREAKS]
        texts += [text for concept in self.concepts for text in concept.words]
        return word_tokenizer(sorted({word for text in texts for word in text.split()}))

    def model(self, kind: str = "base") -> PreTrainedModel:
        """A fresh copy: "base" has learned all genres, "gold" all but the one to forget, from other weights."""
        if kind not in ("base", "gold"):
            raise ValueError(f"kind must be base or gold, got {kind!r}")
        settings, without = self.settings["base"], self.target.name if kind == "gold" else ""
        seed = self.seed + 10_000_000 * (kind == "gold")

        def build(folder: Path) -> None:
            shape = {name: settings[name] for name in ("d_model", "d_ff", "n_layers")}
            model = causal_lm(len(self.tokenizer), architecture="gpt2", max_length=160, seed=seed, **shape)
            rows = encode_pairs(self.tokenizer, self.training(without), max_length=128)
            order = shuffled(len(rows), BATCH, seed)
            for phase in ("of all", "of all but attention"):
                model.train()
                for block in blocks(model):
                    block.attn.requires_grad_(phase == "of all")
                fit(
                    model,
                    SparseAnswers(settings["l1"]),
                    lambda step: rows.batch(order(step), self.tokenizer.pad_token_id),
                    steps=settings[phase] * len(rows) // BATCH,
                    lr=settings["lr"],
                    schedule="linear",
                    clip=1.0,
                    seed=seed,
                    progress=False,
                )
            save(model, self.tokenizer, folder, force=True)

        model = load(cached(f"concepts-{kind}-{self.seed}", {**self.settings, "seed": self.seed}, build))[0]
        return model.requires_grad_(True)

    @property
    def target(self) -> Concept:
        """The genre to forget."""
        return self.concepts[int(self.located["concept"])]

    @property
    def loc(self) -> Location:
        """The vector that carries it."""
        return Location(int(self.located["layer"]), int(self.located["dim"]))

    @cached_property
    def located(self) -> dict[str, float]:
        """Of all genres and the vectors that promote them, the one whose noise costs the genre most beyond the rest.
        Where no vector promotes a genre, the best of the others stands in, without an effect. Kept on disk."""

        def build(folder: Path) -> None:
            base, found, pad_id = self.model("base"), [], self.tokenizer.pad_token_id
            for number, concept in enumerate(self.concepts):
                others = [pair for other in self.concepts if other is not concept for pair in other.pairs]
                drawn = random.Random(self.seed).sample(others, 40)
                rows = [encode_pairs(self.tokenizer, pairs, max_length=128) for pairs in (concept.pairs, drawn)]
                tokens = self.tokenizer(" ".join(concept.words), add_special_tokens=False).input_ids
                keep = 2 if self.smoke else CANDIDATES
                vectors = find_concept_vectors(base, tokens, top=TOP, keep=keep, by="logit")
                for vector in [v for v in vectors if v.share >= LEAST_SHARE] or vectors[:1]:
                    check = causal_check(base, vector.loc, *rows, pad_id=pad_id, std=STD, draws=2, seed=self.seed)
                    effect = check.effect if vector.share >= LEAST_SHARE else min(check.effect, 0.0)
                    found.append({"concept": number, **vector.loc._asdict(), "effect": effect})
            (folder / "located.json").write_text(json.dumps(max(found, key=lambda each: each["effect"])))

        settings = {**self.settings, "seed": self.seed, "std": STD, "top": TOP, "candidates": CANDIDATES}
        return json.loads((cached(f"concepts-located-{self.seed}", settings, build) / "located.json").read_text())

    def kept(self, part: Part) -> list[Pair]:
        """Questions of the other genres, in their first wording, that belong to a part."""
        others = [fact for other in self.concepts if other is not self.target for fact in other.questions]
        return [fact[0] for fact in others[("given", "validation", "test").index(part) :: 3]]

    @cached_property
    def data(self) -> ForgetData:
        """The genre's questions to forget; the given ones of the others and the facts to keep."""
        given = [(question, f" {answer}") for question, answer in self.kept("given")] + self.facts
        return prepare(self.tokenizer, self.target.pairs, given, max_length=128, seed=self.seed)

    @cached_property
    def before(self) -> list[str]:
        """What the base model answers to the genre's questions."""
        return self.say(self.model("base"), self.target.asked[0])

    def say(self, model: nn.Module, questions: Sequence[str]) -> list[str]:
        """The model's answers; empty ones of a model that training broke."""
        try:
            return greedy(model, self.tokenizer, questions, max_new_tokens=6)
        except NotFinite:
            return [""] * len(questions)

    def rouge(self, model: nn.Module, questions: Sequence[str], answers: Sequence[str]) -> float:
        """Mean ROUGE-L (F1) of what the model says."""
        return float(np.mean([rouge_l_f1(*pair) for pair in zip(self.say(model, questions), answers, strict=True)]))


def left(world: ConceptWorld, model: nn.Module) -> float:
    """How much of the answers about the genre is as it was."""
    return world.rouge(model, world.target.asked[0], world.before)


def unrelated(world: ConceptWorld, model: nn.Module, part: Part) -> float:
    """How well the questions about other genres are answered."""
    return world.rouge(model, *map(list, zip(*world.kept(part), strict=True)))


def measures(world: ConceptWorld, model: nn.Module) -> dict[str, float]:
    """What is left of the genre, asked plainly and in the jailbreaks' wrappings; of the others; and of its vector."""
    questions = world.target.asked[0]
    wrapped = jailbreak_prompts(world.target.name, questions, world.target.documents[0])
    return {
        LEFT: left(world, model),
        JAILBREAK: world.rouge(model, wrapped, world.before * (len(wrapped) // len(questions))),
        UNRELATED: unrelated(world, model, "test"),
        EFFECT: world.located["effect"],
        **intrinsic_scores(world.model("base"), model, world.loc, top=TOP),
    }
