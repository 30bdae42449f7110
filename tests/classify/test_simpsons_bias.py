"""Simpson's bias: closed forms, what has none, a table that reverses, and BLEU by hand."""

import math

import pytest
import torch
from sklearn.metrics import f1_score

from palimpsest.classify.simpsons_bias import (
    bias_curve,
    corpus_bleu,
    dice_of_tokens,
    reversal_rate,
    sentence_bleu,
    simpson_bias,
)
from palimpsest.losses.multilabel import soft_dice


def rows(n=240, seed=0):
    draws = torch.Generator().manual_seed(seed)
    targets = (torch.rand(n, generator=draws) < 0.1).double()
    return (torch.rand(n, generator=draws).double() + targets).clamp(max=1), targets


def f1(p, y):
    return soft_dice((p > 0.5).double()[:, None], y[:, None], smooth=0.0)


def test_dice_of_samples_is_the_mean_of_ratios_and_of_a_batch_the_ratio_of_sums():
    p, y = rows()
    each = [(2 * a * b + 0.5) / (a + b + 0.5) for a, b in zip(p.tolist(), y.tolist(), strict=True)]
    assert dice_of_tokens(p, y, 0.5).item() == pytest.approx(sum(each) / len(each))
    whole = (2 * (p * y).sum() + 0.5) / (p.sum() + y.sum() + 0.5)
    torch.testing.assert_close(dice_of_tokens(p, y, 0.5, "batch"), whole)


def test_bias_is_that_of_f1_by_hand():
    p, y = rows()
    parts = torch.arange(240).split(40)
    said = (p > 0.5).long()
    each = [f1_score(y[part].numpy(), said[part].numpy(), zero_division=1.0) for part in parts]
    whole = f1_score(y.numpy(), said.numpy())
    assert simpson_bias(f1, f1, p, y, parts).item() == pytest.approx(sum(each) / 6 - whole)


def test_means_of_samples_have_no_bias():
    p, y = rows()

    def accuracy(p, y):
        return ((p > 0.5) == y).double().mean()

    def cross_entropy(p, y):
        return torch.nn.functional.binary_cross_entropy(p.clamp(1e-6, 1 - 1e-6), y)

    for score in (accuracy, cross_entropy):
        assert abs(simpson_bias(score, score, p, y, torch.randperm(240).split(12)).item()) < 1e-12
        assert max(bias_curve(score, p[:, None], y[:, None], (240,), torch.Generator()).values()) < 1e-12


def test_larger_parts_have_less_bias():
    p, y = rows(n=4000)
    curve = bias_curve(f1, p, y, (4, 40, 400, 4000), torch.Generator().manual_seed(0))
    assert list(curve.values()) == sorted(curve.values(), reverse=True)
    assert curve[4] > 0.03
    assert curve[4000] < 1e-12


def test_two_models_that_the_parts_rank_the_other_way():
    """The first model finds what is rare in a part of many positives and errs in one of few; the second does not."""
    targets = torch.tensor([1.0] * 8 + [1.0] + [0.0] * 7)
    first = torch.tensor([1.0] * 8 + [0.0] * 8)
    second = torch.tensor([1.0] * 4 + [0.0] * 4 + [1.0] + [0.0] * 7)
    parts, models = torch.arange(16).split(8), (first, second)
    whole = [f1(model, targets).item() for model in models]
    mean = [whole[i] + simpson_bias(f1, f1, model, targets, parts).item() for i, model in enumerate(models)]
    assert whole[0] > whole[1]
    assert mean[0] < mean[1]
    assert reversal_rate(whole, mean) == 1.0
    assert reversal_rate([1.0, 1.0], [0.0, 1.0]) == 0.0


def test_bleu_of_sentences_and_of_all():
    said, asked = ["the", "cat", "sat", "on", "a", "mat"], ["the", "cat", "sat", "on", "the", "mat"]
    # matches of order 1 to 4: 5 of 6, 3 of 5, 2 of 4, 1 of 3
    assert corpus_bleu([(said, asked)]) == pytest.approx((5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    assert sentence_bleu(said, asked) == pytest.approx((5 / 6 * 4 / 6 * 3 / 5 * 2 / 4) ** 0.25)
    assert corpus_bleu([(["a", "b"], ["a", "b", "c", "d"])], n=2) == pytest.approx(math.exp(-1))
    assert corpus_bleu([(["x"], ["a"])]) == sentence_bleu([], ["a"]) == 0.0


def test_what_does_not_fit_is_refused():
    p, y = rows(n=4)
    with pytest.raises(ValueError, match="each of the 4 rows once"):
        simpson_bias(f1, f1, p, y, [torch.tensor([0, 1])])
    with pytest.raises(ValueError, match="sizes must be 1 to 4"):
        bias_curve(f1, p, y, (5,), torch.Generator())
    with pytest.raises(ValueError, match="two models at least"):
        reversal_rate([1.0], [1.0])
    with pytest.raises(ValueError, match="level must be sample or batch"):
        dice_of_tokens(p, y, level="row")
