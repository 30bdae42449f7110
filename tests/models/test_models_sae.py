import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest.models.sae import SparseAutoencoder, quality
from palimpsest.train.sae import train_sae


def sparse_data(n=600, d=8, m=12, active=2, seed=0):
    """Activations that are sums of few of m directions, and the directions."""
    g = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(m, d, generator=g), dim=-1)
    codes = torch.zeros(n, m)
    places = torch.rand(n, m, generator=g).topk(active, dim=1).indices
    codes.scatter_(1, places, 1 + torch.rand(n, active, generator=g))
    return codes @ directions + 3.0, directions


@given(seed=st.integers(0, 99), k=st.one_of(st.none(), st.integers(1, 12)))
@settings(max_examples=20, deadline=None)
def test_forward_is_the_formula(seed, k):
    sae = SparseAutoencoder(5, 12, k=k, seed=seed)
    with torch.no_grad():
        for p in sae.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)))
        sae.scale.fill_(2.5)
    h = torch.randn(7, 5, generator=torch.Generator().manual_seed(seed + 1))
    x = h / 2.5
    f = torch.relu((x - sae.decoder_bias) @ sae.encoder.T + sae.encoder_bias)
    if k is not None:
        f = f * (f >= f.sort(dim=1, descending=True).values[:, k - 1 : k])
    rows = sae.rows / sae.rows.norm(dim=1, keepdim=True)
    found, features = sae(h)
    torch.testing.assert_close(features, f)
    torch.testing.assert_close(found, 2.5 * (f @ rows + sae.decoder_bias))
    torch.testing.assert_close(sae.decoder.norm(dim=1), torch.ones(12))
    # A feature's direction is what one unit of it adds.
    more = f.clone()
    more[:, 3] += 1
    torch.testing.assert_close(sae.decode(more) - sae.decode(f), sae.directions[3].expand(7, 5))
    terms = sae.loss(h, 0.1)
    torch.testing.assert_close(terms["error"], ((x - found / 2.5) ** 2).sum(1).mean())
    torch.testing.assert_close(terms["sparsity"], 0.1 * f.sum(1).mean())


def test_gradients_are_those_of_the_loss():
    sae = SparseAutoencoder(3, 4).double()
    h = torch.randn(5, 3, dtype=torch.float64)

    def loss(*parameters):
        names = [name for name, _ in sae.named_parameters()]
        outputs = torch.func.functional_call(sae, dict(zip(names, parameters, strict=True)), (h,))
        return (h - outputs[0]).square().sum() + outputs[1].sum()

    assert torch.autograd.gradcheck(loss, tuple(sae.parameters()))


@pytest.mark.parametrize("k", [None, 2])
def test_training_explains_sparse_data_by_its_own_directions(k):
    h, directions = sparse_data()
    sae = train_sae(h, 16, k=k, l1=0.1, steps=600, lr=5e-3, seed=1)
    found = quality(sae, h)
    assert found["explained"] > 0.9
    assert found["active"] < 6
    nearest = (sae.decoder.detach() @ directions.T).amax(0)
    assert (nearest > 0.9).double().mean() >= 0.6
    worse = quality(train_sae(h, 16, k=k, steps=1, seed=1), h)
    assert worse["explained"] < found["explained"] - 0.1


def test_a_larger_penalty_is_sparser():
    h, _ = sparse_data()
    few, many = (quality(train_sae(h, 16, l1=l1, steps=200, seed=0), h) for l1 in (0.5, 0.001))
    assert few["active"] < many["active"]


@given(factor=st.floats(0.01, 100))
@settings(max_examples=5, deadline=None)
def test_the_unit_of_the_activations_does_not_matter(factor):
    h, _ = sparse_data(n=100)
    one, other = train_sae(h, 8, steps=10), train_sae(h * factor, 8, steps=10)
    torch.testing.assert_close(other(h * factor)[0], one(h)[0] * factor, rtol=1e-3, atol=1e-3 * factor)


def test_the_same_seed_gives_the_same_autoencoder_and_it_comes_back():
    h, _ = sparse_data(n=50)
    one, two, three = (train_sae(h, 8, k=3, steps=5, seed=seed) for seed in (0, 0, 1))
    back = SparseAutoencoder.from_tensors(two.state_dict(), k=3)
    assert torch.equal(one(h)[0], back(h)[0])
    assert not torch.equal(one(h)[0], three(h)[0])


def test_quality_by_hand():
    sae = SparseAutoencoder(2, 3)
    with torch.no_grad():
        sae.rows.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
        sae.encoder.copy_(sae.rows)
    found = quality(sae, torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    assert found == pytest.approx({"explained": 1.0, "active": 1.0, "dead": 1 / 3})


@pytest.mark.parametrize("sizes", [(0, 4, None), (4, 0, None), (4, 4, 5), (4, 4, 0)])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="must be positive"):
        SparseAutoencoder(*sizes[:2], k=sizes[2])


@pytest.mark.parametrize("h", [torch.zeros(0, 4), torch.zeros(4), torch.full((2, 2), float("nan"))])
def test_impossible_activations_are_refused(h):
    with pytest.raises(ValueError, match="finite and at least one"):
        train_sae(h, 4)
