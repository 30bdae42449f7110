"""What every loss of embeddings owes its user, whatever its paper: one table, one line a loss."""

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from palimpsest.contrast import SentenceLoss, info_nce, nt_xent, sigmoid_nce, streaming
from palimpsest.contrast.amcl import amcl_loss, amcl_queue_loss
from palimpsest.contrast.cacr_views import multi_view_cacr, queue_cacr
from palimpsest.contrast.dbpm_measures import nt_xent_per_sample
from palimpsest.contrast.debiased_cl import debiased_loss, hard_debiased_loss
from palimpsest.contrast.debiased_cl_measures import oracle_loss
from palimpsest.contrast.decoupled_cl import dcl_loss, dcl_queue_loss, dclw_loss
from palimpsest.contrast.diet import diet_loss
from palimpsest.contrast.groco import groco_loss
from palimpsest.contrast.inf_cl import ring_nce, tiled_nce
from palimpsest.contrast.llave import hardness_nce
from palimpsest.contrast.llave_measures import gradient_share
from palimpsest.contrast.macl import macl_loss
from palimpsest.contrast.many_views import views_nt_xent
from palimpsest.contrast.moco import queue_nce
from palimpsest.contrast.moco_dualview import dual_view_loss
from palimpsest.contrast.nonneg_cl import ncl_loss, spectral_loss
from palimpsest.contrast.siglip import SigmoidLoss, sigmoid_loss
from palimpsest.contrast.siglip_chunked import chunked_sigmoid_loss
from palimpsest.contrast.siglip_measures import SoftmaxLoss, softmax_loss
from palimpsest.contrast.w_mse import w_mse
from palimpsest.losses import barlow_twins_loss, contrastive_loss

# Every loss that takes two embeddings a row and nothing else.
OF_PAIRS = {
    "info_nce": lambda q, k: info_nce(q, k, 0.1, symmetric=True, normalize=True),
    "sigmoid_nce": lambda q, k: sigmoid_nce(q, k, 2.3, -3.0, normalize=True),
    "nt_xent": nt_xent,
    "siglip": SigmoidLoss(normalize=True),
    "siglip, softmax": SoftmaxLoss(normalize=True),
    "inf_cl": lambda q, k: tiled_nce(q, k, temperature=0.1, tile=4, normalize=True),
    "llave": lambda q, k: hardness_nce(q, k, temperature=0.1, normalize=True),
    "decoupled_cl": dcl_loss,
    "decoupled_cl, weighted": dclw_loss,
    "debiased_cl": debiased_loss,
    "debiased_cl, hard": hard_debiased_loss,
    "macl": macl_loss,
    "nonneg_cl": ncl_loss,
    "nonneg_cl, spectral": spectral_loss,
    "w_mse": w_mse,
    "cacr": lambda q, k: multi_view_cacr(torch.stack([q, k], 1)),
    "groco": lambda q, k: groco_loss(torch.stack([q, k]), k_neg=3),
    "groco, NT-Xent": lambda q, k: views_nt_xent(torch.stack([q, k])),
    "amcl": lambda q, k: amcl_loss(q[:, None], k[:, None], 0.2, rows=20),
    "dbpm": lambda q, k: nt_xent_per_sample(q, k).mean(),
    "barlow twins": barlow_twins_loss,
}
each = pytest.mark.parametrize("name", OF_PAIRS)

CLASSES = torch.arange(12) % 4

# Losses that take more: labels, a queue, a head.
OF_MORE = {
    "info_nce, labels": lambda q, k: info_nce(q, k, 0.1, labels=CLASSES, symmetric=True, normalize=True),
    "debiased_cl, oracle": lambda q, k: oracle_loss(q, k, CLASSES),
    "decoupled_cl, queue": lambda q, k: dcl_queue_loss(q[:4], k[:4], k[4:]),
    "moco_dualview": lambda q, k: dual_view_loss(q[:4], k[:4], k[4:], normalize=True),
    "amcl, queue": lambda q, k: amcl_queue_loss(q[:4, None], k[:4, None], k[4:, None], 0.2),
    "cacr, queue": lambda q, k: queue_cacr(q.view(6, 2, 6), k.view(6, 2, 6), k),
    "diet": lambda q, k: diet_loss(q, torch.arange(12), k),
    "contrastive": lambda q, k: contrastive_loss(torch.cat([q, k]), CLASSES.repeat(2)),
}

