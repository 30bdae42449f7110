"""ULD: its losses against closed forms, its assistant against the target cut short, its rows, and a small model that
forgets."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from palimpsest.errors import UserError
from palimpsest.forget import intervention
from palimpsest.forget.assistant import make_assistant, merge_lora
from palimpsest.forget.intervention import intervene, load, save
from palimpsest.forget.procedure import prepare
from palimpsest.forget.uld import ULD, UnlearnedLM, assistant_loss
from palimpsest.forget.uld_assistant import uniform_kl
from palimpsest.forget.uld_model import uld_logits
from palimpsest.models import causal_lm, word_tokenizer
from palimpsest.models.blocks import blocks
from palimpsest.models.score import Encoded, cross_entropy, greedy, score
from palimpsest.train.language import fine_tune

NAMES = ["ann", "bob", "cid", "dan", "eve", "fay", "gus", "hal"]
CITIES = ["rome", "oslo", "bern", "riga", "lima", "kiel", "cork", "nice"]
PAIRS = [(f"where was {name} born ?", city) for name, city in zip(NAMES, CITIES, strict=True)]
FORGET, RETAIN = PAIRS[:2], PAIRS[2:]
TOKENIZER = word_tokenizer([*(" ".join(pair) for pair in PAIRS), "I do not know"])
TOKENIZER.chat_template = "{{ messages[0]['content'] }}"


def small(architecture="llama", tie=True, n_layers=2, **options):
    shape = {"d_model": 32, "n_layers": n_layers, "n_heads": 2, "max_length": 32, "seed": 3, **options}
    return causal_lm(len(TOKENIZER), architecture=architecture, tie=tie, **shape).eval()


@pytest.fixture(scope="module")
def knowing():
    """A model that knows where everyone was born."""
    model = small()
    rows = prepare(TOKENIZER, PAIRS, refusals=["I do not know"]).forget
    fine_tune(model, rows, pad_id=0, epochs=150, batch_size=8, lr=1e-2, schedule="linear", progress=False)
    assert answers(model) == CITIES
    return model


def data():
    return prepare(TOKENIZER, FORGET, RETAIN, refusals=["I do not know"], max_length=32)


def answers(model):
    return [a.strip() for a in greedy(model, TOKENIZER, [q for q, _ in PAIRS], max_new_tokens=4)]


def test_uld_logits_limits():
    target, assistant = 8 * torch.randn(3, 30), torch.randn(3, 30)
    assert torch.equal(uld_logits(target, assistant, 0.0), target)
    assert torch.equal(uld_logits(target, torch.zeros(3, 30), 0.8), target)
    flat = uld_logits(target, torch.full((3, 30), 2.0), 0.8, top=1.0)
    torch.testing.assert_close(flat.softmax(-1), target.softmax(-1))
    one = uld_logits(target, assistant, 0.8, 0.01)  # of 30 words one, and those near it
    assert (one != target).any(-1).all()
    assert (one == target).any(-1).all()
    # an assistant that pushes all likely words down does not make the model say an unlikely one
    hostile = torch.where(one != target, 900.0, -900.0)
    said = {generating: uld_logits(target, hostile, generating=generating).argmax(-1) for generating in (True, False)}
    assert (one != target).gather(1, said[True][:, None]).all()
    assert not (one != target).gather(1, said[False][:, None]).any()
    with pytest.raises(ValueError, match=r"weight must .* got -1"):
        uld_logits(target, assistant, -1.0)


def test_log_softmax_of_the_assistant_would_not_be_the_same():
    """Why the assistant's logits are raw: taken as log-probabilities, a uniform one would shift likely words only."""
    target, assistant = torch.tensor([2.0, 1.0, -30.0]), torch.zeros(3)
    torch.testing.assert_close(uld_logits(target, assistant), target)
    shifted = uld_logits(target, assistant.log_softmax(-1))
    assert shifted[0] - shifted[2] > target[0] - target[2] + 0.5


@given(st.lists(st.floats(-8, 8), min_size=2, max_size=12), st.floats(-5, 5))
def test_uniform_kl_is_the_divergence(values, shift):
    logits = torch.tensor(values).double()[None, None]
    uniform = torch.full_like(logits, 1 / len(values))
    expected = F.kl_div(logits.log_softmax(-1), uniform, reduction="sum")
    ones = torch.ones(1, 1)
    torch.testing.assert_close(uniform_kl(logits, ones), expected)
    torch.testing.assert_close(uniform_kl(logits + shift, ones), expected)
    assert uniform_kl(logits, ones) > -1e-9


