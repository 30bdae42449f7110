"""FLAT against its closed forms, its variational bound, and a naive version of its probabilities."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.forget.flat import DIVERGENCES, FLAT, conjugate, flat_loss, mean_probability, variational
from palimpsest.forget.procedure import prepare, unlearn
from palimpsest.models import causal_lm, word_tokenizer
from palimpsest.models.score import Encoded

each = pytest.mark.parametrize("div", DIVERGENCES)
probability = st.floats(0, 1)


def row(p):
    return torch.tensor([p], dtype=torch.float64)


CLOSED = {
    "kl": lambda e, f: math.exp(f - 1) - e,
    "tv": lambda e, f: (math.tanh(f) - math.tanh(e)) / 2,
    "js": lambda e, f: math.log(1 + math.exp(-e)) + math.log(1 + math.exp(f)) - 2 * math.log(2),
    "pearson": lambda e, f: f * f / 4 + f - e,
}


@each
@given(e=probability, f=probability)
def test_closed_forms(div, e, f):
    assert flat_loss(row(e), row(f), div).item() == pytest.approx(CLOSED[div](e, f), abs=1e-12)


def test_kl_from_certain_template_to_certain_ignorance():
    assert flat_loss(row(1.0), row(0.0), "kl").item() == pytest.approx(math.exp(-1) - 1)


# f, of which f* is the convex conjugate: sup_t (u t - f(t)) over t > 0.
GENERATORS = {
    "kl": lambda t: t * t.log(),
    "js": lambda t: t * t.log() - (1 + t) * ((1 + t) / 2).log(),
    "pearson": lambda t: (t - 1).square(),
    "tv": lambda t: (t - 1).abs() / 2,
}


@each
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_conjugate_is_the_supremum_over_a_grid(div, value):
    t = torch.logspace(-6, 3, 200_001, dtype=torch.float64)
    u = variational(row(value), div)
    supremum = (u * t - GENERATORS[div](t)).max()
    torch.testing.assert_close(conjugate(row(value), div)[0], supremum, atol=1e-4, rtol=0)


@each
@given(e=st.floats(0, 0.99), f=st.floats(0, 0.99), step=st.floats(1e-3, 0.01))
def test_falls_with_the_template_and_rises_with_the_forget_answer(div, e, f, step):
    here = flat_loss(row(e), row(f), div)
    assert flat_loss(row(e + step), row(f), div) < here
    assert flat_loss(row(e), row(f + step), div) > here


@each
def test_gradcheck_and_both_terms_have_a_gradient(div):
    e, f = (torch.rand(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda e, f: flat_loss(e, f, div), (e, f), atol=1e-6)
    for grad, sign in zip(torch.autograd.grad(flat_loss(e, f, div), (e, f)), (-1, 1), strict=True):
        assert (sign * grad > 0).all()


@each
def test_means_are_taken_before_g(div):
    e, f = torch.tensor([0.1, 0.9]), torch.tensor([0.2, 0.4])
    torch.testing.assert_close(flat_loss(e, f, div), flat_loss(e.mean()[None], f.mean()[None], div))


def naive_probability(model, ids, prompt):
    """One row, without padding, token by token."""
    with torch.no_grad():
        p = model(torch.tensor([ids])).logits[0].softmax(-1)
    chosen = [p[t - 1, ids[t]].item() for t in range(prompt, len(ids))]
    return sum(chosen) / len(chosen)


def test_mean_probability_is_of_the_answers_tokens_only():
    model = causal_lm(12, d_model=16, n_layers=1, n_heads=2, seed=3).eval()
    rows = [[1, 5, 6, 7, 8, 2], [1, 9, 2], [1, 4, 5, 6]]
    prompts = [2, 1, 4]
    found = mean_probability(model, Encoded(rows, prompts).batch([0, 1, 2], pad_id=0))
    for i in (0, 1):
        assert found[i].item() == pytest.approx(naive_probability(model, rows[i], prompts[i]), abs=1e-6)
    assert found[2] == 0  # it has no answer


@pytest.fixture
def task():
    pairs = [("who wrote it ?", "ann did"), ("who read it ?", "bob did")]
    tokenizer = word_tokenizer([" ".join(pair) for pair in pairs] + ["I do not know ."])
    model = causal_lm(len(tokenizer), d_model=32, n_layers=1, n_heads=2, seed=0)
    return model, prepare(tokenizer, pairs, refusals=["I do not know ."])


@each
def test_objective_is_the_loss_and_needs_forget_rows_only(div, task):
    model, data = task
    batch = data.batches(2)(0)
    terms = FLAT(div).loss(None, model, batch)
    expected = flat_loss(mean_probability(model, batch["refusal"]), mean_probability(model, batch["forget"]), div)
    torch.testing.assert_close(sum(terms.values()), expected)
    assert data.retain is None
    assert FLAT(div).init(model, data) is None


def test_training_swaps_the_answer_for_the_template(task):
    model, data = task
    batch = data.batches(2)(0)
    unlearn(model, _remember(), data, steps=40, lr=1e-2, progress=False)
    before = {name: mean_probability(model, batch[name]).mean().item() for name in ("forget", "refusal")}
    unlearn(model, FLAT("tv"), data, steps=60, lr=5e-3, progress=False)
    after = {name: mean_probability(model, batch[name]).mean().item() for name in ("forget", "refusal")}
    assert before["forget"] > 0.9
    assert after["forget"] < 0.1
    # The last token, the end, is common to both; the template's first tokens are what had to be learned.
    assert after["refusal"] > max(0.5, before["refusal"])


def _remember():
    from palimpsest.forget.baselines import GradAscent

    class Descent(GradAscent):
        def loss(self, state, model, batch):
            terms = super().loss(state, model, batch)
            return {name: -term for name, term in terms.items()}

    return Descent(retain="none")


def test_errors():
    with pytest.raises(ValueError, match="div must be one of kl, tv, js, pearson, got 'hellinger'"):
        flat_loss(row(0.5), row(0.5), "hellinger")
    with pytest.raises(ValueError, match="p_forget must hold probabilities"):
        flat_loss(row(0.5), row(-3.0))
    with pytest.raises(ValueError, match="p_template must be"):
        flat_loss(torch.tensor(0.5), row(0.5))


AUTHORS = {"kl": -0.20341469620859043, "tv": -0.1565275823327863, "js": -0.12875307157, "pearson": -0.37749999999999995}


@pytest.mark.parametrize(("div", "expected"), AUTHORS.items())
def test_the_authors_codes_value(div, expected):
    """get_contrastive_loss of dataloader.py (bf2ef07) at P_f = 0.3 and P_e = 0.7; its log 2 is in single precision."""
    p_template, p_forget = (torch.tensor(p, dtype=torch.float64) for p in ([0.6, 0.8], [0.2, 0.4]))
    assert flat_loss(p_template, p_forget, div).item() == pytest.approx(expected, abs=5e-9)
