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

An attack that breaks the model finds nothing either. So each has a control: the same attack on a model that knows its
rows, the one before it forgot, or, for want of it, the model itself and rows that it kept. An attack under which the
control loses half of what it says when asked plainly, or whose area does not tell what the control knows, is *void*:
it says nothing about the model. The rate of fine-tuning comes from the control too: the largest of `RATES` at which it
still knows the half of its rows that it was not tuned on, and the retained rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.errors import UserError
from palimpsest.forget.attacks import membership, relearn
from palimpsest.forget.compare import pairs
from palimpsest.forget.evaluation import perplexity
from palimpsest.forget.probing import fact_probe
from palimpsest.forget.procedure import encode_pairs
from palimpsest.forget.prompting import SHOTS, Extracted, extract, plain, strongest
from palimpsest.forget.quantization import quantized
from palimpsest.metrics.text import distinct_n, words
from palimpsest.models.score import context_length, pad_token_id
from palimpsest.tasks.rows import Row, identity

ATTACKS = (
    *("paraphrase", "few_shot", "jailbreak", "prefix", "relearn", "relearn_unrelated"),
    *("quantization", "removal", "probe", "membership"),
)
RATES = (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6)
SPARED = 0.8  # of what was known of rows that are not under attack must be left, or the rate destroys the model
FOUND = 0.5  # of what the control says when asked plainly must come out under an attack
TELLS = 0.6  # area under the curve from which on an attack tells what the control knows
KNOWN = 0.5  # recall from which on a model is one that knows its rows
CHECKED = 32  # retained rows that a rate is tried on


