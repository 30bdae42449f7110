"""Booster's gradient against a separate expression with copied models, its limits, its baselines, and the attack."""

from copy import deepcopy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel

from palimpsest.forget.alignment import Alignment, RepNoise, Vaccine, global_norm, mmd, vaccine_loss
from palimpsest.forget.booster import Booster, attenuation, booster_step, stepped
from palimpsest.forget.booster_measures import attack, finetune_accuracy, harmful_score, mixed
from palimpsest.forget.procedure import ForgetData, encode_pairs, unlearn
from palimpsest.models import causal_lm, word_tokenizer
from palimpsest.models.score import Encoded, cross_entropy
from palimpsest.train import fit
from palimpsest.train.language import fine_tune

ALIGN = Encoded([[1, 5, 6, 9, 2], [1, 7, 6, 10, 11, 2], [1, 8, 6, 9, 2]], [3, 3, 3])
HARM = Encoded([[1, 5, 6, 12, 13, 2], [1, 7, 6, 14, 2], [1, 8, 6, 15, 2]], [3, 3, 3])
ALIGN_BATCH, HARM_BATCH = ALIGN.batch([0, 1, 2], 0), HARM.batch([0, 1, 2], 0)


def small(seed=0, **options):
    return causal_lm(20, d_model=16, n_layers=2, n_heads=2, seed=seed, **options)


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def gradient(model, loss):
    """By backward on a copy, so that nothing is shared with what is tested."""
    copy = deepcopy(model)
    copy.zero_grad()
    loss(copy).backward()
    return [p.grad.clone() for p in copy.parameters()]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_gradient_and_value_are_those_of_copied_models(architecture):
    model, alpha, lam = small(architecture=architecture).double(), 0.3, 4.0
    before = weights(model)
    terms = booster_step(model, ALIGN_BATCH, HARM_BATCH, alpha, lam)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    assert all(p.grad is None for p in model.parameters()), "gradients arrive in the caller's backward only"
    sum(terms.values()).backward()

    g = gradient(model, lambda m: cross_entropy(m, HARM_BATCH))
    norm = sum(float((x**2).sum()) for x in g) ** 0.5
    moved = deepcopy(model)
    moved.load_state_dict({k: v.clone() for k, v in model.state_dict().items()})
    with torch.no_grad():
        for p, x in zip(moved.parameters(), g, strict=True):
            p -= alpha / norm * x
    there = gradient(moved, lambda m: cross_entropy(m, HARM_BATCH))
    f = gradient(model, lambda m: cross_entropy(m, ALIGN_BATCH))
    for p, a, b, c in zip(model.parameters(), f, g, there, strict=True):
        torch.testing.assert_close(p.grad, a + lam * (b - c))
    gain = cross_entropy(model, HARM_BATCH) - cross_entropy(moved, HARM_BATCH)
    assert gain > 0, "a step down the gradient lowers h"
    torch.testing.assert_close(terms["harm"], lam * gain)
    torch.testing.assert_close(terms["alignment"], cross_entropy(model, ALIGN_BATCH))


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=4), st.floats(0.01, 2), st.floats(0.5, 3))
def test_quadratic_closed_form(point, alpha, curvature):
    """h = c |w|^2 / 2: w' = (1 - alpha / |w|) w, the gain c alpha (|w| - alpha / 2), the gradient c alpha w / |w|."""
    w = torch.tensor(point, dtype=torch.float64, requires_grad=True)
    length = w.detach().norm()
    if length < 0.1:
        return
    gain = attenuation([w], lambda: curvature * w.square().sum() / 2, alpha)
    torch.testing.assert_close(gain, curvature * alpha * (length - alpha / 2))
    torch.testing.assert_close(torch.autograd.grad(gain, w)[0], curvature * alpha * w.detach() / length)


def test_for_a_linear_harm_nothing_is_left_to_attenuate_but_the_value():
    w = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    direction = torch.tensor([3.0, 4.0], dtype=torch.float64)
    gain = attenuation([w], lambda: w @ direction, 0.2)
    torch.testing.assert_close(gain.item(), 0.2 * 5.0)
    assert torch.autograd.grad(gain, w)[0].abs().max() == 0


