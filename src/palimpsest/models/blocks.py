"""Where the parts of a decoder lie, whatever its architecture calls them; what cannot be found is said in one line."""

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from palimpsest.errors import UserError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def blocks(model: nn.Module) -> nn.ModuleList:
    """The decoder blocks of a Hugging Face causal language model, first to last.

    Found by shape, not by name: the first `ModuleList` as long as the text configuration's `num_hidden_layers`, outside
    of parts with a configuration of another kind, such as a vision tower.

    Raises:
        UserError: if the model has no such list.
    """
    text = model.config.get_text_config()

    def found(module: nn.Module) -> nn.ModuleList | None:
        if isinstance(module, nn.ModuleList) and len(module) == text.num_hidden_layers:
            return module
        if isinstance(module, PreTrainedModel) and type(module.config.get_text_config()) is not type(text):
            return None
        return next((part for child in module.children() if (part := found(child)) is not None), None)

    if (layers := found(model)) is None:
        raise UserError(
            f"{type(model).__name__} has no list of {text.num_hidden_layers} blocks: pass a decoder-only model"
        )
    return layers


def mlp_output(block: nn.Module) -> nn.Module:
    """The matrix that writes an MLP's result into the residual stream (`down_proj`, `c_proj`, `fc2`, ...).

    Found as the last linear map of the block's MLP, in order of registration; of the block, where that has no MLP of
    its own (OPT's, whose parts lie in the block itself, and Mamba's mixer).

    Raises:
        UserError: if there is no linear map, or a mixture of experts, which has no one matrix.
    """
    if _experts(block):
        raise UserError(f"{type(block).__name__} is a mixture of experts: its MLP has no one output matrix")
    mlp = _mlp(block)
    return _last_linear(block if mlp is None else mlp)


def output_weights(block: nn.Module) -> list[nn.Parameter]:
    """All weights that write an MLP's result into the residual stream: one matrix [d, neurons] (GPT-2's is transposed),
    or of a mixture of experts one tensor [experts, ...] and, where it has a shared expert, that one's matrix.

    Raises:
        UserError: if there is none.
    """
    if not (experts := _experts(block)):
        return [mlp_output(block).weight]
    shared = [m for name, m in _mlp(block).named_children() if "shared" in name and "gate" not in name]
    return [experts[-1], *(_last_linear(m).weight for m in shared)]


def mlp_activation(block: nn.Module) -> nn.Module:
    """The non-linearity of an MLP (`act_fn`, `act`, ...): its input are the neurons' pre-activations, of the gate
    where the MLP has one.

    Raises:
        UserError: if the block has no MLP, a mixture of experts, or the MLP no one module for it.
    """
    if _experts(block):
        raise UserError(f"{type(block).__name__} is a mixture of experts, whose neurons see some of the tokens only")
    plain = (nn.Linear, Conv1D, nn.Dropout, nn.Identity, nn.ZeroPad2d)  # RWKV shifts its tokens by padding
    mlp = _mlp(block)
    # OPT's lies in the block itself; deeper in it would be another part's, such as a mixer's.
    parts = block.named_children() if mlp is None else _own_modules(mlp)
    found = [m for _, m in parts if not isinstance(m, plain) and not list(m.children()) and not list(m.parameters())]
    if len(found) != 1:
        raise UserError(f"{type(block).__name__} has {len(found)} modules that may be its MLP's non-linearity, not one")
    return found[0]


def attention(block: nn.Module) -> nn.Module:
    """The attention of a block (`self_attn`, `attn`, `attention`, ...): what it puts out first is added to the residual
    stream.

    Raises:
        UserError: if the block has no child of such a name.
    """
    for name, child in block.named_children():
        if name in ("self_attn", "attn", "attention", "self_attention"):
            return child
    raise UserError(f"{type(block).__name__} has no attention: its parts are {[n for n, _ in block.named_children()]}")


def _mlp(block: nn.Module) -> nn.Module | None:
    names = ("mlp", "ffn", "feed_forward", "block_sparse_moe")
    return next((m for name, m in block.named_modules() if name.split(".")[-1] in names), None)


def _experts(block: nn.Module) -> list[nn.Parameter]:
    """The stacked weights [experts, ...] of a mixture, in order of registration; none of an ordinary MLP."""
    modules = [] if (mlp := _mlp(block)) is None else mlp.modules()
    own = [p for m in modules if not isinstance(m, CONVOLUTIONS) for p in m.parameters(recurse=False)]
    return [p for p in own if p.ndim == 3 and len(p) > 1]


def _own_modules(part: nn.Module) -> list[tuple[str, nn.Module]]:
    """A part's modules without those of LoRA adapters on it."""
    return [(name, m) for name, m in part.named_modules() if "lora_" not in name]


def _last_linear(part: nn.Module) -> nn.Module:
    maps = [m for _, m in _own_modules(part) if isinstance(m, nn.Linear | Conv1D)]
    if not maps:
        raise UserError(f"{type(part).__name__} holds no linear map")
    return maps[-1]
