"""The last layer in blocks gives the plain expression's values and gradients, holds nothing as wide as the vocabulary,
and steps aside where a model does something else with its logits."""

from copy import deepcopy
from importlib import import_module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Gemma2Config, Gemma2ForCausalLM

from palimpsest.losses import kl_divergence
from palimpsest.models import causal_lm
from palimpsest.models.last_layer import (
    BLOCK,
    LastLayer,
    linear_kl,
    linear_logprobs,
    reference_logprobs,
    run_to_last_layer,
)
from palimpsest.models.score import Encoded, answer_logprobs, reference_kl
from palimpsest.train import fit

scoring = import_module("palimpsest.models.score")  # the package's attribute of that name is the function


def draw(tokens, d, vocabulary, dtype=torch.float64, scale=1.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, d, generator=g, dtype=torch.float64) * scale
    weight = torch.randn(vocabulary, d, generator=g, dtype=torch.float64)
    bias = torch.randn(vocabulary, generator=g, dtype=torch.float64)
    labels = torch.randint(vocabulary, (tokens,), generator=g)
    return [x.to(dtype).requires_grad_() for x in (hidden, weight, bias)], labels


@given(
    tokens=st.integers(1, 9),
    vocabulary=st.integers(2, 40),
    block=st.integers(1, 50),
    with_bias=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_logprobs_and_gradients_are_the_plain_expressions_for_any_block(tokens, vocabulary, block, with_bias, seed):
    (hidden, weight, bias), labels = draw(tokens, 5, vocabulary, seed=seed)
    inputs = [hidden, weight, *([bias] if with_bias else [])]
    upstream = torch.randn(tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = []
    for value in (
        linear_logprobs(hidden, weight, labels, bias if with_bias else None, block=block),
        reference_logprobs(hidden, weight, labels, bias if with_bias else None),
    ):
        found.append([value, *torch.autograd.grad(value, inputs, upstream)])
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)


def test_gradcheck():
    (hidden, weight, bias), labels = draw(4, 3, 7)
    assert torch.autograd.gradcheck(
        lambda *x: linear_logprobs(x[0], x[1], labels, x[2], block=3), (hidden, weight, bias)
    )
    (p_hidden, p_weight, p_bias), _ = draw(4, 6, 7, seed=1)
    reference = LastLayer(p_hidden, p_weight, p_bias)
    assert torch.autograd.gradcheck(lambda *x: linear_kl(reference, LastLayer(*x), block=3), (hidden, weight, bias))


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_only_what_asks_for_a_gradient_gets_one(frozen):
    inputs, labels = draw(4, 3, 7)
    inputs[frozen].requires_grad_(False)
    linear_logprobs(inputs[0], inputs[1], labels, inputs[2], block=2).sum().backward()
    assert [x.grad is None for x in inputs] == [i == frozen for i in range(3)]


def test_float32_agrees_to_1e_6_relative_and_stays_finite_at_large_logits():
    (hidden, weight, bias), labels = draw(64, 32, 3000, torch.float32)
    ours, plain = (f(hidden, weight, labels, bias) for f in (linear_logprobs, reference_logprobs))
    torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-5)
    (hidden, weight, bias), labels = draw(8, 32, 300, torch.float32, scale=1e3)
    value = linear_logprobs(hidden, weight, labels, bias, block=7)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(weight.grad).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_sums_in_float32(dtype):
    (hidden, weight, bias), labels = draw(16, 32, 500, dtype)
    ours = linear_logprobs(hidden, weight, labels, bias, block=64)
    plain = reference_logprobs(hidden, weight, labels, bias)
    assert ours.dtype == torch.float32
    assert (ours <= 0).all()
    torch.testing.assert_close(ours, plain, rtol=1e-2, atol=2e-2)
    grads = [torch.autograd.grad(value.sum(), (hidden, weight, bias)) for value in (ours, plain)]
    for mine, theirs in zip(*grads, strict=True):
        assert mine.dtype == dtype
        assert (mine - theirs).float().norm() < 0.02 * theirs.float().norm()


