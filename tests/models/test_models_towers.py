"""The two towers: what the text tower sees, and that both end on one sphere."""

import pytest
import torch

from palimpsest.models.towers import SceneTower, TextTower, TwoTowers


def test_the_text_tower_sees_order_only_with_layers_and_never_sees_padding():
    padding = torch.zeros(2, 8, dtype=torch.long)
    tokens = torch.cat([torch.tensor([[1, 2, 3, 4, 5, 1, 6, 7], [1, 6, 3, 4, 5, 1, 2, 7]]), padding], 1)
    torch.manual_seed(0)
    ordered, mean = (TextTower(words=7, length=16, width=16, layers=layers) for layers in (1, 0))
    torch.testing.assert_close(*mean(tokens))
    assert (ordered(tokens)[0] - ordered(tokens)[1]).abs().max() > 1e-3
    torch.testing.assert_close(ordered(tokens[:, :8]), ordered(tokens), atol=1e-6, rtol=1e-5)
    assert ordered.tokens(tokens).shape == (2, 16, 16)


def test_images_and_texts_meet_on_one_sphere_and_the_losses_modules_train_with_them():
    loss = torch.nn.Linear(1, 1)
    model = TwoTowers(SceneTower(4, 8), TextTower(words=7, length=5, width=8), 8, 8, dim=3, extra={"loss": loss})
    x, tokens = torch.rand(2, 3, 16, 16), torch.tensor([[1, 2, 3], [4, 0, 0]])
    for embeddings, alone in zip(model(x, tokens), (model.images(x), model.texts(tokens)), strict=True):
        assert embeddings.shape == (2, 3)
        assert embeddings.norm(dim=1).tolist() == pytest.approx([1.0, 1.0])
        assert torch.equal(embeddings, alone)
    assert {id(p) for p in loss.parameters()} <= {id(p) for p in model.parameters()}


class WithHead(torch.nn.Linear):
    def features(self, x):
        return x[:, :2]


def test_of_an_image_classifier_the_features_are_taken():
    model = TwoTowers(WithHead(4, 9), TextTower(words=7, length=5, width=8), 2, 8, dim=3)
    assert model.images(torch.rand(5, 4)).shape == (5, 3)
