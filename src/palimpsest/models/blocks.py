"""Where the parts of a decoder lie, whatever its architecture calls them."""

from torch import nn
from transformers.pytorch_utils import Conv1D


def blocks(model: nn.Module) -> nn.ModuleList:
    """The decoder blocks of a Hugging Face causal language model, first to last.

    Found by shape, not by name: the one `ModuleList` as long as `config.num_hidden_layers`.

    Raises:
        ValueError: if the model has no such list.
    """
    n_layers = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == n_layers:
            return module
    raise ValueError(f"{type(model).__name__} has no list of {n_layers} blocks: pass a decoder-only model")


def mlp_output(block: nn.Module) -> nn.Module:
    """The matrix that writes an MLP's result into the residual stream (`down_proj`, `c_proj`, `fc2`, ...).

    Found as the last linear map of the block, in order of registration within its MLP.

    Raises:
        ValueError: if the block holds no linear map.
    """
    maps = [m for m in _mlp(block).modules() if isinstance(m, nn.Linear | Conv1D)]
    if not maps:
        raise ValueError(f"{type(block).__name__} holds no linear map")
    return maps[-1]


def mlp_activation(block: nn.Module) -> nn.Module:
    """The non-linearity of an MLP (`act_fn`, `act`, ...): its input are the neurons' pre-activations, of the gate
    where the MLP has one.

    Raises:
        ValueError: if the block's MLP has no module for it, or several.
    """
    plain = (nn.Linear, Conv1D, nn.Dropout, nn.Identity)
    found = [
        m
        for m in _mlp(block).modules()
        if not isinstance(m, plain) and not list(m.children()) and not list(m.parameters())
    ]
    if len(found) != 1:
        raise ValueError(
            f"{type(block).__name__} has {len(found)} modules that may be its MLP's non-linearity, not one"
        )
    return found[0]


def attention(block: nn.Module) -> nn.Module:
    """The attention of a block (`self_attn`, `attn`, `attention`, ...): what it puts out first is added to the residual
    stream.

    Raises:
        ValueError: if the block has no child of such a name.
    """
    for name, child in block.named_children():
        if name in ("self_attn", "attn", "attention", "self_attention"):
            return child
    raise ValueError(f"{type(block).__name__} has no attention: its parts are {[n for n, _ in block.named_children()]}")


def _mlp(block: nn.Module) -> nn.Module:
    return next((m for name, m in block.named_modules() if name.split(".")[-1] in ("mlp", "ffn")), block)