def test_small_steps_give_the_gradient_of_the_gradients_norm_in_the_limit():
    """(grad h(w) - grad h(w')) / alpha -> H g / |g| = grad |g|, by double backward (Llama's norms are float32)."""
    model = small(architecture="gpt2").double()
    parameters = list(model.parameters())
    with sdpa_kernel(SDPBackend.MATH):  # the only one that can be differentiated twice
        g = torch.autograd.grad(cross_entropy(model, HARM_BATCH), parameters, create_graph=True)
    exact = torch.autograd.grad(torch.sqrt(sum(x.square().sum() for x in g)), parameters)
    found = torch.autograd.grad(attenuation(parameters, lambda: cross_entropy(model, HARM_BATCH), 1e-7), parameters)
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a / 1e-7, b, atol=1e-4, rtol=1e-3)


def test_the_step_is_normalised_over_all_weights():
    a, b = (torch.zeros(1, dtype=torch.float64) for _ in range(2))
    with stepped([a, b], [torch.tensor([3.0]).double(), torch.tensor([4.0]).double()], 10.0):
        torch.testing.assert_close((a.item(), b.item()), (-6.0, -8.0))
    assert a == b == 0


def test_weights_come_back_bit_by_bit_even_after_an_error():
    model = small(seed=3)
    before = weights(model)
    parameters = list(model.parameters())
    direction = [torch.randn_like(p) for p in parameters]
    moved = []

    def breaks():
        with stepped(parameters, direction, 3.7):
            moved.append(not torch.equal(parameters[0], before[0]))
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        breaks()
    assert moved == [True]
    assert all(torch.equal(p, old) for p, old in zip(parameters, before, strict=True))


def test_without_a_gradient_there_is_no_step():
    w = torch.ones(3, requires_grad=True)
    gain = attenuation([w], lambda: (w * 0).sum() + 2.0, 0.5)
    assert gain == 0
    assert torch.autograd.grad(gain, w)[0].abs().sum() == 0


def test_autocast_does_not_see_stale_weights():
    model = small(seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        terms = booster_step(model, ALIGN_BATCH, HARM_BATCH, alpha=0.2, lam=1.0)
    exact = booster_step(model, ALIGN_BATCH, HARM_BATCH, alpha=0.2, lam=1.0)
    assert exact["harm"] > 0.05
    torch.testing.assert_close(terms["harm"], exact["harm"], rtol=0.2, atol=0.02)


def test_only_trained_weights_are_stepped_and_counted():
    model = small().double()
    chosen = [p for name, p in model.named_parameters() if "layers.1.mlp" in name]
    model.requires_grad_(False)
    for p in chosen:
        p.requires_grad_(True)
    g = torch.autograd.grad(cross_entropy(model, HARM_BATCH), chosen)
    h = cross_entropy(model, HARM_BATCH)
    moved = deepcopy(model)
    with torch.no_grad():
        for p, x in zip([p for p in moved.parameters() if p.requires_grad], g, strict=True):
            p -= 0.5 * x / global_norm(g)
    gain = attenuation(list(model.parameters()), lambda: cross_entropy(model, HARM_BATCH), 0.5)
    torch.testing.assert_close(gain, h - cross_entropy(moved, HARM_BATCH))
    gain.backward()
    assert [p for p in model.parameters() if p.grad is not None and p.grad.abs().sum() > 0] == chosen


def test_one_step_of_fit_by_sgd_is_the_papers_update():
    model = small().double()
    terms = booster_step(model, ALIGN_BATCH, HARM_BATCH, 0.2, 3.0)
    wanted = [
        p.detach() - 0.1 * g
        for p, g in zip(
            model.parameters(), torch.autograd.grad(sum(terms.values()), list(model.parameters())), strict=True
        )
    ]
    batch = {"forget": HARM_BATCH, "retain": ALIGN_BATCH}
    history = fit(
        model, Booster(alpha=0.2, lam=3.0), lambda step: batch, steps=1, lr=0.1, optimizer="sgd", progress=False
    )
    for p, w in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.detach(), w)
    torch.testing.assert_close(history.steps[0]["harm"], terms["harm"].item())


def test_lam_0_is_alignment_alone():
    runs = []
    for objective in (Booster(lam=0.0), Vaccine(rho=0.0), RepNoise(alpha=0.0, beta=0.0), Alignment()):
        model = small()
        unlearn(model, objective, ForgetData(HARM, ALIGN), steps=3, lr=1e-2, optimizer="sgd", progress=False)
        runs.append(weights(model))
    for run in runs[:-1]:
        for found, wanted in zip(run, runs[-1], strict=True):
            torch.testing.assert_close(found, wanted)


