"""The number token loss: its closed forms, the authors' package, and what they get wrong that it does not."""

from types import SimpleNamespace

import pytest
import torch
from scipy.stats import wasserstein_distance
from torch.nn import functional as F

from palimpsest.classify.number_token_loss import ntl_mse, ntl_was, number_token_loss, number_values
from palimpsest.classify.number_token_loss_measures import number_metrics, wasserstein_1d

VOCABULARY = {**{str(digit): digit + 3 for digit in range(10)}, "a": 0, "<pad>": 1, "▁": 2, "12": 13, "bc": 14}
VALUES = number_values(SimpleNamespace(get_vocab=lambda: VOCABULARY))


def batch(dtype=torch.float64):
    draws = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(3, 7, 15, generator=draws, dtype=torch.float64)
    labels = torch.randint(15, (3, 7), generator=draws)
    labels[0, :2] = -100
    return logits.to(dtype).requires_grad_(), labels


def test_values_are_digits_or_every_number():
    assert VALUES[3:13].tolist() == list(range(10))
    assert int(VALUES.isnan().sum()) == 5
    spaced = {"x": 0, "▁7": 1, "Ġ8": 2, "12": 3, "3.5": 4, "٣": 5, "1.2.3": 6}
    tokenizer = SimpleNamespace(get_vocab=lambda: spaced)
    assert number_values(tokenizer)[1:3].tolist() == [7, 8]
    assert int((~number_values(tokenizer, size=10).isnan()).sum()) == 2
    assert number_values(tokenizer, multi_digit=True)[3:5].tolist() == [12, 3.5]
    assert number_values(tokenizer, multi_digit=True)[5:].isnan().all()
    with pytest.raises(ValueError, match="0 of 1 tokens"):
        number_values(SimpleNamespace(get_vocab=lambda: {"x": 0}))


def test_both_terms_are_naive_sums_over_number_positions():
    logits, labels = batch()
    was, mse = [], []
    for row in range(3):
        for at in range(7):
            label = int(labels[row, at])
            if label >= 0 and 3 <= label < 13:
                p, t = logits[row, at, 3:13].softmax(0), label - 3
                was.append(sum(p[j] * abs(j - t) for j in range(10)))
                mse.append((t - sum(p[j] * j for j in range(10))) ** 2)
    torch.testing.assert_close(ntl_was(logits, labels, VALUES), sum(was) / len(was))
    torch.testing.assert_close(ntl_mse(logits, labels, VALUES), sum(mse) / len(mse))
    whole = F.cross_entropy(logits.flatten(0, 1), labels.flatten()) + 0.3 * sum(was) / len(was)
    torch.testing.assert_close(number_token_loss(logits, labels, VALUES), whole)
    assert torch.autograd.gradcheck(lambda z: ntl_was(z, labels, VALUES), logits)


def test_without_numbers_it_is_0_with_a_path_for_gradients():
    logits, _ = batch()
    for labels in (torch.zeros(3, 7).long(), torch.full((3, 7), -100)):
        for term in (ntl_was, ntl_mse):
            loss = term(logits, labels, VALUES)
            (gradient,) = torch.autograd.grad(loss, logits)
            assert loss == 0
            assert not gradient.any()


def test_what_is_ignored_is_no_digit_even_where_token_0_is_one():
    values = torch.tensor([0.0, 1.0, torch.nan])
    logits = torch.tensor([[[0.0, 5.0, 0.0], [5.0, 0.0, 0.0]]])
    alone = ntl_was(logits[:, 1:], torch.tensor([[0]]), values)
    torch.testing.assert_close(ntl_was(logits, torch.tensor([[-100, 0]]), values), alone)


def test_the_mean_has_wrong_minima_and_the_distance_has_none():
    half = torch.full((1, 1, 15), -30.0)
    half[..., [3 + 4, 3 + 6]] = 9.0
    label = torch.tensor([[3 + 5]])
    assert ntl_mse(half, label, VALUES) < 1e-6
    assert ntl_was(half, label, VALUES).item() == pytest.approx(1.0)


def test_the_distance_is_scipys_and_that_to_a_point():
    draws = torch.Generator().manual_seed(0)
    p, q = torch.rand(2, 6, 8, generator=draws, dtype=torch.float64).softmax(2)
    support = torch.rand(8, generator=draws, dtype=torch.float64).cumsum(0)
    wanted = [wasserstein_distance(support, support, a, b) for a, b in zip(p, q, strict=True)]
    assert wasserstein_1d(p, q, support).tolist() == pytest.approx(wanted)
    point = F.one_hot(torch.full((6,), 3), 8).double()
    torch.testing.assert_close(wasserstein_1d(p, point, support), p @ (support - support[3]).abs())
    with pytest.raises(ValueError, match="sorted"):
        wasserstein_1d(p, q, support.flip(0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken_in_float32(dtype):
    logits, labels = batch(dtype)
    assert number_token_loss(logits, labels, VALUES).dtype == torch.float32
    torch.testing.assert_close(ntl_was(logits, labels, VALUES), ntl_was(logits.float(), labels, VALUES))


def test_answers_that_are_no_numbers_count_as_far_away():
    found = number_metrics(["1", "2.5", "x", "nan", "1e99"], [1.0, 2.0, 3.0, 4.0, 5.0], largest=10.0)
    assert found["exact"] == 0.2
    assert found["unreadable"] == 0.2
    assert found["mae"] == pytest.approx((0.5 + 30) / 5)
    assert found["R squared"] == pytest.approx(1 - (0.25 + 300) / 10)
    with pytest.raises(ValueError, match="as many"):
        number_metrics([], [])


def test_the_authors_package_says_the_same():
    """ntloss 0.3.2, without the reweighing that the paper has not, in float64 to 1e-6."""
    ntloss = pytest.importorskip("ntloss")

    class Tokenizer(SimpleNamespace):
        def __len__(self):
            return 15

    tokenizer = Tokenizer(get_vocab=lambda: VOCABULARY, add_tokens=lambda tokens: 0)
    logits, labels = batch()
    for theirs, ours in ((ntloss.NTLoss, ntl_was), (ntloss.NTLossDotProduct, ntl_mse)):
        other = theirs(tokenizer, vocab_size=15, reweigh=False)(logits, labels)
        mine = ours(logits, labels, VALUES)
        assert abs((other - mine).item()) < 1e-6
        (a,), (b,) = torch.autograd.grad(other, logits), torch.autograd.grad(mine, logits)
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