# Where the gradient is not that of the value, by the paper's design.
NOT_THE_SLOPE = {
    "decoupled_cl, weighted": "weights of positives are constants",
    "macl": "so are its weights and its temperature",
    "llave": "so is the reward",
    "cacr": "so are its weights",
    "groco": "what an anchor is compared with is, too",
    "nonneg_cl": "the derivative of gelu stands in for that of relu",
    "nonneg_cl, spectral": "likewise",
}
LENGTHS_COUNT = ("nonneg_cl, spectral",)
WITHOUT_NEGATIVES = ("sigmoid_nce", "siglip", "inf_cl")  # one pair is a question with an answer there; its loss is 0
STACKED = ("cacr", "groco", "groco, NT-Xent")  # take both in one tensor, which cannot differ in shape


def pair_of_views(dtype=torch.float32, noise=None) -> list[torch.Tensor]:
    first, second = (torch.randn(12, 6, generator=torch.Generator().manual_seed(i), dtype=dtype) for i in range(2))
    return [first.requires_grad_(), (second if noise is None else first.detach() + noise * second).requires_grad_()]


def at(name, *z):
    torch.manual_seed(0)  # w_mse shuffles
    return OF_PAIRS[name](*z)


@each
def test_it_is_one_finite_number_with_a_gradient_for_both_and_leaves_them_alone(name) -> None:
    z = pair_of_views()
    before = [side.detach().clone() for side in z]
    loss = at(name, *z)
    assert loss.shape == ()
    assert loss.isfinite()
    for side, grad, old in zip(z, torch.autograd.grad(loss, z), before, strict=True):
        assert grad.isfinite().all()
        assert grad.any(1).all()
        assert torch.equal(side, old)


@each
def test_the_gradient_is_the_slope_along_a_random_direction(name) -> None:
    z = pair_of_views(torch.float64, noise=0.5)
    generator = torch.Generator().manual_seed(2)
    steps = [1e-5 * torch.randn(side.shape, generator=generator, dtype=side.dtype) for side in z]
    along = sum((grad * step).sum() for grad, step in zip(torch.autograd.grad(at(name, *z), z), steps, strict=True))
    with torch.no_grad():
        up, down = (at(name, *(side + sign * step for side, step in zip(z, steps, strict=True))) for sign in (1, -1))
    slope = (up - down) / 2
    if name in NOT_THE_SLOPE:
        assert not torch.isclose(slope, along, rtol=1e-3, atol=0)
    else:
        torch.testing.assert_close(slope, along, rtol=1e-5, atol=1e-11)


@each
def test_neither_order_nor_sides_matter_nor_lengths_where_they_do_not_count(name) -> None:
    q, k = pair_of_views(torch.float64)
    expected = at(name, q, k)
    if name != "w_mse":  # which cuts the batch at random
        order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
        torch.testing.assert_close(at(name, q[order], k[order]), expected)
    torch.testing.assert_close(at(name, k, q), expected)
    if name in LENGTHS_COUNT:
        assert not torch.isclose(at(name, 3 * q, k), expected)
    else:
        torch.testing.assert_close(at(name, 3 * q, 0.5 * k), expected, rtol=1e-4, atol=1e-6)


@each
def test_autocast_changes_nothing_and_half_precision_is_summed_in_float32(name) -> None:
    z = pair_of_views()
    plain = at(name, *z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = at(name, *z)
    torch.testing.assert_close(mixed, plain)
    torch.testing.assert_close(torch.autograd.grad(mixed, z), torch.autograd.grad(plain, z))
    for dtype in (torch.bfloat16, torch.float16):
        narrow = [side.detach().to(dtype) for side in z]
        loss = at(name, *(side.requires_grad_() for side in narrow))
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, at(name, *(side.float() for side in narrow)))
        assert all(grad.dtype == dtype for grad in torch.autograd.grad(loss, narrow))