def test_training_shrinks_what_a_harmful_step_gains():
    gains = {}
    for name, objective in (("sft", Alignment()), ("booster", Booster(alpha=0.1, lam=20.0))):
        model = small()
        unlearn(model, objective, ForgetData(HARM, ALIGN), steps=60, lr=3e-3, clip=1.0, progress=False)
        parameters = list(model.parameters())
        gains[name] = attenuation(parameters, lambda m=model: cross_entropy(m, HARM_BATCH), 0.1).item()
    assert gains["sft"] > 0
    assert gains["booster"] < 0.5 * gains["sft"]  # nothing stops it at 0: such a step may come to raise h


def naive_vaccine(model, batch, rho):
    """GPT-2's blocks, one after another, with an explicit shift behind each attention."""
    inner = model.transformer
    length = batch["input_ids"].shape[1]

    def run(shifts):
        h = inner.wte(batch["input_ids"]) + inner.wpe(torch.arange(length))
        states = []
        mask = torch.full((length, length), -1e9, dtype=h.dtype).triu(1)[None, None]
        for block, shift in zip(inner.h, shifts, strict=True):
            put_out = block.attn(block.ln_1(h), attention_mask=mask)[0] + shift
            states.append(put_out)
            h = h + put_out
            h = h + block.mlp(block.ln_2(h))
        logp = model.lm_head(inner.ln_f(h)).log_softmax(-1)
        rows = []
        for b, labels in enumerate(batch["labels"]):
            at = [t for t in range(1, length) if labels[t] != -100]
            rows.append(-sum(logp[b, t - 1, labels[t]] for t in at) / len(at))
        return sum(rows) / len(rows), states

    loss, states = run([0.0] * len(inner.h))
    g = torch.autograd.grad(loss, states)
    norm = sum(float((x**2).sum()) for x in g) ** 0.5
    return run([rho * x / norm for x in g])[0]


