"""BoostLU: larger class activations where labels are only partly known (Kim, Kim, Jeong, Schmid, Akata and Lee, 2023,
arXiv 2304.01804).

A network that learned from partial labels, the others taken for absent, looks at the same places as one that knew all
labels: only the positive activations of its class maps are smaller. So they are multiplied, before they are averaged to
a logit, in training and in tests, or in tests alone:

    BoostLU(x) = max(x, alpha x),  alpha >= 1                                                              (Eq. 5)

It is joined to losses that reject the largest losses of unobserved labels (Kim et al. 2022, arXiv 2206.03740), which
boosted activations bring out: set to 0 (LL-R), corrected for the batch (LL-Ct), or for good (LL-Cp).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.losses.multilabel import alike
from palimpsest.train.classification import logits_of
from palimpsest.train.method import Objective
from palimpsest.train.ranges import Above, AtLeast, AtMost

Scheme = Literal["LL-R", "LL-Ct", "LL-Cp"]


def boost_lu(cam: Float[Tensor, "..."], alpha: float = 5.0) -> Float[Tensor, "..."]:
    """alpha x where x is above 0, and x elsewhere.

    Raises:
        ValueError: an alpha below 1.

    >>> boost_lu(torch.tensor([-2.0, 2.0]))
    tensor([-2., 10.])
    """
    if not alpha >= 1:
        raise ValueError(f"alpha must be at least 1, got {alpha}")
    return torch.where(cam > 0, alpha * cam, cam)


class CamClassifier(nn.Module):
    """A feature map, a 1 x 1 convolution to a map for each class, `boost_lu`, and the mean over places.

    Args:
        backbone: images -> feature maps [batch, d, height, width].
        alpha: 1 is the usual network; may be set later, for tests alone.

    >>> network = CamClassifier(nn.Conv2d(1, 8, 3), 8, classes=5)
    >>> network(torch.rand(2, 1, 10, 10)).shape, network.cam(torch.rand(2, 1, 10, 10)).shape
    (torch.Size([2, 5]), torch.Size([2, 5, 8, 8]))
    """

    def __init__(self, backbone: nn.Module, d: int, classes: int, alpha: float = 5.0) -> None:
        super().__init__()
        self.backbone, self.classify, self.alpha = backbone, nn.Conv2d(d, classes, 1), alpha

    def cam(self, pixel_values: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes h w"]:
        """The class activation maps, before they are boosted."""
        return self.classify(self.backbone(pixel_values))

    def forward(self, pixel_values: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        return boost_lu(self.cam(pixel_values), self.alpha).mean((2, 3))


def large_loss(
    logits: Float[Tensor, "batch classes"], targets: Tensor, share: float, scheme: Scheme = "LL-R"
) -> tuple[Float[Tensor, ""], Bool[Tensor, "batch classes"]]:
    """Binary cross-entropy in which the unobserved labels of the largest losses are taken for hidden positives, and
    which those are: ceil(share * batch * classes), and all that tie with the last of them.

    Args:
        targets: 1 observed, 0 not observed.
        share: of all labels of the batch; 0 changes none. The authors' 1 - clean rate (LL-R, LL-Ct), or their delta
            (LL-Cp).
        scheme: "LL-R" sets their loss to 0, the others take them for present.

    Raises:
        ValueError: shapes that differ, a share that is not in [0, 1], or an unknown scheme.

    >>> loss, hidden = large_loss(torch.tensor([[3.0, -3.0]]), torch.tensor([[0, 0]]), share=0.5)
    >>> hidden, round(loss.item(), 4)  # log(1 + e^-3) / 2
    (tensor([[ True, False]]), 0.0243)
    """
    logits, targets = alike(logits, targets)
    if not 0 <= share <= 1 or scheme not in ("LL-R", "LL-Ct", "LL-Cp"):
        raise ValueError(f"share must be in [0, 1] and the scheme LL-R, LL-Ct or LL-Cp, got {share} and {scheme!r}")
    each = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    unobserved = targets == 0
    many = min(math.ceil(share * targets.numel()), int(unobserved.sum()))
    if not many:
        return each.mean(), torch.zeros_like(unobserved)
    suspected = each.detach().masked_fill(~unobserved, -torch.inf)
    hidden = suspected >= suspected.flatten().topk(many).values[-1]
    other = torch.zeros_like(each) if scheme == "LL-R" else -F.logsigmoid(logits)
    return torch.where(hidden, other, each).mean(), hidden


@dataclass(frozen=True)
class LargeLoss(Objective):
    """Training by `large_loss` on `Labelled` rows whose `y` [n, classes] is 1 where a label was observed.

    The share grows by `growth` with each span of steps after the first, which is unmodified (LL-R, LL-Ct); LL-Cp marks
    a share of `growth` in every later batch, and what it marks stays a positive.
    """

    scheme: Scheme = "LL-R"
    """What becomes of suspected labels."""
    growth: Annotated[float, AtLeast(0), AtMost(1)] = 0.005
    """By how much the share grows; 0.002 for LL-Ct and 0.001 for LL-Cp in the paper."""
    span: Annotated[int, Above(0)] = 30
    """Steps of the paper's epoch."""

    def init(self, model: nn.Module, data: Any) -> dict[str, Tensor]:
        return {"labels": data.rows.y.float(), "step": torch.zeros((), dtype=torch.long)}

    def loss(self, state: dict[str, Tensor], model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        turn = int(state["step"]) // self.span
        state["step"] = state["step"] + 1
        share = min(1.0, self.growth * (min(turn, 1) if self.scheme == "LL-Cp" else turn))
        logits, rows = logits_of(model, batch), batch["index"].cpu()
        labels = state["labels"][rows].to(logits.device)
        loss, hidden = large_loss(logits, labels, share, self.scheme)
        if self.scheme == "LL-Cp":
            state["labels"] = state["labels"].index_copy(0, rows, labels.masked_fill(hidden, 1.0).cpu())
        return {"loss": loss}
