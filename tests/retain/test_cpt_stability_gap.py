"""Plans of continual pretraining: budgets to the token, the same subset in all epochs, shares of general text; gaps."""

import math
from types import MappingProxyType

import pytest
import torch

from palimpsest.errors import UserError
from palimpsest.models.language import causal_lm
from palimpsest.retain.cpt_stability_gap import ContinualPretraining, mixture, subset_epochs, top_quality
from palimpsest.retain.pretraining import Bigrams, budget_table, continual_pretrain, gap_curve

CORPUS = torch.arange(4, 84).view(20, 4)
GENERAL = {"books": torch.arange(100, 148).view(12, 4), "news": torch.arange(200, 216).view(4, 4)}


class Data:
    corpus, trusted, general = CORPUS, CORPUS[:8], {"old": GENERAL["books"]}
    budget, vocabulary = 64, 150
    scores = MappingProxyType({"general": lambda model: 0.0})


def rows(blocks):
    return [tuple(row) for row in blocks.tolist()]


@pytest.mark.parametrize("size", [4, 20, 80])
@pytest.mark.parametrize("budget", [4, 48, 80, 132])
def test_a_subset_is_the_same_in_all_epochs_and_every_plan_has_its_budget_to_the_token(size, budget):
    plan = subset_epochs(CORPUS, size, budget, seed=1)
    assert plan.tokens == budget
    n = size // 4
    epochs = [rows(plan.blocks[i : i + n]) for i in range(0, len(plan.blocks), n)]
    assert all(len(set(epoch)) == len(epoch) and set(epoch) <= set(rows(CORPUS)) for epoch in epochs)
    assert all(set(epoch) <= set(epochs[0]) for epoch in epochs)
    assert plan.unique_tokens == min(size, budget)
    if size == 80 and budget == 132:
        assert epochs[0][:13] != epochs[1]


def test_a_rate_of_general_text_is_kept_in_each_batch_and_its_sources_in_their_proportions():
    domain = subset_epochs(CORPUS, 40, 640, seed=2)
    assert torch.equal(mixture(domain, GENERAL, 0.0, 8).blocks, domain.blocks)
    assert not mixture(domain, GENERAL, 0.0, 8).general.any()
    plan = mixture(domain, GENERAL, 0.25, 8)
    assert plan.tokens == domain.tokens
    assert plan.general.view(-1, 8).sum(1).tolist() == [2] * 20
    drawn = rows(plan.blocks[plan.general])
    counts = {name: sum(row in rows(blocks) for row in drawn) for name, blocks in GENERAL.items()}
    assert counts == {"books": 30, "news": 10}  # 12 to 4
    assert {drawn.count(row) for row in rows(GENERAL["books"])} == {2, 3}
    assert torch.equal(plan.blocks[~plan.general], domain.blocks[~plan.general])
    uneven = mixture(domain, GENERAL, 0.3, 8).general.view(-1, 8).sum(1)
    assert uneven.sum() == 48
    assert set(uneven.tolist()) == {2, 3}
    assert bool(mixture(domain, GENERAL, 1.0, 8).general.all())
    with pytest.raises(ValueError, match="rate"):
        mixture(domain, GENERAL, 1.5, 8)
    with pytest.raises(ValueError, match="length"):
        mixture(domain, {"short": torch.ones(3, 2, dtype=torch.long)}, 0.5, 8)


def test_quality_leaves_out_what_occurred_before_and_keeps_the_least_surprising_first():
    corpus = torch.cat([CORPUS[5:7], CORPUS])
    kept = top_quality(corpus, 0.5, lambda blocks: -blocks[:, 0].double())
    assert rows(kept) == rows(CORPUS.flip(0)[:11])
    assert len(top_quality(corpus, 1.0, lambda blocks: blocks[:, 0].double())) == 20


def test_bigrams_are_a_distribution_and_find_shuffled_text_surprising():
    text = torch.tensor([[1, 2, 3, 4, 5, 6]] * 5)
    model = Bigrams(text, 8)
    everything = torch.cartesian_prod(torch.arange(8), torch.arange(8))
    sums = model.probabilities(everything).view(8, 8).sum(1)
    torch.testing.assert_close(sums, torch.ones(8, dtype=torch.float64))
    assert model(text)[0] < model(text.flip(1))[0]
    # by hand: 0.8 of the pair's frequency 1 and 0.2 of the token's (5 + 1) / (25 + 8)
    assert model(torch.tensor([[1, 2]])).item() == pytest.approx(1 / (0.8 + 0.2 * 6 / 33))


def test_gaps_are_those_of_a_curve_drawn_by_hand():
    gap = gap_curve([0, 10, 20, 30, 40], [1.0, 0.5, 0.75, 1.25, 0.5])
    assert (gap.depth, gap.recovery, gap.area) == (0.5, 30, 0.25)
    never = gap_curve([0, 10, 20], [1.0, 1.5, 2.0])
    assert (never.depth, never.recovery, never.area) == (0.0, 0.0, 0.0)
    assert math.isinf(gap_curve([0, 10], [1.0, 0.5]).recovery)
    with pytest.raises(ValueError, match="rise"):
        gap_curve([0, 0], [1.0, 1.0])


def test_pretraining_reads_its_plan_in_order_and_looks_where_it_should(monkeypatch):
    read = []

    def loss(model, batch):
        read.append(batch["input_ids"])
        return model(input_ids=batch["input_ids"]).logits.square().mean()

    monkeypatch.setattr("palimpsest.retain.pretraining.cross_entropy", loss)
    plan = subset_epochs(CORPUS % 30, 40, 64, seed=0)
    model = causal_lm(30, d_model=16, n_layers=1, n_heads=2)
    log = continual_pretrain(model, plan, scores={"one": lambda model: 1.0}, every=3, batch_size=2, lr=1e-3)
    assert torch.equal(torch.cat(read), plan.blocks)
    assert log.steps == [0, 3, 6, 8]
    assert log.scores == {"one": [1.0] * 4}
    assert log.distance[0] == 0.0 < log.distance[-1]
    assert log.gap("one").depth == 0.0
    with pytest.raises(ValueError, match="whole number of batches"):
        continual_pretrain(model, plan, batch_size=5)


def test_all_strategies_spend_one_budget_and_each_can_be_left_out():
    whole = ContinualPretraining(subset=1, quality=1, rate=0)
    plans = {"once": whole, "all": ContinualPretraining(subset=0.5, quality=0.5, rate=0.25)}
    table = budget_table({name: method.plan(Data, 4, 0) for name, method in plans.items()})
    assert {line["tokens"] for line in table.values()} == {64}
    assert table["once"] == {"tokens": 64, "unique tokens": 64, "general tokens": 0}
    assert table["all"]["general tokens"] == 16
    domain = ContinualPretraining(subset=0.5, quality=0.5, rate=0).plan(Data, 4, 0)
    assert domain.unique_tokens == 5 * 4
    with pytest.raises(UserError, match="rate"):
        ContinualPretraining(rate=1.0)
    model = ContinualPretraining(subset=0.5).edit(
        causal_lm(150, d_model=16, n_layers=1, n_heads=2), Data, batch_size=4, seed=0, lr=1e-3
    )
    assert model.log.steps == [0, 4]
