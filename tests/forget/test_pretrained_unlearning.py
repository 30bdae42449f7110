"""The seven methods are what their names say, the proxy's target is a perplexity, and width and bisection are right."""

import math
from copy import deepcopy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.forget.baselines import GradAscent
from palimpsest.forget.pretrained_unlearning import (
    METHODS,
    AdversarialLabel,
    RandomTokens,
    perplexity,
    seven_methods,
    tune,
)
from palimpsest.forget.pretrained_unlearning_measures import approximate_gold, report, robustness
from palimpsest.forget.procedure import ForgetData, unlearn
from palimpsest.models import causal_lm
from palimpsest.models.score import IGNORED, Encoded, runners_up

VOCABULARY = 20


@pytest.fixture
def model():
    return causal_lm(VOCABULARY, d_model=16, n_layers=1, n_heads=2, seed=1).eval()


def rows(seed, n=6, length=8):
    generator = torch.Generator().manual_seed(seed)
    return Encoded(torch.randint(4, VOCABULARY, (n, length), generator=generator).tolist(), [1] * n)


DATA = ForgetData(forget=rows(0), retain=rows(1))
BATCH = DATA.batches(6)(0)


def logits_of(model, batch):
    with torch.no_grad():
        return model(batch["input_ids"]).logits[:, :-1], batch["labels"][:, 1:]


def test_runners_up_are_the_argmax_without_the_true_token(model):
    batch = Encoded([[5, 6, 7, 8], [9, 4]], [2, 1]).batch([0, 1], pad_id=0)
    labels = runners_up(model, batch)
    logits, true = logits_of(model, batch)
    for row in range(2):
        for t in range(3):
            if true[row, t] == IGNORED:
                assert labels[row, t + 1] == IGNORED
            else:
                order = logits[row, t].argsort(descending=True).tolist()
                order.remove(int(true[row, t]))
                assert labels[row, t + 1] == order[0]
    assert labels[:, 0].tolist() == [IGNORED, IGNORED]


def test_adversarial_label_is_ce_against_the_runner_up(model):
    method = AdversarialLabel(retain="none")
    logits, _ = logits_of(model, BATCH["forget"])
    target = runners_up(model, BATCH["forget"])[:, 1:]
    nll = -logits.log_softmax(-1).gather(2, target[..., None]).mean()
    terms = method.loss(None, model, BATCH)
    assert set(terms) == {"adversarial"}
    assert terms["adversarial"].item() == pytest.approx(nll.item(), rel=1e-5)


def test_random_label_averages_to_the_uniform_cross_entropy(model):
    """E[-log p(v)], v uniform over the vocabulary, is the mean over it of -log p."""
    logits, _ = logits_of(model, BATCH["forget"])
    expected = -logits.log_softmax(-1).mean().item()
    torch.manual_seed(0)
    drawn = [RandomTokens(retain="none").loss(None, model, BATCH)["random"].item() for _ in range(300)]
    assert sum(drawn) / len(drawn) == pytest.approx(expected, abs=0.05)
    assert len(set(drawn)) > 250  # drawn anew at each step


def test_seven_names_seven_methods():
    assert len(METHODS) == 7
    built = {name: seven_methods(name, alpha=0.5) for name in METHODS}
    assert built["grad_ascent"] == GradAscent(retain="none", retain_weight=0.5)
    assert built["ga+gd_in"] == built["ga+gd_general"] == GradAscent(retain="ce", retain_weight=0.5)
    assert built["ga+kl_in"] == GradAscent(retain="kl", retain_weight=0.5)
    assert not built["random_label"].needs
    with pytest.raises(ValueError, match="got 'ga'"):
        seven_methods("ga")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_raises_the_forget_perplexity(name, model):
    from palimpsest.train.language import fine_tune

    everything = Encoded(DATA.forget.input_ids + DATA.retain.input_ids, [1] * 12)
    fine_tune(model, everything, pad_id=0, epochs=60, lr=1e-2, progress=False)
    before = perplexity(model, DATA.forget, pad_id=0)
    unlearn(model, seven_methods(name), DATA, steps=10, lr=3e-3, batch_size=6, progress=False)
    assert perplexity(model, DATA.forget, pad_id=0) > 1.2 * before


