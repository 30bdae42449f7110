"""Gradients against autograd on the joint batch, thresholds against a sort, frozen weights against their own bits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from palimpsest.forget.baselines import GradAscent
from palimpsest.forget.masks import (
    apply_masks,
    gradients,
    input_norms,
    kth_largest,
    spare_idle,
    sparing,
    squared_gradients,
    top_fraction,
    top_fraction_by_row,
)
from palimpsest.forget.procedure import ForgetData, unlearn
from palimpsest.models import causal_lm
from palimpsest.models.score import Encoded, answer_nll, cross_entropy

ROWS = Encoded([[1, 5, 6, 2], [1, 7, 8, 9, 2], [1, 4, 2], [1, 9, 9, 6, 5, 2], [1, 3, 8, 2]], [2, 2, 1, 3, 2])
DATA = ForgetData(forget=ROWS, retain=ROWS.subset([2, 1, 0]))
DOWN = "model.layers.0.mlp.down_proj.weight"
EMBED = "model.embed_tokens.weight"  # also the last layer


def small(seed=0, **shape):
    return causal_lm(12, d_model=16, n_layers=1, n_heads=2, max_length=16, seed=seed, **shape)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_gradients_are_those_of_the_joint_batch(batch_size):
    model = small().double()
    loss = cross_entropy(model.eval(), ROWS.batch(range(5), 0))
    named = dict(model.named_parameters())
    expected = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
    found = gradients(model, ROWS, pad_id=0, batch_size=batch_size)
    assert found.keys() == expected.keys()
    for name, g in expected.items():
        torch.testing.assert_close(found[name], g)
    total = gradients(model, ROWS, pad_id=0, batch_size=batch_size, reduce="sum")
    torch.testing.assert_close(total[DOWN], 5 * expected[DOWN])


def test_squared_gradients_are_the_mean_of_each_rows_own():
    model = small().double()
    found = squared_gradients(model, ROWS, pad_id=0)
    by_hand = 0
    for row in range(5):
        nll = answer_nll(model, ROWS.batch([row], 0)).sum()
        by_hand = by_hand + torch.autograd.grad(nll, model.get_parameter(DOWN))[0] ** 2 / 5
    torch.testing.assert_close(found[DOWN], by_hand)
    mean = gradients(model, ROWS, pad_id=0)[DOWN]
    assert (found[DOWN] >= mean**2 - 1e-12).all()  # Jensen, per weight
    assert (found[DOWN] > mean**2 * 1.01).any()


def test_gradients_leave_the_model_as_it_was():
    model = small().train()
    model.model.norm = nn.Sequential(model.model.norm, nn.Dropout(0.5))
    model.model.norm[0].eval()
    frozen = model.get_parameter(DOWN).requires_grad_(False)
    first = next(model.parameters())
    first.grad = torch.ones_like(first)
    before = [p.detach().clone() for p in model.parameters()]
    found = gradients(model, ROWS, pad_id=0)
    again = gradients(model, ROWS, pad_id=0)
    assert DOWN not in found
    assert frozen.grad is None
    assert all(torch.equal(found[name], again[name]) for name in found)  # no dropout
    assert model.training
    assert model.model.layers[0].training
    assert not model.model.norm[0].training
    assert (first.grad == 1).all()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    with torch.no_grad():
        assert gradients(model, ROWS, pad_id=0)["model.norm.0.weight"].abs().sum() > 0


def test_gradients_refuse_what_has_none():
    with pytest.raises(ValueError, match="no trainable parameter"):
        gradients(small().requires_grad_(False), ROWS, pad_id=0)
    with pytest.raises(ValueError, match="row 0 and those of its batch is nan"):
        gradients(small(), ROWS, pad_id=0, loss=lambda model, batch: model.get_parameter(DOWN).sum() * torch.nan)
    with pytest.raises(ValueError, match="reduce"):
        gradients(small(), ROWS, pad_id=0, reduce="max")


def test_input_norms_count_real_tokens_only():
    model = small().eval()
    found = input_norms(model, ROWS, pad_id=0, batch_size=2)
    embedded = torch.cat([model.model.embed_tokens(torch.tensor(ids)) for ids in ROWS.input_ids])
    normed = model.model.layers[0].input_layernorm(embedded)
    torch.testing.assert_close(found["model.layers.0.self_attn.q_proj.weight"], normed.norm(dim=0).detach())
    assert found[DOWN].shape == (model.get_parameter(DOWN).shape[1],)
    assert not any(m._forward_pre_hooks for m in model.modules())


SCORES = st.lists(st.integers(0, 6), min_size=1, max_size=30)


@settings(deadline=None, max_examples=60)
@given(SCORES, SCORES, st.floats(0.01, 1.0), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_top_fraction_keeps_exactly_the_highest(a, b, keep, dtype):
    scores = {"a": torch.tensor(a).to(dtype) / 7, "b": torch.tensor(b).to(dtype)[None] / 7}
    masks = top_fraction(scores, keep)
    values = torch.cat([s.flatten() for s in scores.values()])
    kept = torch.cat([masks[name].flatten() for name in scores])
    k = max(1, round(keep * len(values)))
    assert kept.sum() == k
    assert masks["b"].shape == scores["b"].shape
    assert torch.equal(values[kept].sort().values, values.sort().values[-k:])
    assert kth_largest(scores.values(), k) == values.sort(descending=True).values[k - 1].item()


def test_kth_largest_of_very_different_sizes():
    values = torch.tensor([0.0, 1e-45, 1e-30, 1.0, 3e38])
    assert [kth_largest([values], k) for k in range(1, 6)] == values.flip(0).tolist()
    drawn = torch.rand(5, 1000, generator=torch.Generator().manual_seed(0))
    assert kth_largest(drawn, 1234) == drawn.flatten().sort(descending=True).values[1233].item()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_bad_scores_are_refused(bad):
    with pytest.raises(ValueError, match="finite and at least 0"):
        top_fraction({"a": torch.tensor([1.0, bad])}, 0.5)


def test_bad_shares_are_refused():
    for keep in (0.0, 1.1, -1):
        with pytest.raises(ValueError, match=r"share in \(0, 1\]"):
            top_fraction({"a": torch.ones(2)}, keep)
        with pytest.raises(ValueError, match=r"share in \(0, 1\]"):
            top_fraction_by_row(torch.ones(2, 2), keep)
    with pytest.raises(ValueError, match="between 1 and 2"):
        kth_largest([torch.ones(2)], 3)


def test_by_row_takes_as_many_from_every_row():
    scores = torch.rand(7, 10, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 8)[:, None]
    mask = top_fraction_by_row(scores, 0.3)
    assert (mask.sum(1) == 3).all()
    assert (scores.masked_fill(~mask, torch.inf).min(1).values >= scores.masked_fill(mask, 0).max(1).values).all()


def masks_of_all_kinds(model):
    """A whole tensor, a column, single weights; all else is frozen."""
    column = torch.arange(model.get_parameter(DOWN).shape[1]) == 3
    single = torch.rand(model.model.embed_tokens.weight.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    return {"model.norm.weight": torch.tensor(True), DOWN: column, EMBED: single}


class Masked(GradAscent):
    """Gradient ascent under given masks."""

    def gradients(self, state, model):
        apply_masks(model, masks_of_all_kinds(model))


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd"},
        {"optimizer": "sgd", "momentum": 0.9},
        {"optimizer": "adam"},
        {"optimizer": "adamw"},
        {"optimizer": sparing("sgd", weight_decay=0.5, momentum=0.9)},
        {"optimizer": sparing("adam", weight_decay=0.5)},
        {"optimizer": sparing("adamw", weight_decay=0.5)},
        {"optimizer": sparing(lambda p, lr: torch.optim.RMSprop(p, lr, weight_decay=0.5, momentum=0.9))},
    ],
    ids=lambda o: o["optimizer"] if isinstance(o["optimizer"], str) else "decayed",
)
def test_frozen_weights_stay_to_the_bit(options, clip):
    model = small()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    unlearn(model, Masked(retain="ce"), DATA, steps=4, lr=0.05, batch_size=4, clip=clip, progress=False, **options)
    masks = masks_of_all_kinds(model)
    for name, p in model.named_parameters():
        mask = masks.get(name, torch.tensor(False)).expand_as(p)
        assert torch.equal(p[~mask], before[name][~mask]), name
    for name, mask in masks.items():
        p, mask = model.get_parameter(name), mask.expand_as(before[name])
        assert (p != before[name])[mask].float().mean() > 0.9, name


def test_decay_without_sparing_does_touch_them():
    model = small()
    norm = model.model.layers[0].input_layernorm.weight.detach().clone()
    unlearn(model, Masked(), DATA, steps=1, lr=0.05, batch_size=4, weight_decay=0.5, progress=False)
    assert not torch.equal(model.model.layers[0].input_layernorm.weight, norm)


def test_sparing_decays_what_moves_like_the_plain_optimizer():
    start = torch.tensor([1.0, -2.0, 3.0])
    found = []
    for wrap in (spare_idle, lambda o: o):
        weight = nn.Parameter(start.clone())
        optimizer = wrap(torch.optim.AdamW([weight], lr=0.1, weight_decay=0.5))
        for step in range(3):
            weight.grad = torch.tensor([0.0, 1.0, 0.0 if step else 1.0])  # the third moves once and is decayed since
            optimizer.step()
        found.append(weight.detach())
    assert found[0][0] == 1.0
    assert found[1][0] < 1.0
    assert torch.equal(found[0][1:], found[1][1:])


def test_sparing_comes_back_with_a_checkpoint(tmp_path):
    """A run broken after two steps ends in the same bits as one that was not."""
    options = {"lr": 0.05, "batch_size": 4, "progress": False, "optimizer": sparing("adamw", weight_decay=0.5)}
    whole, broken = small(), small()
    unlearn(whole, Masked(), DATA, steps=4, **options)

    class Killed(Exception):
        pass

    def kill(model, step):
        if step == 3 and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            raise Killed
        return {"step seen": step}

    options |= {"checkpoint": tmp_path / "run", "checkpoint_every": 2, "evaluate": kill, "evaluate_every": 1}
    with pytest.raises(Killed):
        unlearn(broken, Masked(), DATA, steps=4, **options)
    broken = small()
    history = unlearn(broken, Masked(), DATA, steps=4, **options)
    assert history.resumed_from == 2
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), broken.parameters(), strict=True))


def test_apply_masks_on_gradients_and_models():
    model = small()
    cross_entropy(model, ROWS.batch(range(5), 0)).backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.model.norm.weight.grad = None
    apply_masks(model, masks_of_all_kinds(model))
    masks = masks_of_all_kinds(model)
    assert model.model.norm.weight.grad is None
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, before[name] * masks.get(name, torch.tensor(False)))
    grads = {"w": torch.tensor([float("nan"), 1.0])}
    apply_masks(grads, {"w": torch.tensor([False, True])})
    assert grads["w"].tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"v": torch.tensor(True)}, "names 'v'"),
        ({"w": torch.ones(3)}, "must be bool"),
        ({"w": torch.ones(2, 2, 3, dtype=torch.bool)}, "broadcast to"),
    ],
)
def test_apply_masks_refuses(masks, message):
    with pytest.raises(ValueError, match=message):
        apply_masks({"w": torch.ones(2, 3)}, masks)
