"""The bench of concepts: what is dealt to whom, what the retrained model never read, and the model before as it is."""

import math

import pytest
import torch

from palimpsest.benches.concepts import HALF, validate
from palimpsest.benches.concepts_world import JAILBREAK, LEFT, ConceptWorld, SparseAnswers, concepts, measures
from palimpsest.claims.forget.concept_vectors import claim
from palimpsest.models import causal_lm
from palimpsest.models.blocks import blocks, mlp_output
from palimpsest.models.hooks import capture
from palimpsest.models.score import Encoded, cross_entropy


@pytest.fixture(autouse=True)
def _home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path_factory.getbasetemp() / "concepts-home"))


@pytest.fixture(scope="module")
def world():
    return ConceptWorld(3, smoke=True)


def test_genres_share_no_word_of_their_books_and_prizes_and_no_author():
    found = concepts(5, genres=8, authors=4, books=3, documents=2)
    words = [set(concept.words) - set(concept.name.split()) for concept in found]
    authors = [{question for question, _ in concept.pairs} for concept in found]
    assert not any(one & other for sets in (words, authors) for one in sets for other in sets if one is not other)


def test_questions_are_dealt_once_and_the_retrained_model_reads_nothing_of_the_genre(world):
    parts = [world.kept(part) for part in ("given", "validation", "test")]
    dealt = [pair for part in parts for pair in part]
    assert len(dealt) == len(set(dealt)) == 3 * 12
    mine = {question for question, _ in world.target.pairs}
    assert not mine & {question for question, _ in dealt}
    read = " ".join(text for pair in world.training(world.target.name) for text in pair)
    assert not any(question in read for question in mine)
    assert all(question in " ".join(p for p, _ in world.training()) for question in world.target.asked[0])


def test_the_model_before_is_its_own_reference(world):
    found = measures(world, world.model("base"))
    assert found["jaccard"] == 1.0
    assert found["cosine"] == pytest.approx(1.0)
    assert validate(world, world.model("base"), {}) == -found[LEFT] < -HALF
    assert 0 <= found[JAILBREAK] <= 1


def test_the_penalty_is_the_mean_ratio_of_norms():
    model = causal_lm(20, d_model=16, n_layers=2, n_heads=2, architecture="gpt2").eval()
    batch = Encoded([[1, 5, 6, 2]], [2]).batch([0], pad_id=0)
    terms = SparseAnswers(0.5).loss(None, model, batch)
    with capture({str(i): mlp_output(block) for i, block in enumerate(blocks(model))}, side="input") as neurons:
        answers = cross_entropy(model, batch)
    tokens = [h.reshape(-1, h.shape[-1]) for h in neurons.values()]
    naive = sum(
        torch.stack([t.abs().sum() / t.square().sum().sqrt() for t in h]).mean() / math.sqrt(64) for h in tokens
    )
    torch.testing.assert_close(terms["sparsity"], 0.5 * naive, rtol=1e-4, atol=0)
    torch.testing.assert_close(terms["answers"], answers)


def test_needle_moves_nothing_but_the_vector(world):
    _, applied, _ = claim.arms["needle"].trained(3, smoke=True)
    before = dict(world.model("base").named_parameters())
    moved = [name for name, p in applied.model.named_parameters() if not torch.equal(p, before[name])]
    assert moved == [f"transformer.h.{world.loc.layer}.mlp.c_proj.weight"]
    changed = (applied.model.get_parameter(moved[0]) != before[moved[0]]).any(1).nonzero().flatten().tolist()
    assert changed == [world.loc.dim]