def test_vaccine_is_the_shift_written_out():
    model = small(architecture="gpt2").double().eval()
    wanted = naive_vaccine(model, ALIGN_BATCH, 0.7)
    found = vaccine_loss(model, ALIGN_BATCH, 0.7)
    torch.testing.assert_close(found, wanted)
    for a, b in zip(
        torch.autograd.grad(found, list(model.parameters())),
        torch.autograd.grad(wanted, list(model.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    assert found > cross_entropy(model, ALIGN_BATCH) + 1e-3, "the shift is an ascent"
    assert not any(module._forward_hooks for module in model.modules())


def test_mmd():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(40, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    pooled = torch.cat([x, y])
    width = sum(float((a - b).square().sum()) for a in pooled for b in pooled) / (80 * 79)

    def k(a, b):
        return sum(float(torch.exp(-(a - b).square().sum() / (s * width))) for s in (0.25, 0.5, 1, 2, 4))

    def mean(a, b):
        return sum(k(p, q) for p in a for q in b) / (len(a) * len(b))

    torch.testing.assert_close(mmd(x, y).item(), mean(x, x) + mean(y, y) - 2 * mean(x, y))
    assert 0 <= mmd(x, y) < 0.2 < mmd(x, y + 2)
    torch.testing.assert_close(mmd(x, y + 1), mmd(y + 1, x))
    torch.testing.assert_close(mmd(3 * x, 3 * y), mmd(x, y))  # the width follows the data


def test_repnoise_terms():
    model = small().double()
    batch = {"forget": HARM_BATCH, "retain": ALIGN_BATCH}
    torch.manual_seed(0)
    terms = RepNoise(alpha=0.5, beta=2.0).loss(None, model, batch)
    torch.testing.assert_close(terms["ascent"], -0.5 * cross_entropy(model, HARM_BATCH).log())
    states = model(
        HARM_BATCH["input_ids"], attention_mask=HARM_BATCH["attention_mask"], output_hidden_states=True
    ).hidden_states
    answer = HARM_BATCH["labels"] != -100
    torch.manual_seed(0)
    first = states[1][answer]  # of the last block transformers gives the normalised state only
    noise = mmd(first, torch.randn_like(first))
    with torch.no_grad():
        last = []
        handle = model.model.layers[-1].register_forward_hook(lambda m, i, o: last.append(o))
        model(HARM_BATCH["input_ids"], attention_mask=HARM_BATCH["attention_mask"])
        handle.remove()
    state = (last[0][0] if isinstance(last[0], tuple) else last[0])[answer]
    noise = (noise + mmd(state, torch.randn_like(state))) / 2
    torch.testing.assert_close(terms["noise"], 2.0 * noise)


def test_mixed_draws_the_share_without_repeats():
    task = Encoded([[1, 4, 100 + i] for i in range(30)], [2] * 30)
    harm = Encoded([[1, 4, 500 + i] for i in range(10)], [2] * 10)
    rows = mixed(task, harm, harm_ratio=0.25, n=20, seed=1)
    assert sum(ids[-1] >= 500 for ids in rows.input_ids) == 5
    assert len({tuple(ids) for ids in rows.input_ids}) == len(rows) == 20
    assert rows == mixed(task, harm, harm_ratio=0.25, n=20, seed=1) != mixed(task, harm, harm_ratio=0.25, n=20, seed=2)
    assert all(ids[-1] < 500 for ids in mixed(task, harm, harm_ratio=0, n=30).input_ids)
    with pytest.raises(ValueError, match="12 harmful rows are to be drawn, and there are 10"):
        mixed(task, harm, harm_ratio=0.4, n=30)
    with pytest.raises(ValueError, match="31 task rows are to be drawn, and there are 30"):
        mixed(task, harm, harm_ratio=0, n=31)
    with pytest.raises(ValueError, match="harm_ratio"):
        mixed(task, harm, harm_ratio=1.5, n=3)


def test_an_attack_breaks_a_copy_and_the_measures_see_it():
    tokenizer = word_tokenizer(["how", "a", "b", "c", "no", "bad", "task", "x", "y"])
    tokenizer.chat_template = "{{ messages[0]['content'] }}"

    def rows(pairs):
        return encode_pairs(tokenizer, pairs, max_length=16)

    asked = ["how a", "how b", "how c"]
    user = [("task x", "y x"), ("task y", "y x")]
    model = causal_lm(len(tokenizer), d_model=32, n_layers=1, n_heads=2)
    fine_tune(model, rows([(q, "no") for q in asked]), pad_id=0, epochs=60, lr=1e-2, progress=False)
    before = weights(model)

    def judge(text):
        return "bad" in text

    assert harmful_score(model, tokenizer, asked, judge) == 0.0
    assert finetune_accuracy(model, tokenizer, user) == 0.0
    assert finetune_accuracy(model, tokenizer, [(asked[0], "no"), (asked[1], "bad")]) == 0.5
    shape = {"pad_id": 0, "n": 4, "epochs": 60, "lr": 1e-2, "batch_size": 4, "progress": False}
    attacked, history = attack(model, rows(user), rows([(q, "bad") for q in asked[:2]]), harm_ratio=0.5, **shape)
    assert len(history.steps) == 60
    assert harmful_score(attacked, tokenizer, asked[:2], judge) == 1.0
    assert finetune_accuracy(attacked, tokenizer, user) == 1.0
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    with pytest.raises(ValueError, match="no prompts"):
        harmful_score(model, tokenizer, [], judge)
    with pytest.raises(ValueError, match="epochs must be above 0, got 0"):
        attack(model, rows(user), rows(user), harm_ratio=0.5, **{**shape, "epochs": 0})


def test_errors():
    w = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="alpha must be above 0, got 0"):
        attenuation([w], lambda: w.sum(), 0)
    with pytest.raises(ValueError, match="requires grad"):
        attenuation([w.detach()], lambda: w.sum())


def test_the_gradients_are_those_of_the_authors_code():
    """git-disl/Booster at 6421918, which has Vaccine's steps too: norms of the gradients, and Vaccine's loss."""
    harm = Encoded(
        [[1, 5, 12, 18, 11, 17, 10, 10], [1, 19, 8, 8, 19, 5, 7, 9], [1, 4, 17, 15, 9, 3, 7, 18]], [3] * 3
    ).batch([0, 1, 2], 0)
    align = Encoded(
        [[1, 4, 11, 9, 8, 11, 6, 17], [1, 18, 3, 7, 8, 8, 8, 12], [1, 19, 9, 10, 12, 8, 10, 6]], [3] * 3
    ).batch([0, 1, 2], 0)
    model = causal_lm(20, d_model=16, n_layers=2, n_heads=2, seed=1).double().eval()
    parameters = list(model.parameters())
    terms = booster_step(model, align, harm, alpha=0.1, lam=5.0)
    found = global_norm(torch.autograd.grad(sum(terms.values()), parameters))
    assert found.item() == pytest.approx(3.0084213, rel=1e-6)
    loss = vaccine_loss(model, align, rho=0.7)
    assert loss.item() == pytest.approx(3.2204523, rel=1e-6)
    assert global_norm(torch.autograd.grad(loss, parameters)).item() == pytest.approx(1.1844380, rel=1e-6)
