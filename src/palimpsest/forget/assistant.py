"""An assistant cut out of a model: its first blocks between its embeddings and its head, frozen, with adapters."""

from __future__ import annotations

from copy import deepcopy

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from palimpsest.models.blocks import blocks
from palimpsest.models.language import seeded
from palimpsest.train.ranges import require


def make_assistant(
    target: PreTrainedModel,
    n_layers: int = 8,
    lora_r: int = 16,
    lora_alpha: float = 32,
    *,
    lora_dropout: float = 0.0,
    seed: int = 0,
) -> PreTrainedModel:
    """The target's embeddings, its first blocks, its final norm and its head, copied and frozen, with LoRA on every
    linear map but the head: only the LoRA tensors are to be trained. At first it is the target cut short.

    Args:
        target: a decoder-only Hugging Face model, which is left as it is; the blocks that are left out are not copied.
        n_layers: how many blocks; all, where the target has fewer.
        lora_r, lora_alpha, lora_dropout: see peft's `LoraConfig`.
        seed: of LoRA's first matrix (the second begins at 0).

    >>> from palimpsest.models import causal_lm
    >>> assistant = make_assistant(causal_lm(50, d_model=16, n_layers=2, n_heads=2), n_layers=1, lora_r=2)
    >>> len(blocks(assistant)), sum(p.numel() for p in assistant.parameters() if p.requires_grad)
    (1, 640)
    """
    from peft import LoraConfig, inject_adapter_in_model  # late: it takes seconds

    require(n_layers >= 1, "n_layers", n_layers, "at least 1")
    left_out = list(blocks(target))[n_layers:]
    # deepcopy takes what it finds in the memo for a copy it has already made.
    assistant = deepcopy(target, {id(block): nn.Identity() for block in left_out})
    copies = blocks(assistant)
    del copies[n_layers:]
    config = assistant.config.get_text_config()
    config.num_hidden_layers = len(copies)
    if vars(config).get("layer_types"):  # some configurations compute it from the number
        config.layer_types = config.layer_types[: len(copies)]
    assistant.requires_grad_(False)
    head = assistant.get_output_embeddings()
    linear = {
        name: module
        for name, module in assistant.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }
    lora = LoraConfig(
        r=lora_r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        target_modules=list(linear),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in linear.values()),
    )
    return seeded(seed, lambda: inject_adapter_in_model(lora, assistant)).eval()


def merge_lora(assistant: PreTrainedModel) -> PreTrainedModel:
    """The assistant with its LoRA added to its weights, in place: faster, and no longer trainable."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(assistant.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, leaf = name.rpartition(".")
            setattr(assistant.get_submodule(parent), leaf, module.get_base_layer())
    return assistant
