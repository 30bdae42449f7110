"""Adapters of causal language models: found with their base models, put on them, merged, and made anew."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from palimpsest.errors import UserError
from palimpsest.models.language import seeded
from palimpsest.models.loading_checks import check_finite, explained, quiet, read_json
from palimpsest.paths import resolved

ADAPTER = "adapter_config.json"


def sources(folder: str | Path) -> list[Path]:
    """The folders that a model is loaded from: its own, and, of an adapter, its base model's.

    Raises:
        UserError: an adapter's base model is not on this disk, or is the adapter itself.
    """
    found = [Path(folder).expanduser()]
    while (found[-1] / ADAPTER).is_file():
        base = _base(found[-1])
        if any(base.samefile(other) for other in found):
            raise UserError(f"the adapter in {folder} is its own base model: mend base_model_name_or_path in {ADAPTER}")
        found.append(base)
    return found


def _base(adapter: Path) -> Path:
    name = (read_json(adapter / ADAPTER) or {}).get("base_model_name_or_path")
    base = next((path for path in (adapter / str(name), Path(str(name))) if name and path.is_dir()), None)
    if base is None:
        raise UserError(
            f"the base model {name!r} of the adapter in {adapter} is not on this disk: write its folder as"
            f" base_model_name_or_path into {ADAPTER}"
        )
    return base


def attach(model: PreTrainedModel, tokens: int, folder: Path, base: Path, merge: bool) -> PreTrainedModel:
    """The model with the adapter of a folder on it, or with its weights added in (`merge`), so that these train.

    Args:
        model: the base model, loaded from the folder `base`.
        tokens: how many the adapter's tokenizer has.

    Raises:
        UserError: the adapter cannot be read, put on this model or merged, or has weights that are not finite.
    """
    from peft import PeftConfig, PeftModel  # late: it takes seconds

    with explained(f"the adapter in {folder}"):
        _fit_vocabulary(model, tokens, folder)
    with quiet(), explained(f"the adapter in {folder}"):
        config = PeftConfig.from_pretrained(str(folder))
        if merge and config.is_prompt_learning:
            raise UserError(
                f"it is {config.peft_type.value}, which puts virtual tokens before the prompt and has no weights to"
                " merge: leave merge_adapter away"
            )
        # Added into a matrix that is both, an adapter of the output layer would change the embeddings too.
        if merge and _vocabulary_tensors(model, folder) and not getattr(config, "ensure_weight_tying", False):
            untie(model)
        model = PeftModel.from_pretrained(model, str(folder), is_trainable=not (merge or config.is_prompt_learning))
        if config.is_prompt_learning:
            model.requires_grad_(False)  # else the base model would train, of which a saved adapter holds nothing
    check_finite(model, f"the adapter in {folder}")
    if merge:
        return model.merge_and_unload().requires_grad_().eval()  # peft froze the base
    # Saved again, the adapter must find its base model from any folder.
    model.active_peft_config.base_model_name_or_path = str(resolved(base))
    return model.eval()


def _vocabulary_tensors(model: PreTrainedModel, adapter: Path) -> dict[str, int]:
    """The adapter's tensors that belong to the model's embeddings or its output layer, with the number of tokens."""
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    names = [name for name, module in model.named_modules() if any(module is table for table in tables)]
    found = {}
    with safe_open(adapter / "adapter_model.safetensors", framework="pt") as file:
        for key in file.keys():  # noqa: SIM118  (no mapping)
            if any(f".{name}." in key for name in names):
                shape = file.get_slice(key).get_shape()
                # The low-rank factors: lora_A of the output layer is the one that knows no tokens.
                rows = {"lora_embedding_A": shape[-1], "lora_embedding_B": 0, "lora_A": 0}
                found[key] = next((n for part, n in rows.items() if f".{part}" in key), shape[0])
    return found


def _fit_vocabulary(model: PreTrainedModel, tokens: int, adapter: Path) -> None:
    """Gives the base model as many tokens as the adapter was trained with; new ones begin as the mean of the others."""
    before = model.get_input_embeddings().weight.shape[0]
    after = max(_vocabulary_tensors(model, adapter).values(), default=0) or max(before, tokens)
    if after == before:
        return
    with quiet():
        model.resize_token_embeddings(after, mean_resizing=False)
    with torch.no_grad():
        for table in (model.get_input_embeddings(), model.get_output_embeddings()):
            if table is not None and after > before:
                table.weight[before:] = table.weight[:before].mean(0)


def untie(model: PreTrainedModel) -> None:
    """Gives the output layer a matrix of its own where it shares the embeddings', in the configuration too.

    >>> from palimpsest.models import causal_lm
    >>> model = causal_lm(10, d_model=16, n_layers=1, tie=True)
    >>> untie(model)
    >>> model.lm_head.weight is model.model.embed_tokens.weight
    False
    """
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not embeddings.weight:
        return
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
        config.tie_word_embeddings = False
    for module in model.modules():  # transformers keeps a list of what it ties besides the configuration
        if getattr(module, "all_tied_weights_keys", None):
            module.all_tied_weights_keys = {}


def add_lora(model: PreTrainedModel, rank: int, folder: str | Path, seed: int = 0) -> PreTrainedModel:
    """The model with fresh LoRA adapters on all its linear maps but the output layer; only they train.

    Args:
        model: a causal language model.
        rank: r; the scale is lora_alpha / r = 2.
        folder: where the model is on this disk, for the saved adapter to find it again.
        seed: of the adapters' first matrix; the second begins at 0, so the model is at first what it was.

    Raises:
        UserError: if the rank is not positive, the model has an adapter already, or peft cannot adapt it.

    >>> from palimpsest.models import causal_lm
    >>> model = add_lora(causal_lm(10, d_model=16, n_layers=1, n_heads=2), 2, "model")
    >>> sorted({name.split(".")[-3] for name, p in model.named_parameters() if p.requires_grad})
    ['lora_A', 'lora_B']
    """
    if rank < 1:
        raise UserError(f"the rank of LoRA adapters must be at least 1, got {rank}")
    if hasattr(model, "peft_config"):
        raise UserError("the model has an adapter already, which trains: leave lora away, or merge the adapter first")
    from peft import LoraConfig, get_peft_model  # late: it takes seconds

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    with quiet(), explained(f"LoRA adapters into {type(model).__name__}"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft finds GPT-2's transposed matrices itself, and says so
        adapted = seeded(seed, lambda: get_peft_model(model, config))
    adapted.active_peft_config.base_model_name_or_path = str(resolved(folder))
    return adapted.eval()
