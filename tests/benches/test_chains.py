"""The bench on Markov chains: what should be said is the truth of the kept ones; measures against loops; its arms."""

import math

import pytest
import torch
from torch import nn

from palimpsest.benches.chains import CHAINS
from palimpsest.benches.chains_world import Chains, advantage, divergence, expected, forgotten, measures, validate
from palimpsest.tasks.markov import BLOCKS, BOS, STATES, VOCABULARY, chains, transitions
from palimpsest.train import loop  # noqa: F401  what takes seconds to load is no test's own


class Known(nn.Module):
    """Says at every place what it was given, and less likely than all states the symbols besides."""

    def __init__(self, matrix, first):
        super().__init__()
        self.register_buffer("p", torch.cat([matrix, first.expand(VOCABULARY - STATES, STATES)]))

    def forward(self, input_ids):
        logits = torch.full((*input_ids.shape, VOCABULARY), -50.0)
        logits[..., :STATES] = self.p[input_ids].log()
        return type("Output", (), {"logits": logits})


def knowing(block):
    matrix = transitions(block)
    return Known(matrix, matrix[BLOCKS[block][0]])


def test_a_model_that_knows_the_kept_chains_alone_is_where_it_should_be():
    world, model = Chains(0, smoke=True), knowing("retain")
    found = measures(world, model)
    assert {name: round(value, 6) for name, value in found.items()} == dict.fromkeys(found, 0.0)
    assert validate(world, model, {}) == pytest.approx(0.0, abs=1e-6)


def test_measures_against_loops():
    model, kept = knowing("forget1"), transitions("retain")
    rows = chains("forget1", 5, 7, seed=3)
    kl, likelier = [], []
    for row in rows.tolist():
        for before, state in zip([None, *row], row, strict=False):
            p = kept[BLOCKS["retain"][0] if before is None else before].tolist()
            q = model.p[BOS if before is None else before].tolist()
            kl.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
            likelier.append(math.log(q[state] / p[state]))
    assert divergence(model, rows) == pytest.approx(sum(kl) / len(kl), abs=1e-5)
    assert advantage(model, rows) == pytest.approx(sum(likelier) / len(likelier), abs=1e-5)
    assert torch.allclose(expected(rows).sum(-1), torch.ones(5, 7))
    world = Chains(0, smoke=True)
    assert forgotten(world, model) > 0.3
    assert validate(world, model, {}) < -10  # it has not forgotten


def test_a_broken_model_is_the_worst_one():
    world, broken = Chains(0, smoke=True), knowing("retain")
    broken.p[4] = math.nan
    assert measures(world, broken)["kept divergence"] == 10.0
    assert validate(world, broken, {}) == -10.0


@pytest.mark.parametrize("arm", list(CHAINS.recipes))
def test_every_arm_runs_on_few_chains_and_gives_every_measure(arm):
    found = CHAINS.arm(arm)(200, "smoke")
    assert set(CHAINS.read) <= set(found)


def test_models_are_of_their_kind_and_seed_and_methods_get_a_tenth_of_the_kept_chains():
    world = Chains(200, smoke=True)
    base, gold = world.model("base"), world.model("gold")
    assert all(torch.equal(a, b) for a, b in zip(base.parameters(), world.model().parameters(), strict=True))
    assert forgotten(world, base) > forgotten(world, gold)
    assert (len(world.data.forget), len(world.data.retain)) == (80, 100)
    with pytest.raises(ValueError, match="kind must be one of base, gold, untrained, got 'other'"):
        world.model("other")
