"""Any loss of embeddings as a loss of sentence-transformers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from palimpsest.contrast.gradcache import GradCache
from palimpsest.contrast.input_checks import NotFiniteError


class SentenceLoss(nn.Module):
    """Takes the place of a loss of sentence-transformers: in its trainer, or in a loop over its batches.

        loss = SentenceLoss(model, lambda query, key: info_nce(query, key, 0.05, symmetric=True, normalize=True))
        SentenceTransformerTrainer(model, train_dataset=pairs, loss=loss).train()

    Args:
        model: a SentenceTransformer, or any module from a column's features to {"sentence_embedding": [batch, d]}.
        compare: called with one tensor [batch, d] a column of the data (two for pairs, three with a hard negative).
        labels: also hand over the data's label column, as `labels=`.
        extra: modules of the loss that are trained too; the trainer finds their parameters here.
        chunk: texts that go through the model at a time, see `palimpsest.contrast.gradcache`: batches larger than
            memory, with the whole batch's gradient. None encodes each column in one piece.

    Trainers hand in the few rows left at the end of an epoch as a batch. Where `compare` refuses them (one pair has no
    negatives), their loss is 0, with a warning.

    Raises:
        ValueError: a single column of texts; more or fewer columns than `compare` takes; what `compare` refuses in a
            batch that is as large as those before.

    >>> class Lookup(nn.Embedding):
    ...     def forward(self, features):
    ...         return {"sentence_embedding": super().forward(features["ids"])}
    >>> from palimpsest.contrast import info_nce
    >>> loss = SentenceLoss(Lookup(6, 4), lambda query, key: info_nce(query, key, 0.1, normalize=True))
    >>> loss([{"ids": torch.tensor([0, 1, 2])}, {"ids": torch.tensor([3, 4, 5])}]).shape
    torch.Size([])
    """

    def __init__(
        self,
        model: nn.Module,
        compare: Callable[..., Tensor],
        *,
        labels: bool = False,
        extra: Mapping[str, nn.Module] | None = None,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        self.model, self.compare, self.labels, self.chunk = model, compare, labels, chunk
        self.most = 1  # rows of the largest batch that went well
        self.extra = nn.ModuleDict(extra or {})

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> Tensor:
        columns = list(sentence_features)
        more = {"labels": labels} if self.labels else {}
        if len(columns) < 2:
            raise ValueError(f"a contrastive loss needs at least two columns of texts, got {len(columns)}")
        self._check_columns(len(columns), more)
        encoder = _Embeddings(self.model)
        if self.chunk is not None and torch.is_grad_enabled():
            embeddings = GradCache(encoder, self.chunk, self.compare).represent(*map(dict, columns))
        else:
            embeddings = [encoder(**features) for features in columns]
        rows = len(embeddings[0])
        try:
            loss = self.compare(*embeddings, **more)
        except ValueError as error:
            if isinstance(error, NotFiniteError) or (rows > 1 and rows >= self.most):
                raise
            warnings.warn(f"a last batch of {rows} counts as 0: {error}", stacklevel=2)
            return sum(0 * each.sum() for each in embeddings)
        self.most = max(self.most, rows)
        return loss

    def _check_columns(self, columns: int, more: dict[str, Any]) -> None:
        """A column too many is said before anything is encoded."""
        try:
            takes = signature(self.compare)
        except ValueError:  # of a function that is not written in Python
            return
        try:
            takes.bind(*[None] * columns, **more)
        except TypeError as error:
            beside = " beside the labels" if more else ""
            raise ValueError(
                f"the data has {columns} columns of texts{beside}, and compare{takes} does not take them ({error}):"
                " leave columns out, or give a compare that takes them"
            ) from None

    def get_config_dict(self) -> dict[str, str]:
        """What sentence-transformers writes into a model card."""
        return {"compare": getattr(self.compare, "__name__", type(self.compare).__name__)}


class _Embeddings(nn.Module):
    """From a column's features to its embeddings; made anew each time, as trainers exchange the model for a wrapped
    one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        if hasattr(model, "no_sync"):
            self.no_sync, self.static_graph = model.no_sync, getattr(model, "static_graph", False)

    def forward(self, **features: Any) -> Tensor:
        return self.model(features)["sentence_embedding"]