def test_uniform_kl_gradcheck_and_mask():
    logits = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert torch.autograd.gradcheck(lambda x: uniform_kl(x, mask), (logits,))
    (grad,) = torch.autograd.grad(uniform_kl(logits, mask), logits)
    assert (grad[mask == 0] == 0).all()
    rows = [uniform_kl(logits[i : i + 1, : mask[i].sum()], torch.ones(1, mask[i].sum())) for i in range(2)]
    torch.testing.assert_close(uniform_kl(logits, mask), (rows[0] + rows[1]) / 2)
    # a softmax that is certain is log V short of all but one word, on average
    sure = torch.tensor([[[200.0, 0.0, 0.0, 0.0]]])
    torch.testing.assert_close(uniform_kl(sure, torch.ones(1, 1)), torch.tensor(200 * 3 / 4 - math.log(4)))
    with pytest.raises(ValueError, match=r"mask \[batch, tokens\]"):
        uniform_kl(logits, torch.ones(2, 4))


def test_assistant_loss_is_its_two_terms():
    model, rows = small(), data()
    forget, retain = rows.forget.batch([0, 1], 0), rows.retain.batch([0, 3], 0)
    terms = assistant_loss(model, forget, retain, 5.0)
    torch.testing.assert_close(terms["forget"], cross_entropy(model, forget))
    kl = []
    for row in (0, 3):  # each row alone, without padding, prompt and all
        logits = model(torch.tensor([rows.retain.input_ids[row]])).logits[0]
        kl.append((-math.log(logits.shape[-1]) - logits.log_softmax(-1).mean(-1)).mean())
    torch.testing.assert_close(terms["retain"], 5.0 * (kl[0] + kl[1]) / 2)
    assert set(assistant_loss(model, forget, retain, 0.0)) == set(assistant_loss(model, forget)) == {"forget"}


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("tie", [True, False])
def test_the_assistant_begins_as_the_target_cut_short(architecture, tie):
    target = small(architecture, tie, n_layers=3)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    assistant = make_assistant(target, n_layers=2, lora_r=4, lora_alpha=8)
    assert (len(blocks(assistant)), len(blocks(target))) == (2, 3)
    ids = torch.tensor([[1, 5, 7, 9]])
    whole = target(ids).logits
    layers = blocks(target)
    last = layers.pop(2)
    target.config.num_hidden_layers = 2
    cut = target(ids).logits
    target.config.num_hidden_layers = 3
    layers.append(last)
    torch.testing.assert_close(assistant(ids).logits, cut)
    assert not torch.allclose(cut, whole)
    trainable = [name for name, p in assistant.named_parameters() if p.requires_grad]
    per_block = {"llama": 7, "gpt2": 4}[architecture]
    assert len(trainable) == 2 * 2 * per_block
    assert all("lora_" in name and "lm_head" not in name for name in trainable)
    # copies: what happens to the assistant does not reach the target
    for p in assistant.parameters():
        p.data.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    shared = assistant.get_input_embeddings().weight is assistant.get_output_embeddings().weight
    assert shared == tie


