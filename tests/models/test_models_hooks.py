import pytest
import torch
from torch import nn

from palimpsest.models import causal_lm
from palimpsest.models.hooks import activations, capture, edit_activation
from palimpsest.models.score import Encoded


class Pair(nn.Module):
    """As some of transformers' blocks: the activation, and more."""

    def forward(self, x, extra=None):
        return x + 1, extra


@pytest.mark.parametrize(("side", "expected"), [("output", 20.0), ("input", 11.0)])
def test_an_edit_takes_the_activation_s_place_and_comes_off(side, expected):
    module, x = Pair(), torch.ones(2)
    handle = edit_activation(module, lambda h: 10 * h, side)
    out, extra = module(x, "kept")
    assert out.tolist() == [expected] * 2
    assert extra == "kept"
    assert x.tolist() == [1.0, 1.0]
    handle.remove()
    assert module(x)[0].tolist() == [2.0, 2.0]


def test_gradients_go_through_an_edit():
    module, x = nn.Identity(), torch.ones(1, requires_grad=True)
    edit_activation(module, lambda h: 3 * h)
    module(x).sum().backward()
    assert x.grad.tolist() == [3.0]


def test_an_edit_that_changes_the_shape_and_a_third_side_are_refused():
    module = nn.Identity()
    edit_activation(module, lambda h: h[:1])
    with pytest.raises(ValueError, match=r"shape \[2\], got \[1\]"):
        module(torch.ones(2))
    with pytest.raises(ValueError, match="side must be 'input' or 'output', got 'inside'"):
        edit_activation(module, lambda h: h, "inside")


def test_capture_sees_the_last_call_as_edited_before_it_and_lets_go():
    module = Pair()
    edit_activation(module, lambda h: -h)
    with capture({"out": module}) as seen, capture({"in": module}, "input") as before:
        module(torch.zeros(1))
        module(torch.ones(1))
    assert seen["out"].tolist() == [-2.0]
    assert before["in"].tolist() == [1.0]
    module(torch.full((1,), 5.0))
    assert seen["out"].tolist() == [-2.0]
    with pytest.raises(RuntimeError, match="boom"), capture({"out": module}):
        raise RuntimeError("boom")
    assert len(module._forward_hooks) == 1  # the edit alone


def test_activations_are_those_of_rows_alone_and_the_mode_is_restored():
    model = causal_lm(12, d_model=16, n_layers=1, n_heads=2, seed=3).train()
    rows = Encoded([[1, 5], [1, 6, 7, 8], [1, 9, 3]], [0, 1, 1])
    found = []
    for batch, seen in activations(model, rows, {"head": model.lm_head}, pad_id=0, batch_size=2):
        assert not model.training
        assert not seen["head"].requires_grad
        found += [logits[mask.bool()] for logits, mask in zip(seen["head"], batch["attention_mask"], strict=True)]
    assert model.training
    model.eval()
    for ids, logits in zip(rows.input_ids, found, strict=True):
        torch.testing.assert_close(logits, model(torch.tensor([ids])).logits[0].detach())
    assert not model.lm_head._forward_hooks
