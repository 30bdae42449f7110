"""The parts of a block, found in architectures that call them differently."""

import pytest
import torch
from torch import nn

from palimpsest.models import causal_lm
from palimpsest.models.blocks import attention, blocks
from palimpsest.models.hooks import capture


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_attention_puts_out_what_the_residual_stream_gains(architecture):
    model = causal_lm(10, d_model=16, n_layers=2, n_heads=2, architecture=architecture).eval()
    for block in blocks(model):
        after = block.post_attention_layernorm if architecture == "llama" else block.ln_2
        with (
            capture({"block": block, "next": after}, "input") as read,
            capture({"attention": attention(block)}) as gained,
        ):
            model(torch.tensor([[1, 5, 6]]))
        torch.testing.assert_close(read["next"], read["block"] + gained["attention"])


def test_a_block_without_attention_is_refused():
    with pytest.raises(ValueError, match="Identity has no attention"):
        attention(nn.Identity())
