"""UnStar, unlearning with self-taught anti-sample reasoning (Sinha, Mandal and Kankanhalli, 2024, arXiv 2410.17050).

STaR teaches a model to reason by training it on its own rationales for right answers. UnStar turns this around: a
rationale that argues for a wrong answer unteaches the right one. In every round, for every row (q, a):

    1  q' = paraphrases of q
    2  the model is asked each q'
    3  where check(what it says, a) still holds, an anti-sample (q', r, a~): a~ is wrong but of the right type, and r
       argues for it
    4  the model is trained by CE on r followed by a~, beside rows to keep

A row is left alone while the model fails on all its paraphrases (it is asked again in the next round), and the loop
ends when that is so of all rows. Anti-samples are made from the model as it then is, and filtered
(`palimpsest.forget.anti_samples`). Only one association goes: the other rows about the same subject, and other subjects
with the same answer, are kept as paraphrased retain rows in each round (`palimpsest.forget.associations`).

The authors' code compares words by a fuzzy ratio above 80 or a cosine above 0.6, and trains four steps an anti-sample;
here a fact is matched word by word, in a row, at a difflib ratio of 0.8 (`palimpsest.forget.rewording.fuzzy_match`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor, nn

from palimpsest.errors import UserError
from palimpsest.forget.anti_samples import Check, Round, StandIns, Writer, anti_sample
from palimpsest.forget.associations import Associations
from palimpsest.forget.procedure import Batch, ForgetData, unlearn
from palimpsest.forget.rewording import fuzzy_match
from palimpsest.lazy import front_door
from palimpsest.models.score import cross_entropy, greedy
from palimpsest.train.method import Edit
from palimpsest.train.ranges import Above, AtLeast, AtMost


def descent(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """CE(anti-samples) + CE(rows to keep)."""
    return {name: cross_entropy(model, batch[name]) for name in ("forget", "retain") if name in batch}


@dataclass(frozen=True)
class UnStar(Edit):
    """Round by round, trains on misleading arguments for wrong answers to what the model still knows.

    Attributes:
        max_rounds: rounds of asking and training; each takes an equal share of the steps.
        paraphrases: in how many ways each question is asked, as it is included.
        rationales: argue for the wrong answers; False trains on them bare.
        fine_grained: keep in each round, first of all, the other retain rows about the same subject and those with the
            same answer; False keeps all retain rows as they are.
        redraws: how often a refused anti-sample is made anew, before it is left out of the round.
        ratio: how similar words must be to count as the same, by difflib.
    """

    max_rounds: Annotated[int, AtLeast(1)] = 10
    paraphrases: Annotated[int, AtLeast(1)] = 4
    rationales: bool = True
    fine_grained: bool = True
    redraws: Annotated[int, AtLeast(0)] = 3
    ratio: Annotated[float, Above(0), AtMost(1)] = 0.8

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"retain"})

    def edit(self, model: nn.Module, data: ForgetData, **training: Any) -> nn.Module:
        """Trains the model in place, as `rounds` says, with `StandIns` as the writer, and returns it."""
        for _ in self.rounds(model, data, **training):
            pass
        return model

    def rounds(
        self,
        model: nn.Module,
        data: ForgetData,
        writer: Writer | None = None,
        check: Check | None = None,
        *,
        steps: int = 60,
        batch_size: int = 16,
        seed: int = 0,
        stop: Any = None,
        **options: Any,
    ) -> Iterator[Round]:
        """What happens, round by round, as it happens: the model is trained in place. The last round trains on nothing
        where no row was left.

        Args:
            writer: of paraphrases, wrong answers and arguments: a language model's; `StandIns` by default.
            check: whether what was said states a row's fact (`palimpsest.forget.rewording.fact` of its answer);
                `fuzzy_match` at `ratio` by default.
            steps: updates in all, at most; one a round at least.
            batch_size, seed, stop, options: of each round's training, see `palimpsest.train.fit`. Schedules start anew
                in every round, and a warm-up is cut to its length. Where `stop` ends the training, the rounds end.

        Raises:
            UserError: if `data` lacks its texts or tokenizer (`prepare` keeps them), a row to forget is a plain text,
                or no acceptable anti-sample was found in a round.
        """
        rows = Associations.of(data)
        writer = writer or StandIns(
            rows.retain or rows.forget, data.tokenizer, paraphrases=self.paraphrases, common=rows.common, seed=seed
        )
        check = check or (lambda said, truth: fuzzy_match(said, truth, self.ratio))
        rng, steps = random.Random(seed), max(1, steps // self.max_rounds)
        options |= {"warmup": min(options.get("warmup", 0), steps)}

        for number in range(self.max_rounds):
            asked = [(i, q) for i, row in enumerate(rows.forget) for q in dict.fromkeys(writer.paraphrase(row[0]))]
            prompts = [rows.frame.put(question, "")[0] for _, question in asked]
            said = greedy(model, data.tokenizer, prompts, max_new_tokens=48)
            held = [ask for ask, text in zip(asked, said, strict=True) if check(text, rows.facts[ask[0]])]
            if not held:
                yield Round(len(asked))
                return
            made = (anti_sample(model, i, q, rows, writer, check, self.rationales, self.redraws) for i, q in held)
            samples = [sample for sample in made if sample]
            if not samples:
                raise UserError(f"no acceptable wrong answer was found for {held[0][1]!r}: give more rows")
            active = sorted({i for i, _ in held})
            kept = rows.kept(active, writer.paraphrase, batch_size, rng) if self.fine_grained else rows.retain
            # A batch has as many rows to keep as anti-samples: repeated, a few of these do not make it small.
            repeated = samples * -(-batch_size // len(samples))
            parts = rows.encoded(data, [(sample.question, sample.target) for sample in repeated], kept)
            settings = {"steps": steps, "batch_size": batch_size, "seed": seed + number, "stop": stop, **options}
            history = unlearn(model, descent, parts, **settings)
            yield Round(len(asked), len(held), active, samples, kept, len(history.steps))
            if stop is not None and history.evaluations and stop(history.evaluations[-1]):
                return


_MOVED = {"forget.anti_samples": ("RATIONALES", "TEXTS"), "forget.associations": ("related",)}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
