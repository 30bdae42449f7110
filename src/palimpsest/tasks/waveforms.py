"""Time series: windows of five waveforms, views of them, bad pairs of views, and long series with seasons.

Two tasks. `waveforms` is a classification task: which of five waves is in a window, whatever its frequency, phase and
loudness. `forecasting` cuts a long series into windows and what follows them, split by time. Around them: random views
(`jitter`, `rescale`, `permute`, `series_views`), coloured noise, damage, and `with_bad_pairs`, which spoils a known
share of the pairs of views that contrastive learning would align.

What builds a task takes a `seed`; what acts on given data takes a `torch.Generator`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from palimpsest.tasks.fresh import check_disjoint, row_keys
from palimpsest.tasks.fresh import generator as stream
from palimpsest.tasks.splits import Rows, Splits
from palimpsest.train.order import shuffled

WAVES = ("sine", "square", "triangle", "sawtooth", "pulse")
GOOD, NOISE, DAMAGED = 0, 1, 2  # values of `Windows.pair`
WAVEFORMS, SEASONS = 130, 131  # random streams of this file

Series = Float[Tensor, "n channels length"]


@dataclass(frozen=True, eq=False)
class Windows(Rows):
    """Windows of time series.

    Attributes:
        x: values, float32.
        y: which wave is in the window (its place in `WAVES`); None where there is nothing to classify.
        pair: what becomes of the row's pair of views: GOOD, NOISE or DAMAGED; None where all are good.
        start: where in its series a window begins.
        future: the values that follow the window.
    """

    x: Series
    y: Int[Tensor, " n"] | None = None
    pair: Int[Tensor, " n"] | None = None
    start: Int[Tensor, " n"] | None = None
    future: Float[Tensor, "n channels horizon"] | None = None


def wave(phase: Tensor, kind: str) -> Tensor:
    """A wave from -1 to 1 at a phase counted in cycles; all but the pulse (a quarter of each cycle is 1) have mean 0.

    >>> phase = torch.tensor([0.0, 0.25, 0.5, 0.75])
    >>> wave(phase, "triangle"), wave(phase, "pulse")
    (tensor([ 0.,  1.,  0., -1.]), tensor([ 1., -1., -1., -1.]))
    """
    at = phase - phase.floor()
    if kind == "sine":
        return torch.sin(2 * math.pi * at)
    if kind == "square":
        return torch.where(at < 0.5, 1.0, -1.0)
    if kind == "triangle":
        return 1 - 4 * ((at + 0.25) % 1 - 0.5).abs()
    if kind == "sawtooth":
        return 2 * at - 1
    if kind == "pulse":
        return torch.where(at < 0.25, 1.0, -1.0)
    raise ValueError(f"kind must be one of {', '.join(WAVES)}, got {kind!r}")


def waveforms(
    seed: int,
    *,
    train: int = 1000,
    validation: int = 300,
    test: int = 500,
    length: int = 64,
    channels: int = 1,
    kinds: Sequence[str] = WAVES,
    cycles: tuple[float, float] = (2.0, 5.0),
    loudness: tuple[float, float] = (0.5, 1.5),
    noise: float = 0.1,
) -> Splits[Windows]:
    """Windows of one wave each: which one is it?

    Frequency, phase and loudness are uniform and independent of the class; channels share class and frequency and have
    phases and loudness of their own. Classes are balanced, in random order.

    Args:
        seed: 0 to 999,999.
        train, validation, test: how many windows.
        length: steps of a window.
        channels: series of a window.
        kinds: the classes, out of `WAVES`; labels are places in `WAVES`.
        cycles: fewest and most cycles in a window.
        loudness: smallest and largest amplitude.
        noise: standard deviation of Gaussian noise on every value.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> task = waveforms(0)
        >>> tuple(task.train.x.shape), task.test.y.bincount()
        ((1000, 1, 64), tensor([100, 100, 100, 100, 100]))
    """
    unknown = [kind for kind in kinds if kind not in WAVES]
    if unknown or not kinds:
        raise ValueError(f"kinds must be some of {', '.join(WAVES)}, got {unknown[0] if unknown else kinds!r}")
    for name, value in (("length", length), ("channels", channels)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    for name, (low, high) in (("cycles", cycles), ("loudness", loudness)):
        if not 0 < low <= high:
            raise ValueError(f"{name} must be two positive numbers in order, got {(low, high)}")
    _not_negative(noise=noise, train=train, validation=validation, test=test)
    labels = torch.tensor([WAVES.index(kind) for kind in kinds])

    def split(name: str, n: int) -> Windows:
        generator = stream(seed, name, WAVEFORMS)
        y = labels[torch.arange(n) % len(labels)][torch.randperm(n, generator=generator)]
        frequency = cycles[0] + (cycles[1] - cycles[0]) * torch.rand(n, 1, 1, generator=generator)
        phase = torch.rand(n, channels, 1, generator=generator)
        amplitude = loudness[0] + (loudness[1] - loudness[0]) * torch.rand(n, channels, 1, generator=generator)
        at = phase + frequency * torch.arange(length) / length
        x = torch.empty_like(at)
        for label in labels.unique().tolist():
            x[y == label] = wave(at[y == label], WAVES[label])
        return Windows(amplitude * x + noise * torch.randn(x.shape, generator=generator), y)

    made = Splits(split("train", train), split("validation", validation), split("test", test))
    check_disjoint(**{name: row_keys(getattr(made, name).x) for name in ("train", "validation", "test")})
    return made


def coloured_noise(shape: Sequence[int], generator: torch.Generator, *, exponent: float = 1.0) -> Tensor:
    """Noise whose power falls as 1 / frequency^exponent along the last dimension: 0 is white, 1 pink, 2 brown.

    Every row is centred and brought to a standard deviation of 1.

    >>> noise = coloured_noise((3, 1, 64), torch.Generator().manual_seed(0), exponent=2.0)
    >>> noise.mean(-1).abs().max() < 1e-6, bool((noise.std(-1, unbiased=False) - 1).abs().max() < 1e-5)
    (tensor(True), True)
    """
    if not shape or shape[-1] < 3:
        raise ValueError(f"coloured noise needs at least three steps a row, got the shape {tuple(shape)}")
    spectrum = torch.fft.rfft(torch.randn(*shape, generator=generator))
    frequency = torch.arange(spectrum.shape[-1]).clamp(min=1)
    spectrum = spectrum * frequency ** (-exponent / 2)
    spectrum[..., 0] = 0
    noise = torch.fft.irfft(spectrum, n=shape[-1])
    return noise / noise.std(-1, unbiased=False, keepdim=True)


def jitter(x: Series, generator: torch.Generator, *, sigma: float = 0.1) -> Series:
    """Gaussian noise on every value.

    >>> bool(jitter(torch.zeros(2, 1, 8), torch.Generator()).abs().sum() > 0)
    True
    """
    _not_negative(sigma=sigma)
    return x + sigma * torch.randn(x.shape, generator=generator).to(x)


def rescale(x: Series, generator: torch.Generator, *, sigma: float = 0.1) -> Series:
    """Every channel of every window times a factor from N(1, sigma^2).

    >>> x = rescale(torch.ones(2, 1, 8), torch.Generator())
    >>> bool((x == x[..., :1]).all()), bool((x == 1).all())
    (True, False)
    """
    _not_negative(sigma=sigma)
    return x * (1 + sigma * torch.randn(*x.shape[:2], 1, generator=generator).to(x))


def permute(x: Series, generator: torch.Generator, *, segments: int = 4) -> Series:
    """Every window cut at random places into that many pieces, which are put together again in random order.

    >>> x = torch.arange(8.0).reshape(1, 1, 8)
    >>> permute(x, torch.Generator().manual_seed(0), segments=3).flatten().sort().values.equal(x.flatten())
    True
    """
    n, length = len(x), x.shape[-1]
    if not 1 <= segments <= length:
        raise ValueError(f"segments must be from 1 to the length {length}, got {segments}")
    cuts = torch.rand(n, length - 1, generator=generator).argsort(1)[:, : segments - 1] + 1
    opens = torch.zeros(n, length, dtype=torch.long).scatter_(1, cuts, 1)
    place = torch.rand(n, segments, generator=generator).argsort(1).gather(1, opens.cumsum(1))
    order = place.argsort(dim=1, stable=True).to(x.device)
    return x.gather(2, order[:, None].expand_as(x))


def damage(x: Series, generator: torch.Generator, *, share: float = 0.9) -> Series:
    """A sensor that hangs: a stretch of every window, at a random place, holds the value at which it begins.

    Args:
        share: of the window's length.

    >>> x = damage(torch.arange(10.0).reshape(1, 1, 10), torch.Generator(), share=0.5)
    >>> len(x.unique())
    6
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be from 0 to 1, got {share}")
    n, length = len(x), x.shape[-1]
    hung = round(share * length)
    first = (torch.rand(n, 1, generator=generator) * (length - hung + 1)).long().to(x.device)
    step = torch.arange(length, device=x.device)
    stuck = (step >= first) & (step < first + hung)
    return x.gather(2, torch.where(stuck, first, step)[:, None].expand_as(x))