@dataclass
class Robustness:
    """What the attacks found.

    Attributes:
        recall, probability: of the answers, by attack ("plain" among them).
        area: the area under the curve of the probe and of each membership attack.
        how: the variant of an attack that got most.
        left_out: why an attack was not made.
        rate: the learning rate of the attacks that fine-tune; None where there was none to be found.
        void: why an attack says nothing, for those that failed on the control; they have no other entry.
    """

    recall: dict[str, float] = field(default_factory=dict)
    probability: dict[str, float] = field(default_factory=dict)
    area: dict[str, float] = field(default_factory=dict)
    how: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    rate: float | None = None
    void: dict[str, str] = field(default_factory=dict)

    @property
    def forgotten(self) -> float:
        """1 - the recall of plain questions."""
        return 1 - self.recall["plain"]

    @property
    def robustly_forgotten(self) -> float:
        """1 - the highest recall that any attack reached."""
        return 1 - max(self.recall.values())

    def judge(self, control: Robustness) -> None:
        """Moves every attack that failed on the control to `void`."""
        plainly = control.recall["plain"]
        for name in [name for name in self.recall if name not in ("plain", "removal")]:
            if name in control.left_out:
                reason = f"not made on the control: {control.left_out[name]}"
            elif name in control.recall and control.recall[name] >= FOUND * plainly > 0:
                continue
            else:
                left = control.recall.get(name, 0.0)
                reason = f"the control recalls {left:.3g} under it, and {plainly:.3g} asked plainly"
            self.void[name] = reason
            for found in (self.recall, self.probability, self.how):
                found.pop(name, None)
        for name, area in control.area.items():
            if area < TELLS and self.area.pop(name, None) is not None:
                self.void[name] = f"its area on the control is {area:.3g}, where 0.5 is chance"

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
    control: Robustness | None = None,
    steps: int = 20,
    lr: float | None = None,
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
        control: what the same attacks found on a model that knows its rows; None where this is such a model, or where
            none is at hand: then no attack can be void.
        steps, lr: of the attacker's fine-tuning. None takes the control's rate; without a control the rate is looked
            for on this model, which needs retained rows, or rows that it knows.
        seed: of which half of the rows is relearned, and of the probe.

    Raises:
        UserError: for an unknown attack, or rows that do not fit into the model's context.
    """
    if unknown := set(attacks) - set(ATTACKS):
        raise UserError(f"unknown attack {min(unknown)!r}: there are {', '.join(ATTACKS)}")
    found = Robustness(rate=lr)
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

    def tuned(some: Sequence[Row], rate: float) -> nn.Module:
        return relearn(model, encoded(some), pad_id=pad_id, steps=steps, lr=rate, seed=seed, progress=False)[0]

    def attackers_rate() -> float:
        """What was given, else the control's, else the largest that spares what this model knows besides.

        Raises:
            UserError: if there is none.
        """
        if control is not None and lr is None:
            found.rate = control.rate
        if found.rate is None and control is None:
            shown, others = halves(rows, seed)
            spared = [part for part in (others, retain[:CHECKED]) if part]
            known = [(part, plainly(model, part).rouge.mean()) for part in spared]
            known = [(part, recall) for part, recall in known if recall > 0]
            if not known:
                raise UserError("no control: give the model before, or retained rows that it knows, or a learning rate")
            for rate in RATES:
                attacked = tuned(shown, rate)
                if all(plainly(attacked, part).rouge.mean() >= SPARED * recall for part, recall in known):
                    found.rate = rate
                    break
        if found.rate is None:
            raise UserError(
                f"on the control every learning rate from {RATES[0]:g} to {RATES[-1]:g} destroys what it knows"
            )
        return found.rate

    def check_relearning() -> None:
        if not own_weights:
            raise UserError("the model forgets by an intervention: an attacker removes it rather than fine-tunes it")
        if len(rows) < 4:
            raise UserError(f"half of {len(rows)} rows are too few to learn from")

    def relearned() -> None:
        check_relearning()
        shown, judged = halves(rows, seed)
        if not judged:
            raise UserError("all rows are the same: none is left to ask about")
        rate = attackers_rate()
        how = f"{steps} steps at {rate:g} on {len(shown)} rows, asked about {len(judged)} others"
        found.add("relearn", plainly(tuned(shown, rate), judged), how)

    def relearned_unrelated() -> None:
        check_relearning()
        if not retain:
            raise UserError("give retain rows to fine-tune on")
        rate = attackers_rate()
        how = f"{steps} steps at {rate:g} on {len(retain)} retained rows"
        found.add("relearn_unrelated", plainly(tuned(retain, rate), rows), how)

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
    if control is not None:
        found.judge(control)
    return found


def own_control(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, retain: Sequence[Row], **options: Any
) -> Robustness | None:
    """The attacks on half of the rows that a model kept, with the other half as its retained rows: a control where the
    model before is not at hand. None where there are too few rows, or where it does not know them either.

    Args:
        options: of `attack`.
    """
    attacked, kept = halves(retain)
    if len(attacked) < 4:
        return None
    found = attack(model, tokenizer, attacked, retain=kept, **options)
    return found if found.recall["plain"] >= KNOWN else None


def halves(rows: Sequence[Row], seed: int = 0) -> tuple[list[Row], list[Row]]:
    """The rows in two halves by lot, in their order; rows that say the same (`identity`) are in the same one.

    >>> rows = [{"question": q, "answer": a} for q, a in (("Who?", "Ada."), ("Where?", "Rome."), (" who?", "ADA."))]
    >>> sorted(len(half) for half in halves(rows))
    [1, 2]
    """

    same: dict[tuple[str, str], list[int]] = {}
    for i, row in enumerate(rows):
        same.setdefault(identity(row), []).append(i)
    groups = list(same.values())
    order = np.random.default_rng(seed).permutation(len(groups))
    first, second = (sorted(i for g in part for i in groups[g]) for part in np.array_split(order, 2))
    return [rows[i] for i in first], [rows[i] for i in second]


def fluency(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, outputs: Sequence[str], text: str = ""
) -> dict[str, float]:
    """How a model speaks: "distinct bigrams" of what it answered, the share of different word pairs in each answer, 1
    where nothing is repeated; and "text perplexity", exp of the mean negative log-likelihood a token, on general text.

    Args:
        outputs: what the model said.
        text: general text, of which all is read; none leaves the perplexity out.
    """
    spoken = [output for output in outputs if len(words(output)) > 1]
    found = {"distinct bigrams": float(np.mean([distinct_n([output], 2) for output in spoken]))} if spoken else {}
    return found | ({"text perplexity": perplexity(model, tokenizer, text)} if text else {})
