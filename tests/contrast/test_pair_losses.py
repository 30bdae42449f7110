"""The losses that `palimpsest contrast` offers: each is its room's, in one form."""

from dataclasses import fields

import pytest
import torch
from torch import nn

from palimpsest.contrast.debiased_cl import debiased_loss
from palimpsest.contrast.decoupled_cl import dcl_loss
from palimpsest.contrast.family import family
from palimpsest.contrast.heads import Projected, projection_head
from palimpsest.contrast.info_nce import info_nce
from palimpsest.contrast.pair_losses import Debiased, Decoupled, InfoNCE, Paired, SigLIP
from palimpsest.contrast.sigmoid import sigmoid_nce
from palimpsest.errors import UserError
from palimpsest.train import fit


@pytest.fixture
def pairs():
    draws = torch.Generator().manual_seed(0)
    query = torch.randn(12, 6, generator=draws)
    return query, query + 0.3 * torch.randn(12, 6, generator=draws)


def value(loss, query, key):
    return loss(query, key, **loss.modules())


def test_losses_are_those_of_their_rooms(pairs):
    assert value(InfoNCE(0.2), *pairs) == info_nce(*pairs, 0.2, symmetric=True, normalize=True)
    assert value(Decoupled(0.3), *pairs) == dcl_loss(*pairs, 0.3)
    assert value(Debiased(0.2, 0.4), *pairs) == debiased_loss(*pairs, 0.2, 0.4)
    found = value(SigLIP(scale=5.0, bias=-3.0), *pairs)
    torch.testing.assert_close(found, sigmoid_nce(*pairs, torch.tensor(5.0).log(), torch.tensor(-3.0), normalize=True))


METHODS = family.methods


@pytest.mark.parametrize("name", METHODS)
def test_every_loss_prefers_partners_and_ignores_norms(name, pairs):
    loss, (query, key) = METHODS[name], pairs
    right, wrong = value(loss, query, key), value(loss, query, key.roll(1, 0))
    assert right < wrong
    torch.testing.assert_close(value(loss, query, 3 * key), right)


@pytest.mark.parametrize("name", METHODS)
def test_every_field_is_explained_and_has_a_range_or_any_value(name):
    kind = type(METHODS[name])
    assert kind.__doc__
    for each in fields(kind):
        if each.name != "bias":
            with pytest.raises(UserError, match=each.name):
                kind(**{each.name: -1.0})


@pytest.mark.parametrize("name", METHODS)
def test_an_encoder_trains_on_views_and_on_pairs(name):
    loss = METHODS[name]
    draws = torch.Generator().manual_seed(1)
    rows = torch.randn(16, 1, 8, generator=draws) + 0.2 * torch.randn(16, 2, 8, generator=draws)
    for batch in ({"views": rows}, {"query": rows[:, 0], "key": rows[:, 1]}):
        torch.manual_seed(0)
        model = Projected(nn.Linear(8, 8), projection_head(8, 16, 16), loss.modules())
        history = fit(model, Paired(loss), [batch], steps=40, lr=1e-2)
        assert history.steps[-1]["contrast"] < history.steps[0]["contrast"]
