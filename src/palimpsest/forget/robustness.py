"""Is it gone, or hidden? All attacks on one model, in one table.

    plain                asked as the rows ask
    paraphrase, few_shot, jailbreak, prefix      asked otherwise (`palimpsest.forget.prompting`)
    relearn              fine-tuned for some steps on half of the rows, asked about the other half
    relearn_unrelated    fine-tuned on retained rows, asked about all
    quantization         weights rounded to 8 and to 4 bits (`palimpsest.forget.quantization`)
    removal              of a model that forgets by an intervention: without the intervention
    probe                a linear probe of the hidden states tells true from false answers (`palimpsest.forget.probing`)
    membership           the rows are told from unseen ones (`palimpsest.forget.attacks`)

The first ones end in what the model says, and are measured by the ROUGE-L recall of the answers and their probability;
the last two in an area under a curve, where 0.5 is chance. *Forgotten* is 1 - recall when asked plainly, *robustly
forgotten* 1 - the highest recall that any attack reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.errors import UserError
from palimpsest.forget.attacks import membership, relearn
from palimpsest.forget.compare import pairs
from palimpsest.forget.probing import fact_probe
from palimpsest.forget.procedure import encode_pairs
from palimpsest.forget.prompting import SHOTS, Extracted, extract, plain, strongest
from palimpsest.forget.quantization import quantized
from palimpsest.metrics.text import distinct_n
from palimpsest.models.score import context_length, pad_token_id, score
from palimpsest.tasks.rows import Row

ATTACKS = (
    *("paraphrase", "few_shot", "jailbreak", "prefix", "relearn", "relearn_unrelated"),
    *("quantization", "removal", "probe", "membership"),
)


@dataclass
class Robustness:
    """What the attacks found.

    Attributes:
        recall, probability: of the answers, by attack ("plain" among them).
        area: the area under the curve of the probe and of each membership attack.
        how: the variant of an attack that got most.
        left_out: why an attack was not made.
    """

    recall: dict[str, float] = field(default_factory=dict)
    probability: dict[str, float] = field(default_factory=dict)
    area: dict[str, float] = field(default_factory=dict)
    how: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def forgotten(self) -> float:
        """1 - the recall of plain questions."""
        return 1 - self.recall["plain"]

    @property
    def robustly_forgotten(self) -> float:
        """1 - the highest recall that any attack reached."""
        return 1 - max(self.recall.values())

    def add(self, attack: str, found: Extracted, how: str = "") -> None:
        self.recall[attack], self.probability[attack] = float(found.rouge.mean()), float(found.probability.mean())
        if how:
            self.how[attack] = how


def attack(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    retain: Sequence[Row] = (),
    heldout: Sequence[Row] = (),
    without: nn.Module | None = None,
    attacks: Sequence[str] = ATTACKS,
    steps: int = 20,
    lr: float = 1e-3,
    max_length: int = 512,
    batch_size: int = 64,
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> Robustness:
    """Makes all attacks that the rows at hand allow; the others are named with the reason.

    Args:
        model: as it speaks, an intervention included; it is left as it was.
        rows: the rows that should be forgotten.
        retain: rows that should be kept: examples for few-shot prompts, unrelated rows to relearn on.
        heldout: rows of the same kind that were never trained on, for the membership attacks.
        without: of a model with an intervention, the one without it.
        steps, lr: of the attacker's fine-tuning.
        seed: of which half of the rows is relearned, and of the probe.

    Raises:
        UserError: for an unknown attack, or rows that do not fit into the model's context.
    """
    if unknown := set(attacks) - set(ATTACKS):
        raise UserError(f"unknown attack {min(unknown)!r}: there are {', '.join(ATTACKS)}")
    found = Robustness()
    asked = [row for row in rows if row["question"]]
    known = [row for row in retain if row["question"]]
    pad_id = pad_token_id(tokenizer)
    max_length = min(max_length, context_length(model) or max_length)
    own_weights = isinstance(model, PreTrainedModel | PeftModel) and without is None

    def plainly(model: nn.Module, some: Sequence[Row]) -> Extracted:
        return extract(model, tokenizer, some, plain, batch_size=batch_size)

    def encoded(some: Sequence[Row]):
        return encode_pairs(tokenizer, pairs(tokenizer, some), max_length=max_length, truncate=True)

    def prompted(name: str) -> None:
        some = rows if name == "prefix" else asked
        if not some:
            raise UserError("the rows have no questions")
        how, extracted = strongest(model, tokenizer, some, name, shots=known[:SHOTS], batch_size=batch_size)
        found.add(name, extracted, how)

    def relearned() -> None:
        if not own_weights:
            raise UserError("the model forgets by an intervention: an attacker removes it rather than fine-tunes it")
        if len(rows) < 4:
            raise UserError(f"half of {len(rows)} rows are too few to learn from")
        order = np.random.default_rng(seed).permutation(len(rows))
        shown, judged = ([rows[i] for i in sorted(part)] for part in np.array_split(order, 2))
        attacked, _ = relearn(model, encoded(shown), pad_id=pad_id, steps=steps, lr=lr, seed=seed, progress=False)
        how = f"{steps} steps on {len(shown)} rows, asked about {len(judged)} others"
        found.add("relearn", plainly(attacked, judged), how)

    def relearned_unrelated() -> None:
        if not own_weights:
            raise UserError("the model forgets by an intervention: an attacker removes it rather than fine-tunes it")
        if not retain:
            raise UserError("give retain rows to fine-tune on")
        attacked, _ = relearn(model, encoded(retain), pad_id=pad_id, steps=steps, lr=lr, seed=seed, progress=False)
        found.add("relearn_unrelated", plainly(attacked, rows), f"{steps} steps on {len(retain)} retained rows")

    def rounded() -> None:
        tried = {}
        for bits in (8, 4):
            with quantized(model, bits):
                tried[f"{bits} bits"] = plainly(model, rows)
        best = max(tried, key=lambda name: tried[name].rouge.mean())
        found.add("quantization", tried[best], best)

    def removed() -> None:
        if without is None:
            raise UserError("the model has no intervention")
        found.add("removal", plainly(without, rows))

    def probed() -> None:
        result = fact_probe(model, tokenizer, rows, retain, batch_size=batch_size, seed=seed)
        found.area["probe"], found.how["probe"] = result.score, result.features

    def recognised() -> None:
        if not heldout:
            raise UserError("give held-out rows that the model never saw")
        texts = [[row["answer"] for row in part] for part in (rows, heldout)]
        areas = membership(
            model,
            encoded(rows),
            encoded(heldout),
            texts=texts[0],
            non_member_texts=texts[1],
            pad_id=pad_id,
            batch_size=batch_size,
        )
        found.area |= {f"membership: {name}": area for name, area in areas.items()}

    made = {
        "relearn": relearned,
        "relearn_unrelated": relearned_unrelated,
        "quantization": rounded,
        "removal": removed,
        "probe": probed,
        "membership": recognised,
    }
    found.add("plain", plainly(model, rows))
    for name in ATTACKS:
        if name not in attacks:
            continue
        progress(name)
        try:
            made.get(name, lambda name=name: prompted(name))()
        except ValueError as reason:  # what the rows or the model do not allow
            if name != "removal":
                found.left_out[name] = str(reason)
    return found


def fluency(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, outputs: Sequence[str], text: Sequence[str] = ()
) -> dict[str, float]:
    """How a model speaks: "distinct bigrams" of what it answered, the share of different word pairs in each answer, 1
    where nothing is repeated; and "text perplexity", exp of the mean negative log-likelihood a token, on general text.

    Args:
        outputs: what the model said.
        text: pieces of general text; none leaves the perplexity out.
    """
    spoken = [output for output in outputs if len(output.split()) > 1]
    found = {"distinct bigrams": float(np.mean([distinct_n([output], 2) for output in spoken]))} if spoken else {}
    if text:
        longest = context_length(model) or 512
        rows = encode_pairs(tokenizer, [("", piece) for piece in text], max_length=longest, truncate=True)
        scores = score(model, rows, pad_id=pad_token_id(tokenizer))
        found["text perplexity"] = float(np.exp(min(700.0, -scores.logp.sum() / max(1, scores.length.sum()))))
    return found
