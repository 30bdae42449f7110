"""Rounding is on each row's own grid, changes little at 8 bits, and is undone to the bit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import GptOssConfig, GptOssForCausalLM, MixtralConfig, MixtralForCausalLM

from palimpsest.forget.quantization import quantized, round_to_nearest
from palimpsest.models import causal_lm


@given(bits=st.integers(2, 8), seed=st.integers(0, 99))
def test_grid(bits, seed):
    weight = torch.randn(3, 50, generator=torch.Generator().manual_seed(seed))
    rounded = round_to_nearest(weight, bits)
    scale = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    steps = rounded / scale
    torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
    assert ((weight - rounded).abs() <= scale / 2 + 1e-6).all()
    assert torch.equal(rounded.abs().amax(1), rounded.abs().amax(1))
    torch.testing.assert_close(rounded.abs().amax(1), weight.abs().amax(1))
    torch.testing.assert_close(round_to_nearest(rounded, bits), rounded)


def test_zero_rows_stay_and_bits_are_checked():
    assert torch.equal(round_to_nearest(torch.zeros(2, 3), 4), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="from 2 to 8, got 16"):
        round_to_nearest(torch.ones(1, 1), 16)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_model_is_rounded_for_the_time_of_the_block(architecture):
    model = causal_lm(30, d_model=16, n_layers=1, n_heads=2, architecture=architecture, tie=False).eval()
    before = {name: p.clone() for name, p in model.named_parameters()}
    ids = torch.tensor([[1, 5, 6, 7]])
    plain = model(ids).logits
    errors = []
    for bits in (8, 4, 2):
        with quantized(model, bits) as rounded:
            errors.append((rounded(ids).logits - plain).abs().max().item())
            assert torch.equal(model.get_output_embeddings().weight, before["lm_head.weight"])
    assert 0 < errors[0] < errors[1] < errors[2]
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_channels_are_the_outputs_in_either_layout():
    """GPT-2's Conv1D holds [in, out]: its columns, not its rows, have scales of their own."""
    model = causal_lm(30, d_model=16, n_layers=1, n_heads=2, architecture="gpt2")
    weight = model.transformer.h[0].mlp.c_fc.weight
    with torch.no_grad():
        weight[:, 0] *= 1000
    expected = round_to_nearest(weight.T, 4).T.clone()
    with quantized(model, 4):
        assert torch.equal(weight, expected)
        assert (weight[:, 1:] != 0).any()


SIZES = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
MIXTURES = {
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SIZES, intermediate_size=24, num_local_experts=3)),
    "gpt_oss": lambda: GptOssForCausalLM(
        GptOssConfig(**SIZES, intermediate_size=24, num_local_experts=3, head_dim=8, layer_types=["full_attention"])
    ),
}


@pytest.mark.parametrize("kind", MIXTURES)
def test_experts_are_rounded_channel_by_channel_in_either_layout(kind):
    model = MIXTURES[kind]().eval()
    experts = [p for name, p in model.named_parameters() if p.ndim == 3]
    assert len(experts) == 2
    with torch.no_grad():
        for p in experts:
            p.normal_()
    wanted = [
        torch.stack([round_to_nearest(e.T, 4).T if kind == "gpt_oss" else round_to_nearest(e, 4) for e in p])
        for p in experts
    ]
    before = [p.clone() for p in experts]
    with quantized(model, 4):
        for p, rounded, was in zip(experts, wanted, before, strict=True):
            assert torch.equal(p, rounded)
            assert not torch.equal(p, was)
    assert all(torch.equal(p, was) for p, was in zip(experts, before, strict=True))


def test_convolutions_are_left_alone():
    layer = nn.Sequential(nn.Conv1d(4, 4, 3))
    before = layer[0].weight.clone()
    with quantized(layer, 4):
        assert torch.equal(layer[0].weight, before)


def test_it_is_undone_after_an_error():
    layer = nn.Sequential(nn.Linear(4, 4))
    before = layer[0].weight.clone()
    with pytest.raises(RuntimeError, match="stop"), quantized(layer, 2):
        raise RuntimeError("stop")
    assert torch.equal(layer[0].weight, before)
