"""The Dice loss for polyphonic sound events on several channels (2021): sound events overlap, and each is heard in few
frames, so that of all labels of clips, frames and classes about one in twenty is present. Cross-entropy is then nearly
met by silence. The Dice coefficient of the whole batch counts what is found, and has no term for what is rightly
silent:

    L = 1 - (2 sum p y + smooth) / (sum p + sum y + smooth),    p = sigmoid(logits)

which is `palimpsest.losses.multilabel.dice_loss` with a small `smooth`. Here are the network, its initialisation from a
classifier of single events, and what is done to clips in training.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from palimpsest.losses.multilabel import dice_loss

SMOOTH = 1e-6


def event_dice_loss(
    logits: Float[Tensor, "clips frames classes"], targets: Tensor, smooth: float = SMOOTH, squared: bool = False
) -> Float[Tensor, ""]:
    """The loss above, with sums over all clips, frames and classes of the batch.

    Raises:
        ValueError: as for `dice_loss`.

    >>> event_dice_loss(torch.zeros(1, 2, 1), torch.tensor([[[1], [0]]]))  # 1 - 2 * 0.5 / (1 + 1)
    tensor(0.5000)
    """
    return dice_loss(logits, targets, smooth, "all", squared)


class CRNN(nn.Module):
    """Three blocks of convolution that pool frequencies only, a recurrence in both directions, and a linear layer on
    each frame.

    >>> CRNN(channels=4, bands=32, classes=10)(torch.rand(2, 4, 64, 32)).shape
    torch.Size([2, 64, 10])
    """

    def __init__(self, channels: int, bands: int, classes: int, width: int = 16, hidden: int = 32) -> None:
        super().__init__()
        if bands % 8:
            raise ValueError(f"bands must be a multiple of 8, as they are halved three times, got {bands}")
        sizes = (channels, width, width, width)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d((1, 2)))
                for a, b in pairwise(sizes)
            )
        )
        self.recurrence = nn.GRU(width * bands // 8, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, classes)

    def forward(self, x: Float[Tensor, "clips channels frames bands"]) -> Float[Tensor, "clips frames classes"]:
        maps = self.blocks(x).transpose(1, 2).flatten(2)
        return self.head(self.recurrence(maps)[0])


@torch.no_grad()
def transfer(model: CRNN, source: CRNN) -> CRNN:
    """The model with the convolutions of a source, which heard single events ("intra") or saw images ("inter"); the
    recurrence and the head stay fresh. Where the number of input channels differs, the first ones are averaged.

    >>> mono, array = CRNN(1, 16, 5), CRNN(4, 16, 10)
    >>> transfer(array, mono).blocks[1][0].weight.equal(mono.blocks[1][0].weight)
    True
    """
    state, own = source.blocks.state_dict(), model.blocks[0][0].weight
    first = state["0.0.weight"]
    if first.shape[1] != own.shape[1]:  # the same answer to the same sound in every channel
        mean = first.sum(1, keepdim=True) / own.shape[1]
        state["0.0.weight"] = mean.expand(-1, own.shape[1], -1, -1).clone()
    model.blocks.load_state_dict(state)
    return model


def augment(
    x: Float[Tensor, "clips channels frames bands"],
    y: Float[Tensor, "clips frames classes"],
    generator: torch.Generator,
    time: int = 8,
    band: int = 4,
    mix: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """Each clip with a span of up to `time` frames and of up to `band` bands silenced, its channels turned round by a
    random number, and, with probability `mix`, the mean with another clip, whose events are added to its own.

    >>> x, y = augment(torch.rand(3, 4, 16, 8), torch.zeros(3, 16, 5), torch.Generator().manual_seed(0))
    >>> x.shape, y.shape
    (torch.Size([3, 4, 16, 8]), torch.Size([3, 16, 5]))
    """
    clips, channels, frames, bands = x.shape

    def kept(length: int, most: int) -> Tensor:
        many = torch.randint(0, most + 1, (clips, 1), generator=generator)
        start = (torch.rand(clips, 1, generator=generator) * (length - many + 1).clamp(min=1)).long()
        place = torch.arange(length)
        return ((place < start) | (place >= start + many)).to(x)

    turn = torch.randint(channels, (clips, 1), generator=generator)
    x = x[torch.arange(clips)[:, None], (torch.arange(channels) + turn) % channels]
    x = x * kept(frames, time)[:, None, :, None] * kept(bands, band)[:, None, None, :]
    other = torch.randperm(clips, generator=generator)
    mixed = torch.rand(clips, generator=generator) < mix
    x = torch.where(mixed[:, None, None, None], (x + x[other]) / 2, x)
    return x, torch.where(mixed[:, None, None], torch.maximum(y, y[other]), y)
