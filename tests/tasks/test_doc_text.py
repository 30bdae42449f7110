"""Docstrings as text: modules in one split, no copies held out, blocks that lose nothing, and counting as the floor."""

import math
import re
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch

from palimpsest.models.tokenizers import train_tokenizer
from palimpsest.tasks import doc_text as module
from palimpsest.tasks.doc_text import BYTES, PARTS, Blocks, copied, doc_text, doc_tokenizer, ngram_bits, parts, runs
from palimpsest.tasks.docstrings import Docstring

WORDS = re.findall(
    r"\w+", "the array of a value that is returned when one more axis was given by shape and order or not"
)


@pytest.fixture
def pool(monkeypatch, tmp_path):
    """200 modules of invented docstrings; every tenth begins with the same text, and one module is long."""
    draws = np.random.default_rng(0)
    docs = []
    for n in range(200):
        for k in range(3):
            words = draws.choice(WORDS, 30)
            docs.append(Docstring("p", f"p.m{n}", f"f{k}", " ".join([f"é{n}.{k}", *words])))
        if n % 10 == 0:
            docs.append(Docstring("p", f"p.m{n}", "copy", " ".join(WORDS)))
    docs.append(Docstring("p", "p.long", "f", " ".join(draws.choice(WORDS, 600))))
    monkeypatch.setattr(module, "LONGEST", 2000)
    monkeypatch.setattr(module, "docstrings", lambda: tuple(docs))
    monkeypatch.setattr(module, "digest", lambda: "invented")
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path))
    monkeypatch.setattr(module, "SHARES", {"train": 0.4, "validation": 0.2, **{f"test{n}": 0.02 for n in range(PARTS)}})
    return docs


def test_a_module_is_in_one_part_and_every_part_has_its_share(pool):
    found = parts()
    held = {name: {doc.module for doc in docs} for name, docs in found.items()}
    for a, b in combinations(held.values(), 2):
        assert not a & b
    assert "p.long" in held["train"]
    sizes = {name: sum(len(doc.text) for doc in docs if doc.module != "p.long") for name, docs in found.items()}
    assert len({sizes[f"test{n}"] for n in range(PARTS)}) > 1
    assert max(sizes[f"test{n}"] for n in range(PARTS)) < 2 * min(sizes[f"test{n}"] for n in range(PARTS))


def test_copies_are_trained_on_and_not_held_out(pool):
    found = parts()
    docs = [doc for part in found.values() for doc in part]
    left_out = [doc for doc in pool if doc not in docs]
    assert left_out
    assert {doc.name for doc in left_out} == {"copy"}
    kept = [name for name, docs in found.items() for doc in docs if doc.name == "copy"]
    assert set(kept) == {"train"}
    seen = set()
    for name, docs in found.items():
        assert name == "train" or not any(copied(doc.text, seen) for doc in docs)
        seen.update(*(runs(doc.text) for doc in docs))


def test_runs_are_of_eight_words_whatever_the_case_and_spaces():
    text = " ".join(WORDS)
    assert len(runs(text)) == len(WORDS) - 7
    assert runs(text) == runs(text.upper().replace(" ", "\n  "))
    half = runs(" ".join(WORDS[:14]))  # 7 of 14 - 7 runs
    assert not copied(" ".join(WORDS[:14] + ["new"] * 7), half)
    assert copied(" ".join(WORDS[:14] + ["new"] * 6), half)
    assert not copied("", set())


def test_blocks_are_the_text_of_their_part_and_count_its_bytes(pool):
    found = parts()
    for vocabulary in (BYTES, 300):
        tokenizer = doc_tokenizer(vocabulary)
        task = doc_text(3, vocabulary=vocabulary, length=16)
        for blocks, part in ((task.validation, "validation"), (task.test, "test3")):
            text = "<eos>".join(doc.text for doc in found[part]) + "<eos>"
            said = tokenizer.decode(blocks.ids[:, 1:].flatten())
            cut = said.rstrip("\ufffd")  # the end may be within a character
            assert text.startswith(cut)
            assert (blocks.ids[:, 0] == tokenizer.bos_token_id).all()
            assert int(blocks.size.sum()) == pytest.approx(len(said.replace("<eos>", "").encode()), abs=3)
            assert len(tokenizer(text[len(cut) :]).input_ids) <= 16 + 4
        trained = torch.cat([task.train.ids[:, 1:].flatten(), torch.tensor([0])])
        assert not (trained == tokenizer.unk_token_id).any()