def series_views(
    x: Series,
    generator: torch.Generator,
    *,
    n: int = 2,
    noise: float = 0.1,
    scaling: float = 0.1,
    segments: int = 1,
    pair: Int[Tensor, " batch"] | None = None,
    damaged: float = 0.9,
) -> Float[Tensor, "batch views channels length"]:
    """n random views of every window: cut and put together again, rescaled, jittered.

    Args:
        noise, scaling: sigma of `jitter` and of `rescale`.
        segments: of `permute`; 1 leaves the order of time.
        pair: with it the last view of every DAMAGED row is damaged first.
        damaged: share of the window that is lost there.

    >>> series_views(torch.randn(4, 1, 16), torch.Generator(), n=3).shape
    torch.Size([4, 3, 1, 16])
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    views = x[:, None].repeat(1, n, 1, 1)
    broken = damage(x, generator, share=damaged)  # always drawn, so that other views do not depend on `pair`
    if pair is not None:
        hit = (pair == DAMAGED).to(x.device)
        views[hit, -1] = broken[hit]
    flat = views.flatten(0, 1)
    if segments > 1:
        flat = permute(flat, generator, segments=segments)
    flat = jitter(rescale(flat, generator, sigma=scaling), generator, sigma=noise)
    return flat.unflatten(0, (len(x), n))


def with_bad_pairs(
    windows: Windows,
    generator: torch.Generator,
    *,
    noise: float = 0.1,
    damaged: float = 0.1,
    exponent: float = 1.0,
    loudness: float = 1.0,
) -> Windows:
    """Spoils a share of the pairs of views, and says which.

    A NOISE row becomes coloured noise: both of its views share that noise, and nothing else. A
    DAMAGED row keeps its window, but one of its views will be damaged, anew each time (see `series_views`). Labels stay
    what they were.

    Args:
        noise, damaged: shares of the rows.
        exponent: the colour of the noise.
        loudness: the noise's standard deviation over that of the window it replaces.

    >>> spoiled = with_bad_pairs(waveforms(0).train, torch.Generator().manual_seed(0), noise=0.1, damaged=0.2)
    >>> spoiled.pair.bincount()
    tensor([700, 100, 200])
    """
    _not_negative(noise=noise, damaged=damaged, loudness=loudness)
    if noise + damaged > 1:
        raise ValueError(f"noise and damaged must be shares that sum to at most 1, got {noise} and {damaged}")
    n = len(windows)
    order = torch.randperm(n, generator=generator)
    noisy, broken = order.split([round(noise * n), round(damaged * n), n - round(noise * n) - round(damaged * n)])[:2]
    pair = torch.full((n,), GOOD)
    pair[noisy], pair[broken] = NOISE, DAMAGED
    x = windows.x.clone()
    if len(noisy):
        drawn = coloured_noise(x[noisy].shape, generator, exponent=exponent)
        x[noisy] = loudness * drawn * x[noisy].std(-1, unbiased=False, keepdim=True)
    return dataclasses.replace(windows, x=x, pair=pair)


def view_batches(
    windows: Windows,
    batch_size: int,
    *,
    seed: int = 0,
    n: int = 2,
    noise: float = 0.1,
    scaling: float = 0.1,
    segments: int = 1,
    damaged: float = 0.9,
) -> Callable[[int], dict[str, Tensor]]:
    """step -> {"views" [batch, n, channels, length], "index" [batch]}, and "labels" and "pair" where there are any.

    `index` holds row numbers. Order and views depend on (seed, step) alone. Other arguments as in `series_views`.

    >>> batch = view_batches(waveforms(0).train, 32)(0)
    >>> {name: tuple(value.shape) for name, value in batch.items()}
    {'views': (32, 2, 1, 64), 'index': (32,), 'labels': (32,)}
    """
    order = shuffled(len(windows), batch_size, seed)
    changes = {"n": n, "noise": noise, "scaling": scaling, "segments": segments, "damaged": damaged}

    def batch(step: int) -> dict[str, Tensor]:
        index = order(step)
        rows = windows[index]
        generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
        made = {"views": series_views(rows.x, generator, pair=rows.pair, **changes), "index": index}
        return {**made, **{k: v for k, v in (("labels", rows.y), ("pair", rows.pair)) if v is not None}}

    return batch


def seasonal_series(
    seed: int,
    length: int,
    *,
    seasons: Sequence[tuple[float, float]] = ((24, 1.0), (240, 1.0)),
    channels: int = 1,
    shape: str = "sine",
    trend: float = 0.0,
    noise: float = 0.3,
    exponent: float = 0.0,
) -> Float[Tensor, "channels length"]:
    """One long series: a sum of seasons at random phases, a line, and noise.

    Args:
        seed: 0 to 999,999.
        seasons: (period in steps, amplitude) of each.
        channels: series that share the periods and have phases of their own.
        shape: of all seasons, one of `WAVES`.
        trend: the rise from the first step to the last.
        noise: standard deviation of noise, white or coloured.
        exponent: the colour of the noise, as in `coloured_noise`.

    Example:
        >>> seasonal_series(0, 1000, channels=2).shape
        torch.Size([2, 1000])
    """
    for period, _ in seasons:
        if not period > 0:
            raise ValueError(f"the period of a season must be above 0, got {period}")
    _not_negative(noise=noise)
    generator = stream(seed, "train", SEASONS)
    step = torch.arange(length, dtype=torch.float64)
    phases = torch.rand(len(seasons), channels, 1, generator=generator)
    x = (trend * step / max(length - 1, 1)).expand(channels, length)
    for (period, amplitude), phase in zip(seasons, phases, strict=True):
        x = x + amplitude * wave(step / period + phase, shape)
    return x.float() + noise * coloured_noise((channels, length), generator, exponent=exponent)


def sliding(
    series: Float[Tensor, "channels length"], context: int, horizon: int = 0, *, every: int = 1, first: int = 0
) -> Windows:
    """All windows of `context` steps with the `horizon` steps that follow, one every so many steps.

    Args:
        first: what to count `start` from, where the series is a part of a longer one.

    >>> windows = sliding(torch.arange(10.0)[None], 3, 2, every=4)
    >>> windows.x.tolist(), windows.future.tolist(), windows.start
    ([[[0.0, 1.0, 2.0]], [[4.0, 5.0, 6.0]]], [[[3.0, 4.0]], [[7.0, 8.0]]], tensor([0, 4]))
    """
    if series.ndim != 2:
        raise ValueError(f"series must be [channels, length], got {list(series.shape)}")
    if context < 1 or horizon < 0 or every < 1:
        raise ValueError(f"context and every must be at least 1, horizon 0, got {context}, {every}, {horizon}")
    if series.shape[1] < context + horizon:
        raise ValueError(f"a window with its future has {context + horizon} steps, the series only {series.shape[1]}")
    cut = series.unfold(1, context + horizon, every).transpose(0, 1)
    start = first + every * torch.arange(len(cut))
    return Windows(cut[..., :context].clone(), start=start, future=cut[..., context:].clone())


def forecasting(
    series: Float[Tensor, "channels length"],
    context: int,
    horizon: int,
    *,
    shares: tuple[float, float, float] = (0.7, 0.1, 0.2),
    every: int = 1,
) -> Splits[Windows]:
    """A long series as a task: the first part is for training, the next for validation, the last for testing.

    Values are standardised by the training part, and no window reaches into another part.

    Args:
        context, horizon: steps that are seen, steps to forecast.
        shares: of the series; they sum to 1.
        every: steps between the beginnings of two windows.

    Example:
        >>> task = forecasting(seasonal_series(0, 3000), context=48, horizon=96)
        >>> len(task.train), tuple(task.test.future.shape), int(task.test.start[0])
        (1957, (457, 1, 96), 2400)
    """
    if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"shares must be positive and sum to 1, got {shares}")
    length = series.shape[-1]
    ends = [0, round(shares[0] * length), round((shares[0] + shares[1]) * length), length]
    known = series[:, : ends[1]]
    series = (series - known.mean(1, keepdim=True)) / known.std(1, keepdim=True).clamp(min=1e-8)
    return Splits(*(sliding(series[:, a:b], context, horizon, every=every, first=a) for a, b in pairwise(ends)))


def _not_negative(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value}")
