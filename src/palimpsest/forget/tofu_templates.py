"""How TOFU's released checkpoints were shown a question and its answer (Maini et al. 2024, arXiv 2401.06121)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from palimpsest.errors import UserError
from palimpsest.models.score import Encoded


@dataclass(frozen=True)
class TofuTemplate:
    """How the released checkpoints were shown a question and its answer: one text, encoded in one piece.

    Of its tokens the first n are not scored, n being how many the prompt alone has, and the end is. Without a template
    questions are written as the tokenizer asks for, or as "Question: ...\\nAnswer:", since a model of yours has learnt
    no other form; a released model scored in that form gets other numbers than were published.

    Attributes:
        prompt: what comes before the answer, with {question} in it.
        answer: the answer's part, with {answer} in it: what it begins with is scored too.
    """

    prompt: str
    answer: str = "{answer}"

    def __post_init__(self) -> None:
        for text, name in ((self.prompt, "{question}"), (self.answer, "{answer}")):
            if text.count(name) != 1:
                raise UserError(f"a template must have {name} once, got {text!r}")

    def asked(self, question: str) -> str:
        """The text before an answer.

        >>> TEMPLATES["phi"].asked("Who?")
        'Question: Who?\\n'
        """
        if not question:
            raise UserError("a template is for questions, and a row has no question: leave the template out")
        return self.prompt.replace("{question}", question)

    def encode(self, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], max_length: int) -> Encoded:
        """Questions and answers as rows of token ids.

        Raises:
            UserError: a row is longer than `max_length`, or without question.
        """
        prompts = [self.asked(question) for question, _ in pairs]
        texts = [p + self.answer.replace("{answer}", a) for p, (_, a) in zip(prompts, pairs, strict=True)]
        lengths = [len(ids) for ids in tokenizer(prompts).input_ids]
        ends = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        rows = [ids if ids[-1:] == ends else ids + ends for ids in tokenizer(texts).input_ids]
        longest = max(map(len, rows))
        if longest > max_length:
            raise UserError(f"a row of {longest} tokens is longer than the model's context of {max_length} tokens")
        return Encoded(rows, [max(1, min(n, len(row))) for n, row in zip(lengths, rows, strict=True)])


TEMPLATES = {  # of locuslab/tofu; OpenUnlearning's differ for phi, where "Answer: " belongs to the prompt
    "llama-2": TofuTemplate("[INST] {question} [/INST]"),
    "phi": TofuTemplate("Question: {question}\n", "Answer: {answer}"),
    "phi-openunlearning": TofuTemplate("Question: {question}\nAnswer: "),
}
