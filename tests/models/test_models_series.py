"""The classifier of series: its convolutions by hand, and what it does not take."""

import pytest
import torch
from torch import nn

from palimpsest.models.series import SeriesCNN, series_cnn


def test_a_layer_is_a_weighted_sum_of_five_neighbours_at_every_second_place():
    model = series_cnn(length=6, width=1, layers=1, batch_norm=False, seed=1)
    x = torch.arange(1.0, 7.0)
    weight, bias = model.body[0].weight[0, 0], model.body[0].bias[0]
    padded = torch.cat([torch.zeros(2), x, torch.zeros(2)])
    by_hand = torch.stack([(padded[i : i + 5] * weight).sum() + bias for i in (0, 2, 4)]).relu()
    torch.testing.assert_close(model.features(x.view(1, 1, 6))[0], by_hand)


@pytest.mark.parametrize("length", [8, 9, 15, 40])
def test_any_length_fits_and_an_images_height_of_one_is_dropped(length):
    model = series_cnn(length=length, channels=2, classes=3)
    x = torch.randn(4, 2, length)
    output = model.eval()(x)
    assert output.logits.shape == (4, 3)
    assert torch.equal(model(x[:, :, None]).logits, output.logits)
    torch.testing.assert_close(model.head(output.hidden_states[0]), output.logits)


def test_the_seed_decides_the_weights_and_nothing_else_is_touched():
    before = torch.random.get_rng_state()
    one, same, other = (series_cnn(seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    weights = [nn.utils.parameters_to_vector(model.parameters()) for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: SeriesCNN(length=7), "a series of 7 is too short for 3 layers"),
        (lambda: SeriesCNN(width=0), "width must be at least 1, got 0"),
        (lambda: SeriesCNN()(torch.zeros(2, 40)), r"\[batch, 1, 40\], got \[2, 40\]"),
    ],
)
def test_what_does_not_fit_is_refused(call, why):
    with pytest.raises(ValueError, match=why):
        call()
