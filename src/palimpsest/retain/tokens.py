"""Language models in a stream: what the methods of the hall need of rows of tokens in the place of labelled images.

The columns of such rows are `input_ids`, `attention_mask` and `labels` [n, tokens], as `models.score.Encoded` pads
them, -100 where a token is not scored; a row has no class, and where rows are told apart by class, its task stands for
it. `palimpsest.retain.continual.cross_entropy` and the methods that can work on tokens come here where they meet
`input_ids`, so that the same method, `ER()` or `EWC()`, trains a classifier and a language model. Padding never counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.models.forward import device_of, evaluating
from palimpsest.models.last_layer import LastLayer, linear_kl, run_to_last_layer
from palimpsest.models.score import IGNORED, Encoded, answer_nll, cross_entropy, token_logprobs
from palimpsest.tasks.streams import Stream, Task

BLOCK = 16  # rows that are asked at once

Answers = LastLayer | Tensor  # what makes the logits [tokens, vocabulary], or these


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Rows of tokens as a part of a `Task`.

    Attributes:
        columns: `input_ids`, `attention_mask` and `labels` [n, tokens], padded on the right.
    """

    columns: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.columns["input_ids"])

    @property
    def y(self) -> Int[Tensor, " n"]:
        """The class of every row: they have but one."""
        return torch.zeros(len(self), dtype=torch.long)

    def batch(self, rows: slice | Tensor) -> dict[str, Tensor]:
        """Some rows, by column."""
        return {name: value[rows] for name, value in self.columns.items()}


def token_stream(tasks: Mapping[str, tuple[Encoded, ...]], pad_id: int = 0) -> Stream:
    """Rows of tokens as a stream for `learn_stream`.

    Args:
        tasks: name -> rows to train on, to test on, and perhaps to choose settings on.
        pad_id: the token to pad with.

    >>> from palimpsest.models import causal_lm
    >>> from palimpsest.retain import EWC, learn_stream
    >>> old, new = Encoded([[1, 5, 6, 2]], [2]), Encoded([[1, 7, 8, 9, 2]], [2])
    >>> stream = token_stream({"old": (old, old), "new": (new, new)})
    >>> model = causal_lm(10, d_model=16, n_layers=1, n_heads=2)
    >>> learned = learn_stream(model, EWC(), stream, already=1, steps=30, lr=1e-2, progress=False)
    >>> learned.log.accuracy["test"][1, 1] > 0.5 > learned.log.untrained[1]  # the probability of the new row
    tensor(True)
    """
    width = max(len(ids) for parts in tasks.values() for part in parts for ids in part.input_ids)

    def rows(part: Encoded) -> TokenRows:
        columns = {name: value for name, value in part.batch(range(len(part)), pad_id).items() if name != "index"}
        fill = {"input_ids": pad_id, "attention_mask": 0, "labels": IGNORED}
        return TokenRows(
            {name: F.pad(value, (0, width - value.shape[1]), value=fill[name]) for name, value in columns.items()}
        )

    def task(name: str, train: Encoded, test: Encoded, validation: Encoded | None = None) -> Task:
        return Task(name, rows(train), rows(test), (0,), validation=validation and rows(validation))

    return Stream(tuple(task(name, *parts) for name, parts in tasks.items()))


