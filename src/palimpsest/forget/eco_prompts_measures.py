"""What ECO's search for a strength looks at: how much of the answers a corrupted model still gives, and how much one
would that was never told (Liu et al., 2024, arXiv 2406.07933).
"""

from __future__ import annotations

import numpy as np
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from palimpsest.forget.procedure import Pair
from palimpsest.forget.prompt_gate import (
    PromptGate,
)
from palimpsest.metrics.text import rouge_l_recall
from palimpsest.models.score import greedy


def forget_measure(model: nn.Module, tokenizer: PreTrainedTokenizerBase, pairs: list[Pair]) -> float:
    """Mean ROUGE-L recall of the model's greedy answers to the pairs' prompts."""
    prompts, answers = zip(*pairs, strict=True)
    longest = max(len(ids) for ids in tokenizer(list(answers), add_special_tokens=False)["input_ids"])
    said = greedy(model, tokenizer, prompts, max_new_tokens=longest + 1)
    return float(np.mean([rouge_l_recall(*pair) for pair in zip(said, answers, strict=True)]))


def nearest_answers(gate: PromptGate, forget: list[Pair], retain: tuple[Pair, ...]) -> float:
    """A surrogate without a retrained model: the mean ROUGE-L recall, against each forget answer, of the answer to the
    most similar retained prompt, which has the form of the right answer and another content."""
    retain = tuple(pair for pair in retain if pair[0].strip())  # documents have no prompt
    asked, known = (
        F.normalize(gate.encoder([prompt for prompt, _ in pairs]).float(), dim=-1) for pairs in (forget, retain)
    )
    nearest = [retain[k][1] for k in (asked @ known.T).argmax(1).tolist()]
    return float(np.mean([rouge_l_recall(said, answer) for said, (_, answer) in zip(nearest, forget, strict=True)]))
