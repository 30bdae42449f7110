"""Scores against a quadratic model's exact answer, masks against a sort, and the objective against its inner one."""

import numpy as np
import pytest
import torch
from torch import nn

from palimpsest.forget.baselines import IDK, GradAscent
from palimpsest.forget.masks import gradients, input_norms, sparing, squared_gradients
from palimpsest.forget.npo import NPO
from palimpsest.forget.procedure import prepare, unlearn
from palimpsest.forget.wagle import Wagle, baseline_mask, fisher_median, wagle_mask, wagle_scores
from palimpsest.models import causal_lm, word_tokenizer
from palimpsest.models.score import Encoded

TOKENIZER = word_tokenizer(
    ["who", "wrote", "read", "sang", "it", "?", "ann", "bob", "cid", "dora", "i", "do", "not", "know", "."]
)
FORGET = [("who wrote it ?", "ann"), ("who sang it ?", "dora")]
RETAIN = [("who read it ?", "bob"), ("who read ?", "cid"), ("who sang ?", "bob")]
DATA = prepare(TOKENIZER, FORGET, RETAIN, refusals=["i do not know ."])


def small(**shape):
    return causal_lm(len(TOKENIZER), d_model=16, n_layers=1, n_heads=2, max_length=32, **shape)


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors.values()])


def test_scores_are_the_formula():
    model = small().double()
    g_f = gradients(model, DATA.forget, pad_id=0)
    g_r = gradients(model, DATA.retain, pad_id=0)
    found = wagle_scores(model, DATA.forget, DATA.retain, 0.03, pad_id=0, batch_size=1)
    for name, p in model.named_parameters():
        torch.testing.assert_close(found[name], ((p - g_r[name] / 0.03) * g_f[name]).abs().detach())


def test_large_and_small_mu_are_the_two_limits():
    model = small().double()
    g_f = flat(gradients(model, DATA.forget, pad_id=0))
    g_r = flat(gradients(model, DATA.retain, pad_id=0))
    theta = torch.cat([p.detach().flatten() for p in model.parameters()])
    large = flat(wagle_scores(model, DATA.forget, DATA.retain, 1e12, pad_id=0))
    torch.testing.assert_close(large, (theta * g_f).abs(), atol=1e-9, rtol=0)
    small_mu = flat(wagle_scores(model, DATA.forget, DATA.retain, 1e-12, pad_id=0))
    torch.testing.assert_close(small_mu * 1e-12, (g_r * g_f).abs(), atol=1e-9, rtol=0)


