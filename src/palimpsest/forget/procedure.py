"""How a language model is made to forget: the rows, their batches, and one call that trains.

Most methods of the family are objectives (`palimpsest.train.method`). Their batches are dicts of encoded batches of
equal size, each with `input_ids`, `attention_mask`, `labels` and `index` [batch]:

    "forget"    rows to forget
    "retain"    rows to keep, if there are any
    "refusal"   the prompts of the same forget rows, answered by a refusal
    "mismatch"  the prompts of the same forget rows, answered by the answer of some retained row

A method's `needs` are those which it cannot do without.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from palimpsest.errors import UserError
from palimpsest.forget.refusals import REFUSALS
from palimpsest.models.score import Encoded, encode, pad_token_id, prompt_template
from palimpsest.train import History, apply
from palimpsest.train.order import shuffled

Pair = tuple[str, str]  # prompt, answer
Batch = dict[str, dict[str, Tensor]]  # the parts named above


@dataclass(frozen=True)
class ForgetData:
    """The rows to forget and to keep, encoded, with the stand-in answers that some methods teach instead.

    `refusal` and `mismatch` hold `draws` stand-ins for every forget row: that of draw k for row i is at index
    k * len(forget) + i. A method sees another draw each epoch, and whatever it caches by index stays valid.

    `prepare` also keeps what the rows were made of, for methods that write rows of their own: the (prompt, answer)
    texts, the tokenizer and the longest row in tokens.
    """

    forget: Encoded
    retain: Encoded | None = None
    refusal: Encoded | None = None
    mismatch: Encoded | None = None
    pad_id: int = 0
    forget_pairs: tuple[Pair, ...] = ()
    retain_pairs: tuple[Pair, ...] = ()
    tokenizer: Any = None
    max_length: int = 512

    def batches(self, batch_size: int = 16, seed: int = 0) -> Callable[[int], dict[str, Any]]:
        """`step -> batch`: forget rows epoch by epoch, retain rows in an order of their own."""
        n = len(self.forget)
        forget_order = shuffled(n, batch_size, seed)
        retain_order = self.retain and shuffled(len(self.retain), min(batch_size, n), seed + 1)

        def batch(step: int) -> dict[str, Any]:
            rows = forget_order(step)
            parts = {"forget": self.forget.batch(rows, self.pad_id)}
            if retain_order:
                parts["retain"] = self.retain.batch(retain_order(step), self.pad_id)
            epoch = step * len(rows) // n
            for name in ("refusal", "mismatch"):
                if stand_ins := getattr(self, name):
                    draw = epoch % (len(stand_ins) // n)
                    parts[name] = stand_ins.batch(rows + draw * n, self.pad_id)
            return parts

        return batch


def prepare(
    tokenizer,
    forget: Sequence[Pair],
    retain: Sequence[Pair] = (),
    *,
    max_length: int = 512,
    truncate: bool = False,
    refusals: Sequence[str] = REFUSALS,
    draws: int = 4,
    seed: int = 0,
) -> ForgetData:
    """Encodes (prompt, answer) pairs, and draws the refusals and mismatched answers of the forget rows.

    Args:
        tokenizer: a Hugging Face tokenizer.
        forget, retain: prompts and answers as the model sees them (the template is already applied).
        max_length: longest prompt and answer, in tokens; `truncate` cuts longer answers, else they are refused.
        refusals: what a model may say that does not know.
        draws: refusals and mismatched answers drawn for each forget row.

    Raises:
        UserError: if there are no forget rows, or a row is too long and `truncate` is not set.
    """
    if not forget:
        raise UserError("the forget set is empty: give at least one row")
    rng = random.Random(seed)
    prompts = [prompt for prompt, _ in forget]

    template = prompt_template(tokenizer)

    def stand_ins(answers: Sequence[str], written: Callable[[str, str], str]) -> Encoded:
        drawn = [written(answer, rng.choice(answers)) for _ in range(draws) for _, answer in forget]
        return encode(tokenizer, prompts * draws, drawn, max_length=max_length, truncate=True)

    return ForgetData(
        forget=encode_pairs(tokenizer, forget, max_length=max_length, truncate=truncate),
        retain=encode_pairs(tokenizer, retain, max_length=max_length, truncate=truncate) if retain else None,
        refusal=stand_ins(refusals, template.like),
        mismatch=stand_ins([answer for _, answer in retain], lambda _, other: other) if retain else None,
        pad_id=pad_token_id(tokenizer),
        forget_pairs=tuple(forget),
        retain_pairs=tuple(retain),
        tokenizer=tokenizer,
        max_length=max_length,
    )


def encode_pairs(tokenizer, pairs: Sequence[Pair], *, max_length: int, truncate: bool = False) -> Encoded:
    """(prompt, answer) pairs as token ids; see `palimpsest.models.score.encode`."""
    prompts, answers = zip(*pairs, strict=True)
    return encode(tokenizer, prompts, answers, max_length=max_length, truncate=truncate)


def unlearn(
    model: nn.Module,
    objective: Any,
    data: ForgetData,
    *,
    steps: int = 60,
    lr: float = 1e-5,
    batch_size: int = 16,
    seed: int = 0,
    **options: Any,
) -> History:
    """Trains `model` in place with a forgetting `objective`: `batch_size` forget and as many retain rows a step.

    `options` go to `palimpsest.train.fit`: `optimizer`, `schedule`, `clip`, `evaluate`, `stop`, `checkpoint`, ...

    Raises:
        UserError: if the objective needs rows that `data` lacks.
    """
    return apply(model, objective, data, steps=steps, lr=lr, batch_size=batch_size, seed=seed, **options).history