def trimmed(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a language model reads of a batch, without the columns that are padding in every row.

    >>> batch = {"input_ids": torch.tensor([[5, 6, 0]]), "attention_mask": torch.tensor([[1, 1, 0]])}
    >>> trimmed({**batch, "labels": torch.tensor([[-100, 6, -100]])})["labels"]
    tensor([[-100,    6]])
    """
    longest = int(batch["attention_mask"].sum(1).max())
    return {name: batch[name][:, :longest] for name in ("input_ids", "attention_mask", "labels")}


def mean_cross_entropy(model: nn.Module, batch: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """The mean over rows of the nats a scored token, as `models.score.cross_entropy` has it."""
    return cross_entropy(model, trimmed(batch))


def old_answers(model: nn.Module, batch: Mapping[str, Tensor], temperature: float = 1.0) -> Answers:
    """What a model says at every scored token, as a constant: the teacher of `distilled`. It is hidden states and a
    last layer, and never [tokens, vocabulary], where the architecture allows."""
    with torch.no_grad():
        said = _answers(model, trimmed(batch), temperature)
    if isinstance(said, Tensor):
        return said
    return LastLayer(*(None if part is None else part.detach() for part in said))  # of the weights as they are now


def distilled(
    teacher: Answers, model: nn.Module, batch: Mapping[str, Tensor], temperature: float = 1.0
) -> Float[Tensor, ""]:
    """KL(teacher || model) at temperature T, averaged over each row's scored tokens, then over rows.

    >>> from palimpsest.models import causal_lm
    >>> from palimpsest.models.score import Encoded
    >>> model, batch = causal_lm(10, d_model=16, n_layers=1, n_heads=2), Encoded([[1, 5, 6, 2]], [2]).batch([0], 0)
    >>> abs(distilled(old_answers(model, batch, 2.0), model, batch, 2.0).item()) < 1e-6
    True
    """
    batch = trimmed(batch)
    rows, student = _scored(batch), _answers(model, batch, temperature)
    if isinstance(student, Tensor):
        q, p = (logits.float().log_softmax(-1) for logits in (student, teacher))
        kl = F.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    else:
        kl = linear_kl(teacher, student)
    by_token = kl.new_zeros(rows.shape).masked_scatter(rows, kl)
    return (by_token.sum(1) / rows.sum(1).clamp(min=1)).mean()


def probabilities(model: nn.Module, columns: Mapping[str, Tensor]) -> Float[Tensor, " n"]:
    """The probability of every row's answer, the geometric mean over its tokens; on the CPU."""
    device, order = device_of(model), columns["attention_mask"].sum(1).argsort()  # rows of one length together
    found = torch.empty(len(order), dtype=torch.float64)
    with evaluating(model):
        for rows in order.split(BLOCK):
            batch = {name: value.to(device) for name, value in trimmed(_at(columns, rows)).items()}
            found[rows] = (-answer_nll(model, batch)).exp().double().cpu()
    return found


def fisher(
    model: nn.Module, columns: Mapping[str, Tensor], generator: torch.Generator, *, own: bool = False
) -> dict[str, Tensor]:
    """The diagonal of the Fisher information of answers: the mean over rows of the squared gradient of
    sum_t log p(token t | what stands before it in the row).

    The tokens are drawn from the model, each given the row's own beginning; their gradients are then uncorrelated, and
    the mean of the square of their sum is the sum of the tokens' information.

    Args:
        model: in eval mode.
        columns: of the rows it is of; their scored tokens are the places that are asked.
        own: take the row's tokens instead ("empirical").
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = {
        name: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for name, p in trained.items()
    }
    n = len(columns["input_ids"])
    for row in torch.arange(n).split(1):
        batch = {name: value.to(device_of(model)) for name, value in trimmed(_at(columns, row)).items()}
        if not own:
            batch["labels"] = _drawn(model, batch, generator)
        with torch.enable_grad():
            logp = token_logprobs(model, batch).sum()
            gradients = torch.autograd.grad(logp, list(trained.values()), allow_unused=True)
        for name, gradient in zip(trained, gradients, strict=True):
            if gradient is not None:
                total[name] += gradient.to(total[name]).square() / n
    return total


def _drawn(model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """Labels that hold, in place of each scored token, one that the model draws there."""
    rows = _scored(batch)
    with torch.no_grad():
        said = _answers(model, batch)
        p = (said if isinstance(said, Tensor) else F.linear(*said)).float().softmax(-1).cpu()
    drawn = torch.multinomial(p, 1, generator=generator)[:, 0].to(rows.device)
    labels = torch.full_like(batch["labels"], IGNORED)
    labels[:, 1:] = labels[:, 1:].masked_scatter(rows[:, :-1], drawn)
    return labels


def _answers(model: nn.Module, batch: Mapping[str, Tensor], temperature: float = 1.0) -> Answers:
    """The last layer and what it reads where a scored token is predicted, its logits over T; where there is no such
    layer, these logits themselves."""
    rows = _scored(batch)
    # Behind causal attention no real token sees the padding on its right.
    ones = torch.ones_like(batch["input_ids"])
    inputs = {"input_ids": batch["input_ids"], "attention_mask": ones, "use_cache": False}
    if (layer := run_to_last_layer(model, inputs)) is None:
        return model(**inputs).logits[rows] / temperature
    hidden, weight, bias = layer.at(rows)
    return LastLayer(hidden / temperature, weight, None if bias is None else bias / temperature)


def _scored(batch: Mapping[str, Tensor]) -> Bool[Tensor, "batch tokens"]:
    """Where the next token is scored."""
    return F.pad(batch["labels"][:, 1:] != IGNORED, (0, 1))


def _at(columns: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    return {name: columns[name][rows] for name in ("input_ids", "attention_mask", "labels")}
