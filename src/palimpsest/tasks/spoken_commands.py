"""Spoken commands: made-up spectrograms of an action, an object and a place said one after the other.

A word is two or three tracks of energy that move through 40 bands of frequency, as the formants of speech do. A command
says three words, in one of three orders, some with a filler before; every speaker has a higher or lower voice and
a tempo of their own, and there is noise. An intent is a combination of the three; 31 of the 144 occur, so that
intents share words, as in Fluent Speech Commands, which these stand in for.

Source of that corpus: Lugosch et al. (2019), Speech model pre-training for end-to-end spoken language understanding,
arXiv 1904.03670.
"""

from __future__ import annotations

from itertools import product

import torch
from jaxtyping import Float, Int
from torch import Tensor

from palimpsest.tasks.fresh import SPLITS, generator
from palimpsest.tasks.splits import Split, Splits

ACTIONS, OBJECTS, PLACES = 6, 6, 4
INTENTS, BANDS, FRAMES = 31, 40, 100
WORD, FILLER = 20.0, 12.0  # frames at the usual tempo
TEMPO, VOICE, WIDTH = (0.8, 1.25), 3.0, 1.2
ORDERS = torch.tensor([[0, 1, 2], [2, 0, 1], [1, 2, 0]])  # of action, object, place
COMMANDS = 151  # random stream of this file


def intents() -> Int[Tensor, "intents 3"]:
    """Which action, object and place each intent is: distinct, and every word occurs.

    >>> intents().shape, [len(column.unique()) for column in intents().T]
    (torch.Size([31, 3]), [6, 6, 4])
    """
    all_ = list(product(range(ACTIONS), range(OBJECTS), range(PLACES)))
    # Steps of 23 through the 144 in turn, which is prime to their number.
    return torch.tensor([all_[23 * number % len(all_)] for number in range(INTENTS)])


def spoken_commands(
    seed: int, *, per_intent: int = 40, validation: int = 6, test: int = 10, noise: float = 0.3
) -> Splits[Split]:
    """Commands of all intents, equally many, in random order; all new for every seed, said in the same words.

    Args:
        seed: 0 to 999,999.
        per_intent: commands of each intent to train on.
        validation, test: the same of the other splits.
        noise: standard deviation of what is added to every value; a track has energy 1 where it passes.

    Returns:
        Spectrograms [n, 1, 40 bands, 100 frames] with the intent as label; `index` is -1, for they come from no pool.
        A command takes 48 to 90 frames, silence follows.

    Raises:
        ValueError: a number below 1, or negative noise.

    >>> task = spoken_commands(0, per_intent=2)
    >>> tuple(task.train.x.shape), task.train.y.bincount().unique()
    ((62, 1, 40, 100), tensor([2]))
    """
    sizes = dict(zip(SPLITS, (per_intent, validation, test), strict=True))
    for name, n in sizes.items():
        if n < 1:
            raise ValueError(f"{name} must have at least 1 command of each intent, got {n}")
    if noise < 0:
        raise ValueError(f"noise must be at least 0, got {noise}")
    parts = {}
    for name, n in sizes.items():
        source = generator(seed, name, COMMANDS)
        y = torch.arange(INTENTS).repeat(n)[torch.randperm(INTENTS * n, generator=source)]
        x = said(intents()[y], source)
        x = x + noise * torch.randn(x.shape, generator=source)
        parts[name] = Split(x[:, None], y, torch.full_like(y, -1))
    return Splits(**parts)


def said(words: Int[Tensor, "n 3"], source: torch.Generator) -> Float[Tensor, "n bands frames"]:
    """Commands without noise, each by a speaker of its own.

    Args:
        words: action, object and place of each.
        source: of order, filler, voice and tempo.
    """
    n = len(words)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=source)

    order = ORDERS[torch.randint(len(ORDERS), (n,), generator=source)]
    spoken = (words + torch.tensor([0, ACTIONS, ACTIONS + OBJECTS])).gather(1, order)
    filler = torch.rand(n, 1, generator=source) < 0.5
    spoken = torch.cat([torch.full((n, 1), ACTIONS + OBJECTS + PLACES), spoken], 1)
    lengths = torch.cat([FILLER * filler, torch.full((n, 3), WORD)], 1) * uniform(*TEMPO, 1)
    ends = lengths.cumsum(1)
    frame = torch.arange(FRAMES, dtype=torch.float32).expand(n, FRAMES).contiguous()
    place = torch.searchsorted(ends, frame, right=True)  # 4 behind the end
    within = place.clamp(max=3)
    at = (frame - (ends - lengths).gather(1, within)) / lengths.gather(1, within).clamp(min=1e-6)
    start, slope, bend, loud = tracks()[spoken.gather(1, within)].unbind(-1)  # [n, frames, tracks] each
    centre = start + slope * at[..., None] + bend * torch.sin(torch.pi * at[..., None]) + uniform(-VOICE, VOICE, 1, 1)
    bands = torch.arange(BANDS, dtype=torch.float32)
    energy = (loud[..., None] * torch.exp(-((bands - centre[..., None]) ** 2) / (2 * WIDTH**2))).sum(2)
    return (energy * (place < 4)[..., None]).transpose(1, 2)


def tracks() -> Float[Tensor, "words tracks 4"]:
    """Where each track of each word begins, how far it goes, how far it bends on the way, and whether it is there.

    The words are the same for all seeds, those of actions, objects and places in turn, and the filler.
    """
    words = ACTIONS + OBJECTS + PLACES + 1
    source = torch.Generator().manual_seed(COMMANDS)
    drawn = torch.rand(words, 3, 3, generator=source)
    start = 6 + torch.tensor([0.0, 10.0, 20.0]) + 8 * drawn[..., 0]
    loud = torch.ones(words, 3)
    loud[::2, 2] = 0  # every other word has two tracks
    return torch.stack([start, 16 * (drawn[..., 1] - 0.5), 10 * (drawn[..., 2] - 0.5), loud], -1)