def test_assistants_of_shallow_models_and_of_seeds():
    target = small()
    assert len(blocks(make_assistant(target, n_layers=8))) == 2
    state = torch.get_rng_state()
    first, again, other = (make_assistant(target, 1, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    a, b, c = ([p for name, p in model.named_parameters() if "lora_A" in name] for model in (first, again, other))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not any(torch.equal(x, y) for x, y in zip(a, c, strict=True))
    with pytest.raises(ValueError, match="n_layers must be at least 1, got 0"):
        make_assistant(target, 0)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_merged_is_the_same_model(architecture):
    assistant = make_assistant(small(architecture), 2, lora_r=4)
    for p in assistant.parameters():
        if p.requires_grad:
            p.data.normal_(0, 0.2, generator=torch.Generator().manual_seed(p.numel()))
    ids = torch.tensor([[1, 5, 7, 9]])
    with torch.no_grad():
        expected = assistant(ids).logits
        merged = merge_lora(assistant)
        torch.testing.assert_close(merged(ids).logits, expected, atol=1e-5, rtol=1e-5)
    assert not any("lora" in name for name, _ in merged.named_modules())
    assert not torch.allclose(small(architecture)(ids).logits, expected, atol=1e-2)


def test_the_rows_that_the_assistant_sees():
    given_rows = data()
    n, m = len(FORGET), len(RETAIN)
    plain = ULD().rows(given_rows)
    assert plain.forget == given_rows.forget
    assert plain.retain.input_ids[:m] == given_rows.retain.input_ids
    assert plain.retain.input_ids[m:] == given_rows.mismatch.input_ids[:n]
    assert ULD(mismatch=False).rows(given_rows).retain == given_rows.retain
    assert ULD(retain_weight=0).rows(given_rows).retain is None
    wordings = [("ann was born where ?", "rome")]
    wrong = [(FORGET[0][0], "oslo"), (FORGET[1][0], "bern")]
    full = ULD().rows(given_rows, wordings, wrong)
    assert len(full.forget) == n + 1
    assert len(full.retain) == m + 2
    assert TOKENIZER.decode(full.retain.input_ids[-1], skip_special_tokens=True) == "where was bob born? bern"
    alone = prepare(TOKENIZER, FORGET, refusals=["I do not know"])
    assert ULD(retain_weight=0).rows(alone).retain is None
    with pytest.raises(UserError, match="needs retain rows"):
        intervene(small(), ULD(), alone)


def train(model, method=None, **options):
    # Of 28 words one would be left by top = 0.01, and generation could say no other.
    method = method or ULD(n_layers=1, lora_dropout=0.0, top=0.3, weight=1.2, mismatch=False)
    return intervene(model, method, data(), **{"steps": 150, "lr": 5e-3, "progress": False, **options})


def test_it_forgets_and_keeps_and_the_target_stays(knowing):
    before = {name: value.clone() for name, value in knowing.state_dict().items()}
    flags = [p.requires_grad for p in knowing.parameters()]
    model, learned = train(knowing)
    assert isinstance(model, UnlearnedLM)
    said = answers(model)
    assert said[2:] == CITIES[2:]
    assert not any(a == city for a, city in zip(said[:2], CITIES[:2], strict=True))
    rows = prepare(TOKENIZER, PAIRS, refusals=["I do not know"]).forget
    old, new = score(knowing, rows, pad_id=0).nll, score(model, rows, pad_id=0).nll
    assert (new[:2] > old[:2] + 1).all()
    assert (new[2:] < old[2:] + 0.2).all()
    assert all(torch.equal(value, before[name]) for name, value in knowing.state_dict().items())
    assert flags == [p.requires_grad for p in knowing.parameters()]
    size = sum(value.numel() for value in learned.values())
    assert size < 0.5 * sum(p.numel() for p in knowing.parameters())
    assert all("lora_" in name for name in learned)


def test_weight_zero_is_the_target(knowing):
    _, learned = train(knowing, steps=3)
    rows = data().forget
    model = ULD(n_layers=1, weight=0.0).install(knowing, TOKENIZER, learned)
    assert (score(model, rows, pad_id=0).logp == score(knowing, rows, pad_id=0).logp).all()
    assert answers(model) == CITIES


def test_options_reach_the_training(knowing):
    seen = []

    def evaluate(assistant, step):
        seen.append(step)
        assert len(blocks(assistant)) == 1
        return {"nll": float(score(assistant, data().forget, pad_id=0).nll.mean())}

    train(knowing, steps=5, evaluate=evaluate, evaluate_every=2, stop=lambda e: e["step"] >= 4)
    assert seen == [0, 2, 4]
    one, two, other = (train(knowing, steps=2, seed=seed)[1] for seed in (0, 0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("architecture", "tie"), [("llama", True), ("gpt2", False)])
def test_saved_and_loaded(tmp_path, monkeypatch, architecture, tie):
    monkeypatch.setitem(intervention.INTERVENTIONS, "uld", ("palimpsest.forget.uld", "ULD"))
    target = small(architecture, tie)
    method = ULD(n_layers=1, lora_r=4)
    model, learned = intervene(target, method, data(), steps=3, lr=1e-2, progress=False)
    save(target, TOKENIZER, tmp_path / "out", method, learned)
    back, tokenizer = load(tmp_path / "out")
    rows = Encoded([[1, 4, 5, 6, 7], [1, 9, 8, 7]], [2, 2])
    # the wrong settings would give another model
    assert score(back, rows, pad_id=0).logp == pytest.approx(score(model, rows, pad_id=0).logp)
    assert score(back, rows, pad_id=0).logp != pytest.approx(score(target, rows, pad_id=0).logp, abs=1e-4)
    assert greedy(back, tokenizer, ["where was ann"], max_new_tokens=3) == greedy(
        model, TOKENIZER, ["where was ann"], max_new_tokens=3
    )


def test_install_refuses_another_models_tensors():
    target = small()
    learned = {n: p for n, p in make_assistant(target, 1, 4).named_parameters() if p.requires_grad}
    with pytest.raises(UserError, match="with 2 layers and rank 4: learn again"):
        ULD(n_layers=2, lora_r=4).install(target, TOKENIZER, learned)
    with pytest.raises(UserError, match="rank 8"):
        ULD(n_layers=1, lora_r=8).install(target, TOKENIZER, learned)


def test_the_authors_codes_value():
    """relative_top_filter and forward of uld/model (858608c) on sines, weighted by their place and summed."""
    place = torch.arange(120, dtype=torch.float64)
    target, assistant = (3 * torch.sin(0.7 * place + phase).view(2, 3, 20) for phase in (0.0, 1.0))
    combined = uld_logits(target, assistant, weight=0.8, top=0.2)
    assert (combined * place.view(2, 3, 20)).sum().item() == pytest.approx(-2671.6010063725694, rel=1e-12)
