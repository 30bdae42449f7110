"""Hyperspherical embeddings for classes that come later (Pereira, Joly, Valduriez and Porto, 2021, arXiv 2102.03243).

Metric learning compares pairs or triplets so that distances mean something, also to classes that were never trained on.
A softmax whose features and class vectors all lie on the unit sphere does so without a single pair:

    L = -log( e^{cos(x, w_y) / sigma} / sum_c e^{cos(x, w_c) / sigma} )

On the sphere |x - w|^2 = 2 - 2 cos(x, w), so the class with the largest logit is the nearest one. A new class needs no
training: its vector is the direction of the mean of its examples' embeddings, and is appended to the others.

The pairwise learners that it is compared with are `palimpsest.losses.contrastive_loss` and `triplet_loss`. What the
paper constrains in the latent space beyond unit norms is not known here.
"""

from __future__ import annotations

import copy
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.contrast.input_checks import check_embeddings, check_labels, check_positive
from palimpsest.contrast.precision import widened, without_autocast
from palimpsest.lazy import front_door


class NormSoftmax(nn.Module):
    """A last layer of unit vectors: logits [batch, classes] are cosines over sigma. There is no bias.

    Args:
        dim: width of the features.
        classes: how many.
        sigma: temperature, above 0.

    Logits are float32 at least, also of half precision and under autocast; labels are 0 to classes - 1.

    >>> head = NormSoftmax(dim=2, classes=2, sigma=0.5)
    >>> head.weight.data = torch.tensor([[3.0, 0.0], [0.0, 0.1]])
    >>> head(torch.tensor([[10.0, 0.0]]))
    tensor([[2., 0.]], grad_fn=<DivBackward0>)
    """

    def __init__(self, dim: int, classes: int, sigma: float = 0.1) -> None:
        super().__init__()
        check_positive(sigma, "sigma")
        if not 1e-30 <= sigma < math.inf:  # 1 / sigma has to be a float32
            raise ValueError(f"sigma must be finite and at least 1e-30, got {sigma}")
        for name, value in (("dim", dim), ("classes", classes)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.sigma = sigma
        self.weight = nn.Parameter(torch.randn(classes, dim) / math.sqrt(dim))

    def forward(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        check_embeddings(x=widened(x), weight=widened(self.weight))
        return cosines(x, self.weight) / self.sigma

    def loss(self, x: Float[Tensor, "batch dim"], y: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """Cross-entropy of the logits."""
        return F.cross_entropy(self(x), check_labels(y, len(x), len(self.weight)))


def novel_weights(
    embeddings: Float[Tensor, "n dim"], labels: Int[Tensor, " n"]
) -> tuple[Float[Tensor, "classes dim"], Int[Tensor, " classes"]]:
    """A unit vector for every class that occurs, unit(mean of unit(e) over its examples), and the classes in order.

    In float32 at least. Examples that cancel out (two opposite ones) have no direction: theirs is a vector of zeros.

    >>> vectors, classes = novel_weights(torch.tensor([[2.0, 0.0], [0.0, 5.0], [0.0, 1.0]]), torch.tensor([7, 7, 3]))
    >>> vectors, classes
    (tensor([[0.0000, 1.0000],
            [0.7071, 0.7071]]), tensor([3, 7]))
    """
    check_embeddings(embeddings=embeddings)
    check_labels(labels, len(embeddings))
    classes, which = labels.unique(return_inverse=True)
    unit = _unit(embeddings)
    sums = unit.new_zeros(len(classes), unit.shape[1]).index_add(0, which, unit)
    return _unit(sums.where(sums.norm(dim=1, keepdim=True) > 1e-6, 0)), classes


def add_classes(head: NormSoftmax, embeddings: Float[Tensor, "n dim"], labels: Int[Tensor, " n"]) -> NormSoftmax:
    """A head that knows the new classes too, without training; the old one is left as it is.

    Args:
        head: of C classes.
        embeddings, labels: examples of the new classes, which are numbered C, C + 1, ... without gaps.

    >>> head = add_classes(NormSoftmax(4, 3), torch.randn(5, 4), torch.tensor([3, 4, 3, 4, 4]))
    >>> head.weight.shape
    torch.Size([5, 4])
    """
    vectors, classes = novel_weights(embeddings.detach(), labels)
    known = len(head.weight)
    if classes.tolist() != list(range(known, known + len(classes))):
        raise ValueError(f"new labels must be {known}, {known + 1}, ... without gaps, got {classes.tolist()}")
    check_embeddings(embeddings=widened(embeddings), weight=widened(head.weight))
    if len(cancelled := classes[(vectors == 0).all(1)]):
        raise ValueError(f"the examples of label {cancelled[0].item()} cancel out: their mean has no direction")
    extended = copy.deepcopy(head)
    weight = torch.cat([_unit(head.weight.detach()), vectors]).to(head.weight.dtype)
    extended.weight = nn.Parameter(weight, requires_grad=head.weight.requires_grad)
    return extended


def _unit(rows: Tensor) -> Tensor:
    return F.normalize(widened(rows), dim=1)


def cosines(first: Tensor, second: Tensor) -> Tensor:
    with without_autocast(first):
        return _unit(first) @ _unit(second).T


_MOVED = {
    "contrast.hypersphere_novel_measures": ("classify", "novel_accuracy"),
    "losses.embeddings": ("contrastive_loss", "triplet_loss"),
}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
