"""Random views of images: shapes, ranges, what each seed draws, and what is left as it was."""

import pytest
import torch

from palimpsest.tasks.image_views import view_batches, views
from palimpsest.tasks.splits import Split


@pytest.mark.parametrize("channels", [1, 3])
def test_views_keep_the_shape_and_the_range(channels):
    x = torch.rand(5, channels, 12, 12)
    found = views(x, torch.Generator().manual_seed(1), n=3)
    assert found.shape == (5, 3, channels, 12, 12)
    assert found.min() >= 0
    assert found.max() <= 1
    assert not torch.allclose(found[:, 0], found[:, 1])


def test_an_even_image_stays_even_whatever_the_crop():
    found = views(torch.full((4, 3, 8, 8), 0.5), torch.Generator().manual_seed(2), n=2)
    assert torch.allclose(found, found[..., :1, :1].expand_as(found), atol=1e-6)


def test_without_flips_left_stays_left():
    ramp = torch.linspace(0, 1, 16).expand(64, 1, 16, 16).contiguous()
    slope = views(ramp, torch.Generator().manual_seed(3), n=1, flip=False)[:, 0].diff(dim=-1).mean((1, 2, 3))
    assert (slope > 0).all()
    flipped = views(ramp, torch.Generator().manual_seed(3), n=1)[:, 0].diff(dim=-1).mean((1, 2, 3))
    assert 0.2 < (flipped < 0).float().mean() < 0.8


def test_batches_depend_on_seed_and_step_alone():
    split = Split(torch.rand(10, 1, 8, 8), torch.arange(10) % 2, torch.arange(10))
    first, again = (view_batches(split, 64, seed=5)(3) for _ in range(2))
    assert first["views"].shape == (10, 2, 1, 8, 8)
    assert torch.equal(first["views"], again["views"])
    assert not torch.equal(first["views"], view_batches(split, 64, seed=6)(3)["views"])
    with pytest.raises(ValueError, match="n must be at least 1"):
        views(split.x, torch.Generator(), n=0)