def test_bytes_are_tokens_and_a_bpe_is_learned_from_training_alone(pool):
    found = parts()
    assert len(doc_tokenizer(BYTES)) == BYTES
    assert int(doc_text(0, vocabulary=BYTES, length=9).test.size.max()) == 8
    learned = doc_tokenizer(300)
    again = train_tokenizer([doc.text for doc in found["train"]], 300)
    assert learned.get_vocab() == again.get_vocab()
    assert int(doc_text(0, vocabulary=300, length=9).test.size.max()) > 8


def test_twenty_seeds_have_disjoint_tests_one_validation_and_training_drawn_by_the_seed(pool):
    tasks = [doc_text(seed, vocabulary=BYTES, length=64, train=20) for seed in range(100, 100 + PARTS)]
    texts = [set(map(tuple, task.test.ids.tolist())) for task in tasks]
    assert sum(map(len, texts)) == len(set.union(*texts))
    assert all(torch.equal(task.validation.ids, tasks[0].validation.ids) for task in tasks)
    assert not torch.equal(tasks[0].train.ids, tasks[1].train.ids)
    larger = doc_text(100, vocabulary=BYTES, length=64, train=50).train
    assert torch.equal(larger.ids[:20], tasks[0].train.ids)
    assert torch.equal(doc_text(100 + PARTS, vocabulary=BYTES, length=64).test.ids, tasks[0].test.ids)


def test_it_is_built_once(pool, monkeypatch):
    first = doc_text(0, vocabulary=BYTES)
    monkeypatch.setattr(module, "parts", lambda: pytest.fail("built again"))
    assert torch.equal(doc_text(0, vocabulary=BYTES).train.ids, first.train.ids)


def test_a_batch_is_what_a_language_model_takes():
    blocks = Blocks(torch.arange(12).view(4, 3), torch.tensor([2, 2, 2, 2]))
    batch = blocks.batch([2, 0])
    assert batch["input_ids"].tolist() == batch["labels"].tolist() == [[6, 7, 8], [0, 1, 2]]
    assert batch["index"].tolist() == [2, 0]
    assert blocks.batch(slice(1, 3))["index"].tolist() == [1, 2]


@pytest.mark.parametrize("n", [1, 2])
def test_counting_is_a_distribution_over_the_vocabulary_and_gives_its_bits(n):
    draws = torch.Generator().manual_seed(0)
    train = Blocks(torch.randint(4, 9, (6, 10), generator=draws), torch.full((6,), 9))
    rows = train.ids.tolist()
    total = 0.0
    for token in range(12):  # 9 and more were never seen, and neither is anything after 11
        held = Blocks(torch.tensor([[5, token]]), torch.tensor([1]))
        bits = ngram_bits(train, held, n, 12)
        after = [b for row in rows for a, b in pairwise(row)]
        p = (after.count(token) + 1) / (len(after) + 12)
        if n == 2:
            follow = [b for row in rows for a, b in pairwise(row) if a == 5]
            p = (follow.count(token) + len(set(follow)) * p) / (len(follow) + len(set(follow)))
        assert bits == pytest.approx(-math.log2(p))
        total += 2**-bits
    assert total == pytest.approx(1)
    unseen = Blocks(torch.tensor([[11, 5]]), torch.tensor([1]))
    assert ngram_bits(train, unseen, 2, 12) == pytest.approx(ngram_bits(train, unseen, 1, 12))


def test_what_cannot_be_had_is_refused(pool):
    with pytest.raises(ValueError, match="vocabulary must be at least 260"):
        doc_text(0, vocabulary=259)
    with pytest.raises(ValueError, match="length must be at least 2, got 1"):
        doc_text(0, length=1)
    with pytest.raises(ValueError, match="train must be from 1 to"):
        doc_text(0, vocabulary=BYTES, train=10**6)
    with pytest.raises(ValueError, match="n must be 1 or 2, got 3"):
        ngram_bits(doc_text(0, vocabulary=BYTES).test, doc_text(0, vocabulary=BYTES).test, 3, BYTES)