def test_nothing_as_wide_as_the_vocabulary_lives_between_forward_and_backward():
    (hidden, weight, _), labels = draw(50, 4, 1000, torch.float32)
    sizes = []

    def note(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        linear_logprobs(hidden, weight, labels)
    assert max(sizes) == weight.numel() < 50 * 1000


def test_second_derivatives_are_refused():
    (hidden, weight, _), labels = draw(2, 3, 5)
    value = linear_logprobs(hidden, weight, labels).sum()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(value, hidden, create_graph=True)


@given(block=st.integers(1, 30), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_kl_is_the_plain_expressions(block, seed):
    (hidden, weight, bias), _ = draw(6, 4, 20, seed=seed)
    (p_hidden, p_weight, p_bias), _ = draw(6, 7, 20, seed=seed + 1)
    ours = linear_kl(LastLayer(p_hidden, p_weight, p_bias), LastLayer(hidden, weight, bias), block=block)
    plain = [
        kl_divergence((p_hidden[i] @ p_weight.T + p_bias)[None, None], (hidden[i] @ weight.T + bias)[None, None])
        for i in range(6)
    ]
    torch.testing.assert_close(ours, torch.stack(plain), rtol=1e-9, atol=1e-9)
    grads = [torch.autograd.grad(x.sum(), (hidden, weight, bias)) for x in (ours, torch.stack(plain))]
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-9)


def test_refuses_shapes_that_do_not_fit():
    (hidden, weight, bias), labels = draw(4, 3, 7)
    with pytest.raises(ValueError, match=r"do not fit: \[4, 3\] and \[7, 2\]"):
        linear_logprobs(hidden, weight[:, :2], labels)
    with pytest.raises(ValueError, match=r"labels must be \[4\]"):
        linear_logprobs(hidden, weight, labels[:3])
    with pytest.raises(ValueError, match="block must be at least 1"):
        linear_logprobs(hidden, weight, labels, block=0)
    with pytest.raises(ValueError, match="same tokens and vocabulary"):
        linear_kl(LastLayer(hidden, weight, bias), LastLayer(hidden[:3], weight, bias))


# ---- in a model


def language_model(architecture, tie):
    return causal_lm(60, d_model=16, n_layers=2, n_heads=2, architecture=architecture, tie=tie, seed=3).eval()


ROWS = Encoded([[1, 5, 6, 7, 2], [1, 9, 8, 2], [1, 30, 31, 32, 33, 34, 2]], [2, 2, 4])


@pytest.fixture
def always_in_blocks(monkeypatch):
    monkeypatch.setattr(scoring, "WIDE", 1)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("tie", [True, False])
def test_a_models_answers_and_gradients_are_the_same_either_way(architecture, tie, monkeypatch):
    found = []
    for wide in (1, 10**18):
        monkeypatch.setattr(scoring, "WIDE", wide)
        model = language_model(architecture, tie)
        logp, length = answer_logprobs(model, ROWS.batch([0, 1, 2], pad_id=0))
        (logp / length).mean().backward()
        scores = scoring.score(model, ROWS, pad_id=0, moments=True)
        found.append((logp.detach(), [p.grad for p in model.parameters()], scores))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-6, atol=1e-5)
    for ours, plain in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-6)
    for field in ("token_logps", "argmax_hits", "token_means", "token_variances"):
        for ours, plain in zip(getattr(found[0][2], field), getattr(found[1][2], field), strict=True):
            assert ours == pytest.approx(plain, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_models_divergence_is_the_same_either_way(architecture, monkeypatch):
    found = []
    for wide in (1, 10**18):
        monkeypatch.setattr(scoring, "WIDE", wide)
        model = language_model(architecture, tie=True)
        other = causal_lm(60, d_model=32, n_layers=1, n_heads=2, seed=4).eval()
        value = reference_kl(other, model, ROWS.batch([0, 1, 2], pad_id=0))
        value.backward()
        found.append([value.detach(), *(p.grad for p in model.parameters())])
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-6)