@each
@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (lambda q, k: (q, k[:5]), ValueError),
        (lambda q, k: (q, k[:, :2]), ValueError),
        (lambda q, k: (q[0], k[0]), ValueError),
        (lambda q, k: (q.long(), k.long()), TypeError),
        (lambda q, k: (q[:1], k[:1]), ValueError),
    ],
    ids=["rows", "width", "vectors", "integers", "one pair"],
)
def test_what_does_not_fit_is_refused(name, bad, error, request) -> None:
    z = bad(*(side.detach() for side in pair_of_views()))
    case = request.node.callspec.id
    if name in STACKED and case.startswith(("rows", "width")):
        pytest.skip("two of different shapes cannot be stacked")
    if name in WITHOUT_NEGATIVES and case.startswith("one pair"):
        assert at(name, *z).isfinite()
    else:
        with pytest.raises(error):
            at(name, *z)


class Lookup(nn.Embedding):
    def forward(self, features):
        return {"sentence_embedding": super().forward(features["ids"])}


COLUMNS = [{"ids": torch.arange(12)}, {"ids": torch.arange(12, 24)}]


@each
def test_training_inside_the_protocol_of_sentence_transformers_brings_pairs_together(name) -> None:
    torch.manual_seed(0)
    model = Lookup(24, 4)
    loss = SentenceLoss(model, OF_PAIRS[name])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    values, near = [], []
    for _ in range(60):
        optimizer.zero_grad()
        value = loss(COLUMNS, torch.empty(0))
        value.backward()
        optimizer.step()
        values.append(value.item())
        near.append(F.cosine_similarity(*model.weight.detach().view(2, 12, 4), dim=1).mean())
    assert sum(values[-5:]) < sum(values[:5])
    assert near[-1] > near[0] + 0.2


@each
def test_chunks_have_the_gradient_of_the_whole(name) -> None:
    torch.manual_seed(0)
    model, found = Lookup(24, 4), []
    for chunk in (None, 5):
        model.zero_grad()
        torch.manual_seed(0)
        SentenceLoss(model, OF_PAIRS[name], chunk=chunk)(COLUMNS, torch.empty(0)).backward()
        found.append(model.weight.grad.clone())
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("streamed", [False, True])
@each
def test_losses_compile_into_one_graph(name, streamed, monkeypatch) -> None:
    if streamed:  # in strips of five rows, as if the batch were large
        monkeypatch.setattr(sys.modules["palimpsest.contrast.info_nce"], "SMALL", {False: 0, True: 0})
        for limit in ("LEAST", "MOST"):
            monkeypatch.setattr(streaming, limit, 5)
    torch._dynamo.reset()
    found, z = [], pair_of_views()
    for loss in (OF_PAIRS[name], torch.compile(OF_PAIRS[name], backend="eager", fullgraph=True)):
        torch.manual_seed(0)
        value = loss(*z)
        found.append((value.detach(), *torch.autograd.grad(value, z)))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", OF_MORE)
def test_losses_of_more_than_pairs_compile_into_one_graph(name) -> None:
    torch._dynamo.reset()
    found, z = [], pair_of_views()
    for loss in (OF_MORE[name], torch.compile(OF_MORE[name], backend="eager", fullgraph=True)):
        value = loss(*z)
        found.append((value.detach(), *torch.autograd.grad(value, z, allow_unused=True, materialize_grads=True)))
    torch.testing.assert_close(*found)


