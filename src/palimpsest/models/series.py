"""A small convolutional classifier of series, such as MNIST-1D's."""

from __future__ import annotations

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutput

from palimpsest.models.language import seeded

KERNEL, STRIDE = 5, 2


class SeriesCNN(nn.Module):
    """Convolutions along the series, each of which halves its length, and one linear layer on all positions.

    Args:
        length: of the series, at least 2 to the power of `layers`.
        channels: values at each place.
        classes: how many.
        width: channels of every convolution.
        layers: convolutions.
        batch_norm: behind each convolution.

    Raises:
        ValueError: a size is not positive, or the series too short.
    """

    def __init__(
        self,
        length: int = 40,
        channels: int = 1,
        classes: int = 10,
        width: int = 25,
        layers: int = 3,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        sizes = {"length": length, "channels": channels, "classes": classes, "width": width, "layers": layers}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if length < STRIDE**layers:
            raise ValueError(f"a series of {length} is too short for {layers} layers that halve it")
        self.channels, self.length = channels, length
        blocks: list[nn.Module] = []
        for before, after in pairwise([channels] + [width] * layers):
            blocks += [nn.Conv1d(before, after, KERNEL, STRIDE, padding=KERNEL // 2)]
            blocks += [nn.BatchNorm1d(after)] * batch_norm + [nn.ReLU()]
            length = (length + 1) // STRIDE
        self.body = nn.Sequential(*blocks, nn.Flatten())
        self.head = nn.Linear(width * length, classes)

    def features(self, pixel_values: Float[Tensor, "batch channels length"]) -> Float[Tensor, "batch features"]:
        """What the last layer reads. A dimension of size 1 before the last, an image's height, is dropped."""
        x = pixel_values.squeeze(2) if pixel_values.ndim == 4 and pixel_values.shape[2] == 1 else pixel_values
        if x.ndim != 3 or x.shape[1:] != (self.channels, self.length):
            raise ValueError(
                f"pixel_values must have shape [batch, {self.channels}, {self.length}], got {list(pixel_values.shape)}"
            )
        return self.body(x)

    def forward(self, pixel_values: Float[Tensor, "batch channels length"]) -> ImageClassifierOutput:
        """Logits [batch, classes], and the features as `hidden_states`."""
        features = self.features(pixel_values)
        return ImageClassifierOutput(logits=self.head(features), hidden_states=(features,))


def series_cnn(*, seed: int = 0, **sizes: int) -> SeriesCNN:
    """A `SeriesCNN` with weights of the seed, in training mode; the global random state is left as it was.

    >>> series_cnn()(torch.zeros(2, 1, 1, 40)).logits.shape
    torch.Size([2, 10])
    """
    return seeded(seed, lambda: SeriesCNN(**sizes))
