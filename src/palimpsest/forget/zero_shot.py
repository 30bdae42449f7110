"""Nothing but a name: a model writes itself what it is to forget (the zero-shot setting of RWKU, arXiv 2406.10890)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.errors import UserError
from palimpsest.forget.evaluation import states
from palimpsest.forget.procedure import ForgetData, Pair, prepare
from palimpsest.forget.refusals import REFUSALS
from palimpsest.models.language import seeded
from palimpsest.models.score import encode, greedy, pad_token_id, prompt_template


@dataclass(frozen=True)
class ZeroShot:
    """What a model wrote about the targets: all that a method gets.

    Attributes:
        tokenizer: the model's.
        passages: texts, by target.
        questions: questions that the model asked, with its own answers, by target.
    """

    tokenizer: PreTrainedTokenizerBase
    passages: dict[str, list[str]]
    questions: dict[str, list[Pair]]

    def data(self, source: str, *, targets: Sequence[str] | None = None, seed: int = 0, **options: Any) -> ForgetData:
        """The rows to forget, without any to retain: "passages" as plain texts, or "questions" with their answers.

        Args:
            targets: of whom; None is all.
            options: of `procedure.prepare`.

        Raises:
            UserError: if the model wrote nothing of that kind.
        """
        names = self.passages if targets is None else targets
        template = prompt_template(self.tokenizer)
        if source == "passages":
            pairs = [("", text) for name in names for text in self.passages[name]]
        elif source == "questions":
            pairs = [template.pair(*pair) for name in names for pair in self.questions[name]]
        else:
            raise ValueError(f"source must be 'passages' or 'questions', got {source!r}")
        if not pairs:
            raise UserError(f"the model wrote no {source} about {', '.join(names)}: sample more, or ask in other words")
        return prepare(self.tokenizer, pairs, seed=seed, **{"truncate": True, "refusals": REFUSALS, **options})


def rwku_task(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    targets: Sequence[str],
    *,
    passages: int = 20,
    questions: int = 10,
    tell: str = "Tell me about {}.",
    ask: str = "Ask a question about {}.",
    temperature: float = 1.0,
    max_new_tokens: int = 256,
    seed: int = 0,
) -> ZeroShot:
    """Lets a model write about each target, and ask and answer questions about them: the zero-shot setting.

    Args:
        passages, questions: how many to sample of a target; those that do not name it, and repeated questions, are left
            out.
        tell, ask: the requests, with {} for the name.

    Raises:
        UserError: without targets.

    >>> from palimpsest.models import causal_lm, word_tokenizer
    >>> tokenizer = word_tokenizer(["Tell me about Ada."])
    >>> model = causal_lm(len(tokenizer), d_model=16, n_layers=1, n_heads=2)
    >>> corpus = rwku_task(model, tokenizer, ["Ada"], passages=20, questions=0, max_new_tokens=8)
    >>> all("Ada" in text for text in corpus.passages["Ada"]), corpus.questions
    (True, {'Ada': []})
    """
    if not targets or isinstance(targets, str):
        raise UserError(f"give the names of one or more targets, got {targets!r}")
    template = prompt_template(tokenizer)

    def sample(request: str, name: str, n: int, stream: int) -> list[str]:
        if not n:
            return []
        prompt = encode(tokenizer, [template.prompt(request.format(name))], [""], max_length=10**9, add_eos=False)
        ids = torch.tensor(prompt.input_ids, device=model.device).expand(n, -1)
        settings = {"do_sample": True, "temperature": temperature, "top_k": 0, "max_new_tokens": max_new_tokens}
        settings |= {"attention_mask": torch.ones_like(ids), "pad_token_id": pad_token_id(tokenizer)}
        out = seeded(10_000 * seed + stream, lambda: model.eval().generate(ids, **settings))
        return [text.strip() for text in tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)]

    told, asked = {}, {}
    for number, name in enumerate(targets):
        told[name] = [text for text in sample(tell, name, passages, 2 * number) if states(text, name)]
        queries = dict.fromkeys(first_line(text) for text in sample(ask, name, questions, 2 * number + 1))
        queries = [query for query in queries if states(query, name)]
        prompts = [template.prompt(query) for query in queries]
        answers = greedy(model, tokenizer, prompts, max_new_tokens=32) if prompts else []
        asked[name] = [(q, first_line(a)) for q, a in zip(queries, answers, strict=True) if a.strip()]
    return ZeroShot(tokenizer, told, asked)


def first_line(text: str) -> str:
    """An answer ends with its line.

    >>> first_line(" Porto.\\nQuestion: Who")
    'Porto.'
    """
    return text.strip().split("\n")[0]
