"""Retraining: fresh weights, the retain rows and nothing else."""

import copy

import pytest
import torch

from palimpsest.errors import UserError
from palimpsest.forget.procedure import ForgetData
from palimpsest.forget.retrain import retrain
from palimpsest.models.language import causal_lm
from palimpsest.models.score import Encoded, cross_entropy


def test_it_learns_the_retain_rows_from_scratch_and_never_sees_the_others():
    forget = Encoded([[1, 20, 21, 22], [1, 23, 24, 25]], [2, 2])
    retain = Encoded([[1, 5, 6, 7], [1, 8, 9, 10]], [2, 2])
    model = causal_lm(30, d_model=16, n_layers=1, n_heads=2, max_length=8)
    before = copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()
    options = {"epochs": 60, "batch_size": 2, "lr": 1e-2, "progress": False}
    gold, history = retrain(model, ForgetData(forget=forget, retain=retain), seed=4, **options)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert len(history.steps) == 60
    with torch.no_grad():
        assert cross_entropy(gold, retain.batch([0, 1], 0)) < 0.2
        assert cross_entropy(gold, forget.batch([0, 1], 0)) > 2
    # other forget rows, same gold model: they play no part
    other = ForgetData(forget=Encoded([[1, 2, 3]], [1]), retain=retain)
    again, _ = retrain(model, other, seed=4, **options)
    assert all(torch.equal(a, b) for a, b in zip(gold.parameters(), again.parameters(), strict=True))


def test_without_retain_rows():
    with pytest.raises(UserError, match="needs retain rows"):
        retrain(causal_lm(30, d_model=16, n_layers=1, n_heads=2), ForgetData(Encoded([[1, 2]], [1])), epochs=1)