def test_perplexity_is_over_tokens_and_uniform_models_have_the_vocabularys(model):
    short_and_long = Encoded([[5, 6], [5, 6, 7, 8, 9]], [1, 1])
    with torch.no_grad():
        total = sum(
            -model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None]).sum()
            for ids in short_and_long.input_ids
        )
        assert perplexity(model, short_and_long, pad_id=0) == pytest.approx(math.exp(total / 5), rel=1e-5)
        model.get_output_embeddings().weight.zero_()
    assert perplexity(model, short_and_long, pad_id=0) == pytest.approx(VOCABULARY, rel=1e-5)
    assert approximate_gold(model, rows(3), pad_id=0) == pytest.approx(VOCABULARY, rel=1e-5)


def test_report(model):
    found = report(model, 10.0, rows(0), rows(0), rows(1), texts=["a"] * 6, approximate_texts=["a"] * 6, pad_id=0)
    assert found["membership AUC"] == 0.5  # the same rows cannot be told apart
    assert found["gap"] == pytest.approx(abs(found["forget perplexity"] - 10))
    assert found["relative gap"] == pytest.approx(found["gap"] / 10)


@given(st.lists(st.floats(0.81, 1.19), min_size=2, max_size=6))
def test_width_is_the_whole_range_where_all_is_well_and_0_where_nothing_is(ratios):
    curve = [(10.0**-i, ratio, 1.05) for i, ratio in enumerate(ratios)]
    assert robustness(curve) == pytest.approx(len(ratios) - 1, rel=1e-3)
    assert robustness([(rate, ratio + 0.5, growth) for rate, ratio, growth in curve]) == 0
    assert robustness([(rate, ratio, growth + 0.1) for rate, ratio, growth in curve]) == 0


def test_width_counts_the_crossing_between_two_rates_and_survives_collapse():
    """From half to twice the target in two decades, log-linearly: log(1.2 / 0.8) / log(4) of them are within 20%."""
    share = math.log(1.2 / 0.8) / math.log(4)
    assert robustness([(1e-4, 0.5, 1.0), (1e-2, 2.0, 1.0)]) == pytest.approx(2 * share, rel=1e-2)
    assert robustness([(1e-4, 1.0, 1.0), (1e-3, 1.1, 1.0), (1e-2, math.inf, math.inf)]) == pytest.approx(1.0, abs=0.01)
    for bad in ([(1e-3, 1, 1)], [(1e-3, 1, 1), (1e-3, 1, 1)], [(0.0, 1, 1), (1.0, 1, 1)], [(0.1, 1, 1), (1, -1, 1)]):
        with pytest.raises(ValueError, match="need positive numbers"):
            robustness(bad)


def test_bisection_finds_the_step_that_a_step_by_step_run_finds(model):
    options = {"lr": 1e-3, "batch_size": 6, "seed": 4, "optimizer": "sgd", "progress": False}
    options["lr"] = 0.1
    method = seven_methods("grad_ascent")
    trace = [perplexity(model, DATA.forget, pad_id=0)]
    for steps in range(1, 17):
        copy = deepcopy(model)
        unlearn(copy, method, DATA, steps=steps, **options)
        trace.append(perplexity(copy, DATA.forget, pad_id=0))
    assert trace == sorted(trace)
    target = (trace[5] * trace[6]) ** 0.5 * 1.0001
    before = {name: p.clone() for name, p in model.named_parameters()}
    found, steps = tune(model, method, DATA, target, max_steps=16, **options)
    assert steps == 6
    assert perplexity(found, DATA.forget, pad_id=0) == trace[6]
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert tune(model, method, DATA, trace[0] / 2, max_steps=16, **options)[1] == 0
    assert tune(model, method, DATA, 1e9, max_steps=8, **options)[1] == 8


def test_ascent_with_a_retain_term_is_that_of_the_authors_code():
    """yaojin17/Unlearning_LLM at d4b1287, whose mean over both halves of a batch is half of the sum of ours."""
    model = causal_lm(VOCABULARY, d_model=16, n_layers=2, n_heads=2, seed=1).double().eval()
    forget = Encoded([[1, 12, 18, 11, 17], [1, 10, 19, 8, 8, 19, 5, 7], [1, 4, 17, 15, 9, 3, 7, 18]], [0] * 3)
    retain = Encoded([[1, 11, 9, 8, 11, 6, 17, 18], [1, 7, 8, 8, 8], [1, 19, 9, 10, 12]], [0] * 3)
    batch = {"forget": forget.batch(range(3), 0), "retain": retain.batch(range(3), 0)}
    terms = seven_methods("ga+gd_in").loss(None, model, batch)
    assert sum(terms.values()).item() / 2 == pytest.approx(-0.0162921, abs=1e-7)
