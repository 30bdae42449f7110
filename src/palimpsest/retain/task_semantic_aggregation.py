"""A vision transformer whose features are gathered by one learned token, and how unevenly classes are forgotten.

Source: Dong et al. (2023), Heterogeneous forgetting compensation for class-incremental learning, arXiv 2308.03374.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import ImageClassifierOutput

from palimpsest.models.language import seeded


class TaskSemanticAggregation(nn.Module):
    """One learned token attends to itself and to all others, and passes an MLP; both with what they read normed before
    and added after.

    Args:
        d: of the tokens.
        heads: of the attention.
        drop_path: the share of rows whose residual paths are left out in training.

    >>> TaskSemanticAggregation(8, heads=2)(torch.zeros(3, 5, 8)).shape
    torch.Size([3, 8])
    """

    def __init__(self, d: int, heads: int, drop_path: float = 0.1) -> None:
        super().__init__()
        if d % heads:
            raise ValueError(f"d must be a multiple of heads, got {d} and {heads}")
        self.heads, self.drop_path = heads, drop_path
        self.token = nn.Parameter(torch.zeros(d))
        self.norm, self.norm_mlp = nn.LayerNorm(d), nn.LayerNorm(d)
        self.query, self.key, self.value = (nn.Linear(d, d, bias=False) for _ in range(3))
        self.out = nn.Linear(d, d)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, tokens: Float[Tensor, "batch tokens d"]) -> Float[Tensor, "batch d"]:
        token = self.token.expand(len(tokens), 1, -1)
        read = self.norm(torch.cat([token, tokens], 1))
        q, k, v = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, read[:, :1]), (self.key, read), (self.value, read))
        )
        gathered = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        token = token + self._kept(token) * gathered
        return (token + self._kept(token) * self.mlp(self.norm_mlp(token)))[:, 0]

    def _kept(self, token: Tensor) -> Tensor:
        return F.dropout(token.new_ones(len(token), 1, 1), self.drop_path, self.training)


class AggregatingClassifier(nn.Module):
    """A vision transformer with aggregation in the place of its class token's last state.

    Args:
        vit: a `transformers.ViTForImageClassification`, such as `palimpsest.models.vision.vit`; it is taken over.
        heads: of the aggregation; None for as many as the transformer has.
        seed: of the aggregation's weights.

    >>> from palimpsest.models.vision import vit
    >>> model = AggregatingClassifier(vit())
    >>> model(torch.zeros(2, 1, 8, 8)).logits.shape, model.features(torch.zeros(2, 1, 8, 8)).shape
    (torch.Size([2, 10]), torch.Size([2, 64]))
    """

    def __init__(self, vit: nn.Module, heads: int | None = None, drop_path: float = 0.1, seed: int = 0) -> None:
        super().__init__()
        d, own = vit.config.hidden_size, vit.config.num_attention_heads
        self.vit, self.classifier = vit.vit, vit.classifier
        self.aggregation = seeded(seed, lambda: TaskSemanticAggregation(d, heads or own, drop_path))

    def features(self, pixel_values: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch d"]:
        """What the token gathered."""
        return self.aggregation(self.vit(pixel_values).last_hidden_state)

    def forward(self, pixel_values: Float[Tensor, "batch channels height width"]) -> ImageClassifierOutput:
        features = self.features(pixel_values)
        return ImageClassifierOutput(logits=self.classifier(features), hidden_states=(features,))


def forgetting_spread(accuracies: Float[Tensor, "tasks classes"]) -> float:
    """The standard deviation over classes of what each lost: its best accuracy before the last task minus its last.

    Args:
        accuracies: of each class after every task; nan before it came. Classes of the last task alone do not count.

    >>> forgetting_spread(torch.tensor([[1.0, 0.8, torch.nan], [0.5, 0.3, 0.9]]))
    0.0
    """
    lost = accuracies[:-1].nan_to_num(-1).amax(0) - accuracies[-1]
    return float(lost[~accuracies[:-1].isnan().all(0)].std(correction=0))
