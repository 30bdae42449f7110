"""DIET against the plain cross-entropy with label smoothing, its limits and its memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from palimpsest.contrast.diet import DIET, IndexTargets, diet_loss
from palimpsest.contrast.diet_measures import IndexedViews, loss_tracks_probe
from palimpsest.metrics.probes import linear_probe
from palimpsest.tasks.tabular import masked_batches, tabular
from palimpsest.train import fit


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(batch=6, n=20, d=4, seed=0, dtype=torch.float64):
    g = gen(seed)
    return (
        torch.randn(batch, d, generator=g, dtype=dtype),
        torch.randint(n, (batch,), generator=g),
        torch.randn(n, d, generator=g, dtype=dtype),
    )


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10**6),
    st.integers(1, 8),
    st.integers(2, 30),
    st.integers(1, 40),
    st.floats(0, 0.99),
    st.floats(-2, 2),
)
def test_it_is_the_plain_cross_entropy_with_its_gradients(seed, batch, n, block, smoothing, log_scale):
    h, index, weight = drawn(batch, n, seed=seed)
    h = (10**log_scale * h).requires_grad_()
    weight.requires_grad_()
    ours = diet_loss(h, index, weight, smoothing, block=block)
    plain = F.cross_entropy(h @ weight.T, index, label_smoothing=smoothing)
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)
    for mine, theirs in zip(
        torch.autograd.grad(ours, (h, weight)), torch.autograd.grad(plain, (h, weight)), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_it_is_a_sum_over_all_rows_written_out():
    h, index, weight = drawn(batch=3, n=5)
    total = 0.0
    for row, target in zip(h, index.tolist(), strict=True):
        p = torch.exp(weight @ row) / torch.exp(weight @ row).sum()
        for j in range(5):
            total -= (0.3 * (j == target) + 0.7 / 5) * torch.log(p[j])
    torch.testing.assert_close(diet_loss(h, index, weight, 0.7), total / 3)


def test_a_head_of_zeros_is_a_guess_among_n():
    h, index, weight = drawn(n=20)
    for smoothing in (0.0, 0.5, 0.8):
        assert diet_loss(h, index, 0 * weight, smoothing).exp().item() == pytest.approx(20)


def test_with_smoothing_the_best_margin_is_finite():
    """Two rows that are told apart by a margin m: the loss is smallest where sigmoid(m) = 1 - s / 2."""
    margins = torch.linspace(0, 12, 241, dtype=torch.float64)
    heads = torch.tensor([[0.5], [-0.5]], dtype=torch.float64)
    values = torch.stack([diet_loss(m.reshape(1, 1), torch.tensor([0]), heads, 0.8) for m in margins])
    best = margins[values.argmin()]
    assert best.sigmoid().item() == pytest.approx(1 - 0.8 / 2, abs=0.02)
    hard = torch.stack([diet_loss(m.reshape(1, 1), torch.tensor([0]), heads, 0.0) for m in margins])
    assert hard.argmin() == len(margins) - 1


def test_gradcheck():
    h, index, weight = drawn(batch=3, n=7)
    assert torch.autograd.gradcheck(
        lambda a, b: diet_loss(a, index, b, 0.8, block=3), (h.requires_grad_(), weight.requires_grad_())
    )


def test_the_order_of_the_rows_and_of_the_batch_does_not_matter():
    h, index, weight = drawn()
    loss = diet_loss(h, index, weight)
    order = torch.randperm(len(weight), generator=gen(1))
    torch.testing.assert_close(diet_loss(h, order.argsort()[index], weight[order]), loss)
    torch.testing.assert_close(diet_loss(h.flip(0), index.flip(0), weight), loss)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    h, index, weight = (value.to(dtype) if value.is_floating_point() else value for value in drawn())
    h.requires_grad_()
    loss = diet_loss(h, index, weight)
    loss.backward()
    assert loss.item() == pytest.approx(diet_loss(h.double(), index, weight.double()).item(), rel=0.02)
    assert h.grad.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_smoothed_part_of_half_precision_is_summed_in_float32(dtype):
    h, index, weight = (value.to(dtype) if value.is_floating_point() else value for value in drawn(d=64))
    smoothed = (diet_loss(h, index, weight) - diet_loss(h, index, weight, 0.0)) / 0.8
    h, weight = h.double(), weight.double()
    expected = (h * (weight[index] - weight.mean(0))).sum(1).mean()
    torch.testing.assert_close(smoothed.double(), expected, rtol=1e-5, atol=1e-5)


def test_autocast_does_not_round_the_sums():
    h, index, weight = drawn(dtype=torch.float32)
    expected = diet_loss(h, index, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert diet_loss(h, index, weight) == expected


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_what_fit_trains_on_is_the_loss_with_its_smoothing(smoothing):
    x, index = torch.randn(5, 1, 4), torch.tensor([3, 1, 4, 0, 2])
    model = DIET(nn.Linear(4, 8), 6, 8)
    ours = IndexTargets(smoothing, block=2).loss(None, model, {"views": x, "index": index})
    assert list(ours) == ["diet"]
    torch.testing.assert_close(ours["diet"], diet_loss(model(x[:, 0]), index, model.head.weight, smoothing))
    assert IndexTargets().smoothing == 0.8


def test_nothing_of_the_size_of_the_logits_is_kept_for_the_backward_pass():
    h, index, weight = drawn(batch=64, n=5000, d=4, dtype=torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda saved: kept.append(saved.numel()) or saved, lambda saved: saved
    ):
        diet_loss(h.requires_grad_(), index, weight.requires_grad_())
    assert 0 < max(kept) <= weight.numel()


def test_training_learns_what_tells_classes_apart():
    task = tabular("wine", 0)
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 3))
    model = DIET(encoder, len(task.train), 3)

    def probe():
        h = [model.features(part.x).detach() for part in (task.train, task.test)]
        return linear_probe(h[0], task.train.y, h[1], task.test.y)

    batches = masked_batches(task.train, 32, n=1, rate=0.3)
    history = fit(
        model, IndexTargets(0.5), batches, steps=300, lr=5e-3, weight_decay=0.05, schedule="cosine", progress=False
    )
    losses = [record["diet"] for record in history.steps]
    assert sum(losses[-20:]) < sum(losses[:20])
    assert probe() > 0.9


def test_a_plain_training_loop_over_a_loader():
    torch.manual_seed(0)
    x = torch.randn(40, 6)
    rows = IndexedViews(TensorDataset(x, torch.zeros(40)), lambda row: row + 0.1 * torch.randn(6))
    model = DIET(nn.Linear(6, 8), len(rows), 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.05)
    losses = []
    for _ in range(15):
        for view, index in DataLoader(rows, batch_size=20, shuffle=True):
            loss = diet_loss(model(view), index, model.head.weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert sum(losses[-4:]) < 0.98 * sum(losses[:4])


def test_several_views_of_a_row_have_the_same_target():
    x, index = torch.randn(5, 3, 4), torch.arange(5)
    model = DIET(nn.Linear(4, 8), 5, 8)
    both = IndexTargets().loss(None, model, {"views": x, "index": index})["diet"]
    alone = [IndexTargets().loss(None, model, {"views": x[:, v : v + 1], "index": index})["diet"] for v in range(3)]
    torch.testing.assert_close(both, torch.stack(alone).mean())


def test_the_encoders_features_are_used_where_it_has_them():
    class Encoder(nn.Module):
        def features(self, x):
            return 2 * x

        def forward(self, x):
            raise AssertionError

    x = torch.randn(3, 4)
    assert torch.equal(DIET(Encoder(), 3, 4)(x), 2 * x)


def test_indexed_views():
    rows = IndexedViews([(1.0, "label"), (2.0, "label")], lambda x: -x)
    assert [rows[0], rows[-1]] == [(-1.0, 0), (-2.0, 1)]
    with pytest.raises(IndexError, match=r"row must be in \[-2, 2\), got 2"):
        rows[2]


def test_the_correlation_of_loss_and_probe():
    assert loss_tracks_probe([(1, 0.1), (2, 0.2), (3, 0.9)]) == pytest.approx(1)
    assert loss_tracks_probe([(1, 0.5), (2, 0.5), (3, 0.5)]) == 0
    assert loss_tracks_probe([(4, 0.1), (3, 0.3), (2, 0.2), (1, 0.4)]) == pytest.approx(-0.8)
    with pytest.raises(ValueError, match="at least three moments, got 2"):
        loss_tracks_probe([(1, 1), (2, 2)])
    with pytest.raises(ValueError, match="finite, got nan"):
        loss_tracks_probe([(1, 1), (2, 2), (float("nan"), 3)])
    with pytest.raises(ValueError, match=r"a pair of training loss and probe accuracy, got \(2, 2, 2\)"):
        loss_tracks_probe([(1, 1), (2, 2, 2), (3, 3)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"smoothing": 1.0}, r"smoothing must be in \[0, 1\), got 1.0"),
        ({"smoothing": -0.1}, "got -0.1"),
        ({"index": torch.tensor([0, 20])}, r"index must be in \[0, 20\), the rows of the head, got 20"),
        ({"index": torch.tensor([-1, 0])}, "got -1"),
        ({"index": torch.tensor([0])}, r"index must be \[2\], one a row of h, got \[1\]"),
        ({"weight": torch.randn(20, 5).double()}, "the same width"),
        ({"h": torch.randn(0, 4).double(), "index": torch.zeros(0, dtype=torch.long)}, "the batch is empty"),
        ({"block": 0}, "block must be at least 1, got 0"),
    ],
)
def test_errors(change, message):
    h, index, weight = drawn(batch=2)
    with pytest.raises(ValueError, match=message):
        diet_loss(**{"h": h, "index": index, "weight": weight, **change})


@pytest.mark.parametrize(
    ("index", "found"),
    [
        (torch.tensor([True, False]), "torch.bool"),
        (torch.tensor([1, 0], dtype=torch.uint8), "torch.uint8"),
        (torch.tensor([0.0, 1.0]), "torch.float32"),
        ([0, 1], "<class 'list'>"),
    ],
)
def test_an_index_that_torch_would_take_for_a_mask_or_not_at_all_is_refused(index, found):
    h, _, weight = drawn(batch=2)
    with pytest.raises(TypeError, match=f"index must be a tensor of int64 or int32, got {found}"):
        diet_loss(h, index, weight)


def test_an_index_may_be_int32():
    h, index, weight = drawn()
    assert diet_loss(h, index.int(), weight) == diet_loss(h, index, weight)


def test_errors_of_the_model_and_its_batches():
    with pytest.raises(TypeError, match="encoder must be a module, whose weights can be trained, got function"):
        DIET(lambda x: x, 5, 4)
    with pytest.raises(ValueError, match="smoothing must be at least 0 and below 1"):
        IndexTargets(2.0)
    with pytest.raises(ValueError, match="block must be at least 1, or None, got 0"):
        IndexTargets(block=0)
    with pytest.raises(ValueError, match="n must be at least 2, got 1"):
        DIET(nn.Identity(), 1, 4)
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        DIET(nn.Identity(), 5, 0)
    with pytest.raises(ValueError, match=r"got \[5, 4\] and \[5\]"):
        IndexTargets().loss(None, DIET(nn.Identity(), 5, 4), {"views": torch.ones(5, 4), "index": torch.arange(5)})