class Waits(TorchDispatchMode):
    """Counts how often a number is read from a tensor, for which a device is waited for."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


# What is read besides one sum over loss and inputs: whether the loss is too small for cross-entropy, whether
# exponentials need a maximum taken off (once a log-sum-exp), norms, a temperature that is a tensor or depends on the
# batch, columns that are left out, a whitening that failed.
READ = {
    **dict.fromkeys(("sigmoid_nce", "siglip", "nonneg_cl, spectral", "barlow twins", "groco"), 1),
    **dict.fromkeys(("decoupled_cl", "decoupled_cl, weighted", "debiased_cl, hard", "cacr"), 3),
    "siglip, softmax": 3,
    "macl": 4,
    "amcl": 4,
}


@each
def test_good_values_are_looked_at_once_and_bad_ones_are_named(name) -> None:
    with Waits() as waits:
        OF_PAIRS[name](*pair_of_views())
    assert waits.count <= READ.get(name, 2)
    for side, named in enumerate(("query", "key")):
        z = [view.detach().clone() for view in pair_of_views()]
        z[side][1, 2] = torch.nan
        with pytest.raises(ValueError, match=rf"({named}|views|view {side + 1}) must be finite, got nan at"):
            OF_PAIRS[name](*z)


Q, K, QUEUE = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(0))

# Losses that want rows of norm 1, or take lengths as they are; and what they are of two lists of rows.
OF_UNIT = {
    "info_nce": info_nce,
    "nt_xent": nt_xent,
    "dcl_loss": dcl_loss,
    "dcl_queue_loss": lambda q, k, **options: dcl_queue_loss(q, k, _like(q, QUEUE), **options),
    "ncl_loss": ncl_loss,
    "sigmoid_nce": lambda q, k, **options: sigmoid_nce(q, k, 2.0, -1.0, **options),
    "tiled_nce": lambda q, k, **options: tiled_nce(q, k, 5.0, **options),
    "ring_nce": lambda q, k, **options: ring_nce(q.split(4), k.split(4), 5.0, **options),
    "hardness_nce": hardness_nce,
    "gradient_share": lambda q, k, **options: torch.tensor(gradient_share(q, k, **options)),
    "sigmoid_loss": sigmoid_loss,
    "chunked_sigmoid_loss": lambda q, k, **options: chunked_sigmoid_loss(q.split(4), k.split(4), **options),
    "softmax_loss": softmax_loss,
    "queue_nce": lambda q, k, **options: queue_nce(q, k, _like(q, QUEUE), **options),
    "dual_view_loss": lambda q, k, **options: dual_view_loss(q, k, _like(q, QUEUE), **options),
}
DEMANDING = ("hardness_nce", "gradient_share", "sigmoid_loss", "chunked_sigmoid_loss", "softmax_loss")
DEMANDING += ("queue_nce", "dual_view_loss")  # of their queue
ACTIVATED = ("ncl_loss",)  # normalised after its activation


def _like(rows, queue):
    """The queue at norm 1 where the rows are."""
    return F.normalize(queue) if torch.allclose(rows.norm(dim=1), torch.ones(len(rows))) else queue


@pytest.mark.parametrize("name", OF_UNIT)
def test_normalize_brings_rows_to_norm_1_and_else_they_are_taken_or_refused(name) -> None:
    loss, unit = OF_UNIT[name], (F.normalize(Q), F.normalize(K))
    cosines = loss(*unit, normalize=True)
    torch.testing.assert_close(loss(3 * Q, K, normalize=True), cosines)
    if name not in ACTIVATED:
        torch.testing.assert_close(loss(*unit, normalize=False), cosines)
    if name in DEMANDING:
        with pytest.raises(ValueError, match="must have rows of norm 1"):
            loss(3 * Q, K)
    else:
        assert not torch.isclose(loss(3 * Q, K, normalize=False), cosines)


@pytest.mark.parametrize(
    "loss",
    [
        lambda *scale, **options: tiled_nce(Q, K, *scale, normalize=True, **options),
        lambda *scale, **options: ring_nce(Q.split(4), K.split(4), *scale, normalize=True, **options),
        lambda *scale, **options: hardness_nce(Q, K, *scale, normalize=True, **options),
        lambda *scale, **options: torch.tensor(gradient_share(Q, K, *scale, normalize=True, **options)),
    ],
    ids=["tiled_nce", "ring_nce", "hardness_nce", "gradient_share"],
)
def test_a_temperature_in_the_place_of_the_scale(loss) -> None:
    assert torch.equal(loss(4.0), loss(temperature=0.25))
    assert torch.equal(loss(scale=4.0), loss(4.0))
    with pytest.raises(TypeError, match="give scale or temperature = 1 / scale, and not both"):
        loss(4.0, temperature=0.25)
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        loss(temperature=0)


def test_a_scale_without_a_default_is_asked_for_and_a_temperature_gets_its_gradient() -> None:
    for loss in (tiled_nce, lambda q, k: ring_nce(q.split(4), k.split(4))):
        with pytest.raises(TypeError, match="give scale, or temperature = 1 / scale"):
            loss(Q, K)
    temperature = torch.tensor(0.25, requires_grad=True)
    scale = torch.tensor(4.0, requires_grad=True)
    for loss in (tiled_nce, hardness_nce):
        (by_temperature,) = torch.autograd.grad(loss(Q, K, temperature=temperature, normalize=True), temperature)
        (by_scale,) = torch.autograd.grad(loss(Q, K, scale, normalize=True), scale)
        torch.testing.assert_close(by_temperature, -16 * by_scale)