def test_score_is_the_first_order_effect_of_pruning_with_retraining():
    """The retained problem is a quadratic of Hessian mu I and the forget loss is linear: then the change of the forget
    loss when weight i is zeroed and the others re-optimise, against re-optimising freely from where we are, is known.

    Free: theta - g_r/mu. With theta_i = 0 the others do the same: only coordinate i differs, by theta_i - g_r,i/mu.
    """
    generator = torch.Generator().manual_seed(0)
    theta, g_r, g_f = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    mu = 0.7
    free = theta - g_r / mu
    effects = []
    for i in range(6):
        pruned = free.clone()
        pruned[i] = 0  # the minimiser of g_r.d + mu/2 |d|^2 over d with theta_i + d_i = 0
        effects.append((g_f @ pruned - g_f @ free).abs())

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(theta.clone())

    import palimpsest.forget.wagle as room

    answers = iter(({"w": g_f.clone()}, {"w": g_r.clone()}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "gradients", lambda *args, **kwargs: next(answers))
        found = wagle_scores(Linear(), None, None, mu, pad_id=0)
    torch.testing.assert_close(found["w"], torch.stack(effects))


def test_mask_keeps_the_top_share_of_all_weights_together():
    scores = wagle_scores(small(), DATA.forget, DATA.retain, pad_id=0)
    masks = wagle_mask(scores, 0.8)
    kept, values = flat(masks), flat(scores)
    assert kept.sum() == round(0.8 * len(values))
    assert values[kept].min() >= values[~kept].max()
    shares = {name: mask.float().mean().item() for name, mask in masks.items()}
    assert max(shares.values()) - min(shares.values()) > 0.2  # global, not tensor by tensor


def test_mu_is_the_median_of_the_weights_that_count():
    model = small(architecture="gpt2")
    squares = flat(squared_gradients(model, DATA.retain, pad_id=0))
    positive = squares[squares > 0]
    assert len(positive) < len(squares)  # positions no row has
    found = fisher_median(model, DATA.retain, pad_id=0)
    assert ((positive > found).sum() - (positive < found).sum()).abs() <= 1
    own, given = (wagle_scores(model, DATA.forget, DATA.retain, mu, pad_id=0) for mu in (None, found))
    assert torch.equal(flat(own), flat(given))


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", ["gradient", "magnitude", "wanda", "random"])
def test_baselines_keep_the_same_share(kind, architecture):
    model = small(architecture=architecture)
    masks = baseline_mask(kind, model, DATA.forget, 0.5, pad_id=0, seed=1)
    assert {name: m.shape for name, m in masks.items()} == {name: p.shape for name, p in model.named_parameters()}
    assert abs(flat(masks).float().mean().item() - 0.5) < 0.02
    again = baseline_mask(kind, model, DATA.forget, 0.5, pad_id=0, seed=2)
    assert torch.equal(flat(masks), flat(again)) == (kind != "random")


def test_gradient_and_magnitude_are_what_they_say():
    model = small()
    for kind, values in {
        "gradient": gradients(model, DATA.forget, pad_id=0),
        "magnitude": {name: p.detach() for name, p in model.named_parameters()},
    }.items():
        kept = flat(baseline_mask(kind, model, DATA.forget, 0.3, pad_id=0))
        assert flat(values).abs()[kept].min() >= flat(values).abs()[~kept].max()


@pytest.mark.parametrize(
    ("architecture", "name", "transposed"),
    [("llama", "model.layers.0.mlp.down_proj.weight", False), ("gpt2", "transformer.h.0.mlp.c_proj.weight", True)],
)
def test_wanda_ranks_within_each_output_by_weight_times_input(architecture, name, transposed):
    model = small(architecture=architecture)
    with torch.no_grad():
        p = model.get_parameter(name)
        p.fill_(1.0)  # then the inputs alone decide, and every output keeps the same ones
    norms = input_norms(model, DATA.forget, pad_id=0)[name]
    mask = baseline_mask("wanda", model, DATA.forget, 0.25, pad_id=0)[name]
    mask = mask.T if transposed else mask
    best = torch.zeros_like(norms, dtype=torch.bool).index_fill(0, norms.topk(len(norms) // 4).indices, True)
    assert torch.equal(mask, best.expand_as(mask))


@pytest.mark.parametrize(
    ("objective", "inner"),
    [("grad_diff", GradAscent(retain="ce")), ("npo", NPO()), ("idk", IDK())],
)
def test_with_all_weights_it_is_the_inner_objective(objective, inner):
    assert Wagle(objective).inner == inner
    assert Wagle(objective).needs == inner.needs
    models = []
    for method in (Wagle(objective, keep=1.0), inner):
        models.append(small())
        unlearn(models[-1], method, DATA, steps=3, lr=0.01, batch_size=2, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in models), strict=True))


@pytest.mark.parametrize("kind", ["wagle", "gradient", "magnitude", "wanda", "random"])
def test_weights_that_are_not_picked_stay_to_the_bit(kind):
    model = small()
    method = Wagle("npo", keep=0.5, mask=kind)
    masks = method.masks(model, DATA)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    decayed = sparing("adamw", weight_decay=0.3)
    unlearn(model, method, DATA, steps=3, lr=0.01, batch_size=2, clip=1.0, optimizer=decayed, progress=False)
    moved = {name: p != before[name] for name, p in model.named_parameters()}
    assert not (flat(moved) & ~flat(masks)).any()
    assert flat(moved).sum() > 0.5 * flat(masks).sum()


def test_masks_follow_the_objective():
    """Refusals are taught by descent on other answers, so other gradients count."""
    model = small()
    by = {name: flat(Wagle(name, keep=0.5).masks(model, DATA)) for name in ("npo", "grad_diff", "idk")}
    assert torch.equal(by["npo"], by["grad_diff"])
    assert not torch.equal(by["npo"], by["idk"])
    refused = flat(wagle_mask(wagle_scores(model, DATA.refusal, DATA.retain, pad_id=0), 0.5))
    assert torch.equal(by["idk"], refused)


def test_refuses_bad_arguments():
    with pytest.raises(ValueError, match="mu must be above 0"):
        wagle_scores(small(), DATA.forget, DATA.retain, 0.0, pad_id=0)
    with pytest.raises(ValueError, match="kind must be"):
        baseline_mask("best", small(), DATA.forget, pad_id=0)


def test_the_scores_are_those_of_the_authors_code():
    """OPTML-Group/WAGLE at 31275e8, with mu = 0.05 before the sum of four batches' gradients."""
    tokens = """5 12 18 11 17 10 10  19 8 8 19 5 7 9  4 17 15 9 3 7 18  3 8 10 4 7 11 16
                18 16 3 13 14 16 18  10 14 13 3 12 5 10  13 17 11 7 4 12 6  15 10 7 6 5 7 10
                4 11 9 8 11 6 17  18 3 7 8 8 8 12  19 9 10 12 8 10 6  15 18 16 15 12 19 3
                4 18 10 15 15 7 8  9 8 6 16 13 9 14  12 18 6 15 15 18 7  6 19 16 4 16 19 19"""
    rows = [[1, *row] for row in np.array(tokens.split(), dtype=int).reshape(16, 7).tolist()]
    forget, retain = (Encoded(part, [3] * 8) for part in (rows[:8], rows[8:]))
    model = causal_lm(20, d_model=16, n_layers=2, n_heads=2, seed=1).double()
    scores = 4 * flat(wagle_scores(model, forget, retain, 0.05 / 4, pad_id=0))  # theirs sums the forget batches as well
    assert scores.sum().item() == pytest.approx(150.7024172, rel=1e-6)
    assert scores.max().item() == pytest.approx(4.4081723, rel=1e-6)