def test_the_last_layer_runs_at_one_position_only(always_in_blocks):
    model = language_model("llama", tie=False)
    widths = []
    plain = nn.Linear.forward

    def forward(self, x):
        if self is model.lm_head:
            widths.append(x.shape[1])
        return plain(self, x)

    try:
        nn.Linear.forward = forward
        answer_logprobs(model, ROWS.batch([0, 1, 2], pad_id=0))
    finally:
        nn.Linear.forward = plain
    assert widths == [1]
    assert not model.lm_head._forward_hooks
    assert not model.lm_head._forward_pre_hooks


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_training_in_either_precision_makes_no_array_of_the_vocabularys_width(precision, always_in_blocks, monkeypatch):
    class Sizes(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, torch.Tensor) and tensor.shape[-1:] == (vocabulary,):
                    self.largest = max(self.largest, tensor.numel() // vocabulary)
            return out

    monkeypatch.setitem(BLOCK, "cpu", 1)  # the smallest blocks, of 256 words
    vocabulary, tokens = 3000, 40
    model = causal_lm(vocabulary, d_model=16, n_layers=1, n_heads=2, tie=False).eval()
    rows = Encoded([[1, *range(100 * i, 100 * i + tokens - 2), 2] for i in range(1, 5)], [1] * 4)
    with Sizes() as sizes:
        history = fit(model, scoring.cross_entropy, [rows.batch(range(4), pad_id=0)], steps=2, precision=precision)
    assert history.steps[0]["loss"] == pytest.approx(8, abs=0.2)
    assert sizes.largest <= 16  # the layer's weight the other way round, [d, vocabulary]; the batch has 160 tokens


def test_autocast_computes_the_plain_expressions_values_and_gradients(monkeypatch):
    found = []
    for wide in (1, 10**18):
        monkeypatch.setattr(scoring, "WIDE", wide)
        model = language_model("llama", tie=True)
        with torch.autocast("cpu", torch.bfloat16):
            assert run_to_last_layer(model, {"input_ids": torch.tensor([[1, 5]])}).hidden.dtype == torch.bfloat16
            logp, length = answer_logprobs(model, ROWS.batch([0, 1, 2], pad_id=0))
        (logp / length).mean().backward()
        found.append((logp.detach(), [p.grad for p in model.parameters()]))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-2, atol=1e-2)
    for ours, plain in zip(found[0][1], found[1][1], strict=True):
        assert ours.dtype == torch.float32
        assert (ours - plain).norm() < 0.03 * plain.norm()


def capped():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma2Config(vocab_size=60, num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.5, **sizes)
    return Gemma2ForCausalLM(config).eval()


def hooked():
    model = language_model("llama", tie=False)
    model.lm_head.register_forward_hook(lambda module, args, logits: 2 * logits)
    return model


def altered_after_the_fact():
    model = language_model("llama", tie=False)

    def double(module, args, output):
        output.logits.mul_(2)

    model.register_forward_hook(double)
    return model


def adapted():
    model = get_peft_model(language_model("llama", tie=False), LoraConfig(r=2, target_modules=["lm_head"]))
    nn.init.normal_(model.base_model.model.lm_head.lora_B["default"].weight)
    return model.eval()


@pytest.mark.parametrize("build", [capped, hooked, altered_after_the_fact, adapted])
def test_steps_aside_where_the_logits_are_not_the_last_layers_own(build, monkeypatch):
    model = build()
    batch = ROWS.batch([0, 1, 2], pad_id=0)
    inputs = {"input_ids": batch["input_ids"]}
    assert run_to_last_layer(model, inputs) is None
    found = []
    for wide in (1, 10**18):
        monkeypatch.setattr(scoring, "WIDE", wide)
        with torch.no_grad():
            found.append(answer_logprobs(deepcopy(model), batch)[0])
    torch.testing.assert_close(*found)


def test_an_adapter_elsewhere_does_not_stand_in_the_way(always_in_blocks):
    model = get_peft_model(language_model("llama", tie=True), LoraConfig(r=2, target_modules=["q_proj"]))
    assert run_to_last_layer(model, {"input_ids": torch.tensor([[1, 5, 6]])}) is not None
    answer_logprobs(model, ROWS.batch([0, 1, 2], pad_id=0))[0].sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
