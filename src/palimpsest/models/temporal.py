"""A temporal convolutional network for sequences of frames, such as spectrograms.

Source: the encoder of Conv-TasNet: Luo and Mesgarani (2019), arXiv 1809.07454, with the mean over time instead of its
decoder.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import ImageClassifierOutput

from palimpsest.models.language import seeded


class Dilated(nn.Module):
    """A residual block: 1 x 1, a convolution of each channel along time at a distance, and 1 x 1 back."""

    def __init__(self, width: int, hidden: int, dilation: int, kernel: int = 3) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv1d(width, hidden, 1),
            nn.PReLU(),
            nn.GroupNorm(1, hidden),  # over channels and time
            nn.Conv1d(hidden, hidden, kernel, padding=(kernel - 1) * dilation // 2, dilation=dilation, groups=hidden),
            nn.PReLU(),
            nn.GroupNorm(1, hidden),
            nn.Conv1d(hidden, width, 1),
        )

    def forward(self, x: Float[Tensor, "batch width frames"]) -> Float[Tensor, "batch width frames"]:
        return x + self.block(x)


class TCN(nn.Module):
    """Dilated convolutions along time, the mean over frames, and one linear layer.

    Args:
        bands: values of a frame.
        classes: how many.
        width: channels between blocks, and features.
        hidden: channels within a block.
        blocks: with dilations 1, 2, 4, ...
        repeats: of all blocks.
        stride: so many frames are averaged before the first block.

    Raises:
        ValueError: a size is not positive.
    """

    def __init__(
        self,
        bands: int = 40,
        classes: int = 10,
        width: int = 64,
        hidden: int = 128,
        blocks: int = 5,
        repeats: int = 2,
        stride: int = 1,
    ) -> None:
        super().__init__()
        sizes = {"bands": bands, "classes": classes, "width": width, "hidden": hidden, "blocks": blocks}
        for name, size in {**sizes, "repeats": repeats, "stride": stride}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.bands, self.stride = bands, stride
        distances = [2**block for _ in range(repeats) for block in range(blocks)]
        self.body = nn.Sequential(
            nn.GroupNorm(1, bands), nn.Conv1d(bands, width, 1), *(Dilated(width, hidden, d) for d in distances)
        )
        self.head = nn.Linear(width, classes)

    def features(self, pixel_values: Float[Tensor, "batch *channel bands frames"]) -> Float[Tensor, "batch width"]:
        """What the last layer reads: the mean over frames. A channel of one before the bands is dropped."""
        x = pixel_values.squeeze(1) if pixel_values.ndim == 4 and pixel_values.shape[1] == 1 else pixel_values
        if x.ndim != 3 or x.shape[1] != self.bands or x.shape[2] < self.stride:
            raise ValueError(
                f"pixel_values must be [batch, {self.bands} bands, frames], got shape {list(pixel_values.shape)}"
            )
        return self.body(F.avg_pool1d(x, self.stride) if self.stride > 1 else x).mean(2)

    def forward(self, pixel_values: Float[Tensor, "batch *channel bands frames"]) -> ImageClassifierOutput:
        """Logits [batch, classes], and the features as `hidden_states`."""
        features = self.features(pixel_values)
        return ImageClassifierOutput(logits=self.head(features), hidden_states=(features,))


def tcn(*, seed: int = 0, **sizes: int) -> TCN:
    """A `TCN` with weights of the seed, in training mode; the global random state is left as it was.

    >>> import torch
    >>> tcn(classes=31)(torch.zeros(2, 1, 40, 100)).logits.shape
    torch.Size([2, 31])
    """
    return seeded(seed, lambda: TCN(**sizes))
