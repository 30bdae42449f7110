import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.errors import UserError
from palimpsest.forget import intervention
from palimpsest.forget.intervention import intervene
from palimpsest.forget.key_space import KeyGuardedLM, KeySpace, prompt_keys
from palimpsest.forget.mirrored_neurons import adjusted, probe
from palimpsest.forget.procedure import prepare
from palimpsest.forget.skill_unlearning import KeySpaceDetection, NeuronAdjust
from palimpsest.models import causal_lm, word_tokenizer
from palimpsest.models.blocks import blocks, mlp_activation, mlp_output
from palimpsest.models.hooks import capture
from palimpsest.models.score import Encoded, greedy, score

FORGET = [(f"sum {a} {b} is", f" {c}") for a, b, c in (("one", "two", "three"), ("two", "two", "four"))]
RETAIN = [("who wrote it", " ann"), ("who read it then", " bob"), ("who has it", " ann")]
TOKENIZER = word_tokenizer([*(text for pair in FORGET + RETAIN for text in pair), "I don't know."])
DATA = prepare(TOKENIZER, FORGET, RETAIN)


def lm(architecture="llama", seed=2):
    return causal_lm(len(TOKENIZER), d_model=16, n_layers=2, n_heads=2, architecture=architecture, seed=seed).eval()


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_probe_is_the_mean_and_deviation_of_each_neuron(architecture):
    model = lm(architecture)
    mean, std = probe(model, DATA.retain, pad_id=0, batch_size=2)
    seen: list[list[torch.Tensor]] = [[], []]
    for ids in DATA.retain.input_ids:  # one row at a time: no padding
        with (
            torch.no_grad(),
            capture({"0": mlp_activation(blocks(model)[0]), "1": mlp_activation(blocks(model)[1])}, "input") as z,
        ):
            model(input_ids=torch.tensor([ids]))
        for layer in (0, 1):
            seen[layer].append(z[str(layer)][0])
    naive = torch.cat([torch.cat(rows) for rows in seen], dim=-1).double()
    torch.testing.assert_close(mean, naive.mean(0), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(std, naive.std(0, correction=0), atol=1e-5, rtol=1e-4)


@given(
    z=st.floats(-5, 5),
    mu_f=st.floats(-3, 3),
    mu_r=st.floats(-3, 3),
    s_f=st.floats(0.1, 2),
    s_r=st.floats(0.1, 2),
    u=st.floats(0, 1, exclude_max=True),
)
def test_adjusted_is_the_formula_of_the_paper(z, mu_f, mu_r, s_f, s_r, u):
    def density(x, mu, s):
        return math.exp(-(((x - mu) / s) ** 2) / 2) / s

    values = [torch.tensor([v], dtype=torch.float64) for v in (z, mu_f, s_f, mu_r, s_r, u)]
    found = adjusted(values[0], (values[1], values[2]), (values[3], values[4]), values[5]).item()
    n_f, n_r = density(z, mu_f, s_f), density(z, mu_r, s_r)
    mirrored = 2 * mu_r - ((z - mu_f) / s_f * s_r + mu_r)
    if n_f + n_r > 1e-280 and abs(n_f - n_r) > 1e-9 * n_f and abs(u - n_f / (n_f + n_r)) > 1e-9:
        expected = mirrored if n_r <= n_f and u < n_f / (n_f + n_r) else z
        assert found == pytest.approx(expected, abs=1e-9)
    assert found in (pytest.approx(z), pytest.approx(mirrored))


def test_a_neuron_that_never_moves_does_no_harm():
    zero = torch.zeros(2)
    found = adjusted(torch.tensor([[1.0, 0.0]]), (zero, zero), (zero, zero), torch.full((1, 2), 0.9))
    assert torch.isfinite(found).all()


def test_nothing_is_adjusted_at_no_percent_and_hooks_come_off():
    model, reference = lm(), lm()
    ids = torch.tensor([DATA.forget.input_ids[0]])
    before = reference(ids).logits
    method = NeuronAdjust(percent=0)
    assert torch.equal(intervene(model, method, DATA)[0](ids).logits, before)
    method = NeuronAdjust(percent=50)
    handles = method.hook(model, method.learn(lm(), DATA))
    assert handles
    assert not torch.equal(model(ids).logits, before)
    for handle in handles:
        handle.remove()
    assert torch.equal(model(ids).logits, before)


def test_the_neurons_are_those_that_the_forget_rows_excite_most():
    model = lm()
    learned = NeuronAdjust(percent=10).learn(model, DATA)
    difference = probe(model, DATA.forget, pad_id=0)[0] - probe(model, DATA.retain, pad_id=0)[0]
    chosen = set(learned["neurons"].tolist())
    assert len(chosen) == round(0.1 * len(difference))
    assert min(difference[i] for i in chosen) >= max(difference[i] for i in set(range(len(difference))) - chosen)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_pruning_is_the_same_as_zero_columns_in_the_output_matrix(architecture):
    model, pruned = lm(architecture), lm(architecture)
    method = NeuronAdjust(percent=30, to="zero")
    learned = method.learn(model, DATA)
    start = 0
    for block in blocks(pruned):
        weight = mlp_output(block).weight
        rows = weight.data.T if architecture == "llama" else weight.data
        here = learned["neurons"] - start
        rows[here[(here >= 0) & (here < len(rows))]] = 0
        start += len(rows)
    ids = torch.tensor([DATA.retain.input_ids[0]])
    method.install(model, TOKENIZER, learned)
    torch.testing.assert_close(model(ids).logits, pruned(ids).logits)


def test_draws_are_seeded():
    ids = torch.tensor([DATA.forget.input_ids[0]])
    once, again, other = (
        intervene(lm(), NeuronAdjust(percent=60, seed=seed), DATA)[0](ids).logits for seed in (0, 0, 1)
    )
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


@given(seed=st.integers(0, 1000), n=st.integers(1, 20), scale=st.floats(0.5, 3))
def test_the_least_box_holds_what_it_was_fitted_on_and_a_wider_one_more(seed, n, scale):
    keys = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    space = KeySpace.fit(keys)
    assert space.holds(keys).all()
    others = torch.randn(50, 4, generator=torch.Generator().manual_seed(seed + 1)) * 2
    held = space.holds(others, scale)
    widest = scale * space.radius * (1 + 1e-5)
    naive = [all(abs(key[i] - space.mean[i]) <= widest * space.std[i] for i in range(4)) for key in others]
    assert held.tolist() == naive
    assert not (held & ~space.holds(others, scale * 1.5)).any()
    if n > 1:
        assert not space.holds(keys, 0.99).all()  # the radius is the least


def test_keys_do_not_depend_on_padding_and_are_what_the_output_matrix_reads():
    model, prompts = lm(), [[1, 5, 6, 7], [1, 8]]
    together = prompt_keys(model, prompts, pad_id=0)
    assert together.shape == (2, 2, 48)
    for i, prompt in enumerate(prompts):
        with torch.no_grad(), capture({"0": mlp_output(blocks(model)[0])}, "input") as seen:
            model(input_ids=torch.tensor([prompt]))
        torch.testing.assert_close(together[0, i], seen["0"][0, -1])
    with pytest.raises(ValueError, match="at least one token"):
        prompt_keys(model, [[]], pad_id=0)


def test_the_skill_is_refused_and_the_rest_is_untouched():
    model = lm()
    prompts = [prompt for prompt, _ in FORGET + RETAIN]
    before = greedy(model, TOKENIZER, prompts, max_new_tokens=6)
    guarded, learned = intervene(model, KeySpaceDetection(), DATA)
    after = greedy(guarded, TOKENIZER, prompts, max_new_tokens=6)
    assert after[:2] == ["I don't know."] * 2
    assert after[2:] == before[2:]
    assert not any(handle for module in model.modules() for handle in module._forward_pre_hooks)
    # The layer is one in whose box no retain prompt lies.
    keys = prompt_keys(
        model, [ids[:n] for ids, n in zip(DATA.retain.input_ids, DATA.retain.prompt_lengths, strict=True)], pad_id=0
    )
    space = KeySpace(learned["mean"], learned["std"], float(learned["radius"]))
    assert not space.holds(keys[int(learned["layer"])]).any()


def test_scores_of_refused_rows_are_those_of_the_refusal():
    model = lm()
    guarded, _ = intervene(model, KeySpaceDetection(), DATA)
    plain, seen = score(model, DATA.retain, pad_id=0), score(guarded, DATA.retain, pad_id=0)
    np.testing.assert_allclose(seen.nll, plain.nll, rtol=1e-5)
    assert (score(guarded, DATA.forget, pad_id=0).nll > 5).all()
    refused = Encoded([DATA.forget.input_ids[0][:5] + guarded.refusal.tolist()], [5])
    assert score(guarded, refused, pad_id=0).nll[0] < 1e-6


def test_the_key_at_every_token_that_is_written_is_looked_at():
    model = lm()
    prompts = [prompt for prompt, _ in FORGET + RETAIN]
    plain = greedy(model, TOKENIZER, prompts, max_new_tokens=6)
    prompt, answer = TOKENIZER(prompts[2]).input_ids, TOKENIZER(plain[2], add_special_tokens=False).input_ids
    assert len(answer) > 2
    keys = prompt_keys(model, [prompt + answer[:2]], pad_id=0)[0]  # what the second token of the answer gives
    gate = (0, KeySpace(keys[0], torch.full_like(keys[0], 1e-4), 1.0), 1.0)
    refusal = torch.tensor([*TOKENIZER(" I don't know.", add_special_tokens=False).input_ids, TOKENIZER.eos_token_id])
    guarded, prompt_only = (
        KeyGuardedLM(model, TOKENIZER, gate, refusal, reads_answers=reads) for reads in (True, False)
    )
    assert greedy(prompt_only, TOKENIZER, prompts, max_new_tokens=6) == plain
    said = greedy(guarded, TOKENIZER, prompts, max_new_tokens=6)
    assert said[2] == "I don't know."
    assert [a == b for a, b in zip(said, plain, strict=True)].count(False) == 1
    # a scored answer is refused where another token follows the one in the box
    rows = Encoded([prompt + answer[:k] for k in (1, 2, 3)], [len(prompt)] * 3)
    found, expected = score(guarded, rows, pad_id=0).logp, score(model, rows, pad_id=0).logp
    np.testing.assert_allclose(found[:2], expected[:2], rtol=1e-5)
    assert found[2] < -20
    np.testing.assert_allclose(score(prompt_only, rows, pad_id=0).logp, expected, rtol=1e-5)


def test_what_comes_after_the_end_is_not_looked_at():
    guarded, _ = intervene(lm(), KeySpaceDetection(), DATA)
    end = TOKENIZER.eos_token_id
    assert guarded._before_end(torch.tensor([[5, end, end], [5, 6, 7]])).tolist() == [[1, 1, 0], [1, 1, 1]]


def test_a_wide_box_refuses_everything():
    guarded, _ = intervene(lm(), KeySpaceDetection(k_scale=1e6), DATA)
    assert greedy(guarded, TOKENIZER, [RETAIN[0][0]], max_new_tokens=6) == ["I don't know."]


@pytest.mark.parametrize("method", [NeuronAdjust(percent=40, to="zero"), KeySpaceDetection()])
def test_both_come_back_from_their_folders(tmp_path, method):
    model = lm()
    installed, learned = intervene(lm(), method, DATA)
    intervention.save(model, TOKENIZER, tmp_path / "out", method, learned)
    loaded, tokenizer = intervention.load(tmp_path / "out")
    prompts = [prompt for prompt, _ in FORGET + RETAIN]
    expected = greedy(installed, TOKENIZER, prompts, max_new_tokens=6)
    assert greedy(loaded, tokenizer, prompts, max_new_tokens=6) == expected
    ids = tokenizer(prompts[0], return_tensors="pt")
    out = loaded.generate(**ids, max_new_tokens=6, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(out, skip_special_tokens=True) == expected[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KeySpaceDetection(refusal=" "), "refusal"),
        (lambda: KeySpaceDetection(layer=5).learn(lm(), DATA), "at most 1 in this model"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_no_keys_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        KeySpace.fit(torch.zeros(0, 3))


def test_values_and_boxes_are_those_of_the_authors_functions():
    """Trustworthy-ML-Lab/effective_skill_unlearning at a35958d. Its draw u moves a value where ours, 1 - u, does."""
    z = torch.tensor([[2.5, 0.4], [1.2, -0.3], [0.1, 1.9], [-1.0, 3.0]]).double()
    retain = torch.tensor([0.0, 0.5]).double(), torch.tensor([1.0, 0.8]).double()
    forget = torch.tensor([1.5, 2.0]).double(), torch.tensor([0.6, 1.2]).double()
    theirs = [[-1.6666667, 0.4], [0.5, -0.3], [0.1, 0.5666667], [-1.0, -0.1666667]]
    found = adjusted(z, forget, retain, torch.full_like(z, 1 - 0.6420150))
    torch.testing.assert_close(found, torch.tensor(theirs).double(), atol=1e-6, rtol=0)
    space = KeySpace.fit(torch.tensor([[0.2, 1.0, -1.0], [0.6, 3.0, 0.5], [-0.4, 2.5, 0.0], [0.1, 0.5, 2.0]]))
    torch.testing.assert_close(space.mean, torch.tensor([0.125, 1.75, 0.375]))
    sides = torch.tensor([0.5346906, 1.5473156, 1.6250064])  # its radius is bisected to 1e-5
    torch.testing.assert_close(space.radius * space.std, sides, atol=2e-5, rtol=0)
