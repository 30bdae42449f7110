"""UnStar, unlearning with self-taught anti-sample reasoning (Sinha, Mandal and Kankanhalli, 2024, arXiv 2410.17050).

STaR teaches a model to reason by training it on its own rationales for right answers, also on those that it finds once
the answer is given away. UnStar turns this around: a rationale that argues for a wrong answer unteaches the right one.
In every round, for every row (q, a):

    1  q' = paraphrases of q
    2  the model is asked each q'
    3  where check(what it says, a) still holds, an anti-sample (q', r, a~): a~ is wrong but of the right type, and r
       argues for it
    4  the model is trained by CE on r followed by a~, beside rows to keep

A row is left alone while the model fails on all its paraphrases (it is asked again in the next round, as what was
forgotten may come back), and the loop ends when that is so of all rows. Anti-samples are made anew in every round,
from the model as it then is. Three filters: a~ must not be right (check(a~, a)), must not be the answer of a related
retained row, and r must not name a. Only one association goes: the other rows about the same subject, and other
subjects with the same answer, are kept as paraphrased retain rows in each round.

The authors' code compares words by a fuzzy ratio above 80 or a cosine above 0.6, and trains four steps an anti-sample;
here a fact is matched word by word, in a row, at a difflib ratio of 0.8 (`palimpsest.forget.rewording.fuzzy_match`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor, nn

from palimpsest.errors import UserError
from palimpsest.forget.anti_samples import AntiSample, Check, StandIns, acceptable, related
from palimpsest.forget.procedure import Batch, ForgetData, Pair, encode_pairs, unlearn
from palimpsest.forget.rewording import Frame, fact, frame_of, fuzzy_match, subject, wording
from palimpsest.lazy import front_door
from palimpsest.metrics.text import words
from palimpsest.models.score import cross_entropy, greedy, pad_token_id, prompt_template
from palimpsest.train.method import Edit, Objective
from palimpsest.train.ranges import Above, AtLeast, AtMost, require

Paraphrase = Callable[[str], Sequence[str]]  # question -> questions
WrongAnswer = Callable[
    [nn.Module, str, str], "str | None"
]  # model, question, answer -> another answer, if there is one
Rationale = Callable[[nn.Module, str, str], str]  # model, question, wrong answer -> why it should be right


@dataclass(frozen=True)
class Round:
    """What happened in a round.

    Attributes:
        asked, answered: questions asked, and those still answered rightly.
        rows: rows with a question still answered.
        anti_samples: what the model was trained on.
        kept: the retain rows that it was trained on beside them.
        steps: updates taken.
    """

    asked: int
    answered: int
    rows: tuple[int, ...]
    anti_samples: tuple[AntiSample, ...]
    kept: tuple[Pair, ...]
    steps: int


@dataclass(frozen=True)
class _Descent(Objective):
    """CE(anti-samples) + CE(rows to keep)."""

    def loss(self, state: None, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {name: cross_entropy(model, batch[name]) for name in ("forget", "retain") if name in batch}


def unstar(
    model: nn.Module,
    forget_rows: Sequence[Pair],
    paraphrase: Paraphrase,
    wrong_answer: WrongAnswer,
    rationale: Rationale | None,
    check: Check = fuzzy_match,
    max_rounds: int = 10,
    *,
    tokenizer: Any,
    retain_rows: Sequence[Pair] = (),
    fine_grained: bool = True,
    frame: Frame | None = None,
    steps: int = 6,
    lr: float = 1e-5,
    batch_size: int = 16,
    redraws: int = 3,
    max_length: int = 512,
    max_new_tokens: int = 48,
    seed: int = 0,
    stop: Callable[[nn.Module, int], bool] | None = None,
    **options: Any,
) -> list[Round]:
    """Trains `model` in place, round by round, until it fails on every paraphrase of every row.

    Args:
        forget_rows, retain_rows: bare questions and answers, without a template.
        paraphrase: the questions that ask for the same; called anew in every round.
        wrong_answer: another answer of the same kind; called with the model as it is, and again where it is refused.
        rationale: an argument for it; None trains on bare wrong answers.
        check: whether what was said states a row's fact (`palimpsest.forget.rewording.fact` of its answer).
        max_rounds: rounds of asking and training.
        tokenizer: the model's.
        fine_grained: keep, in each round, the retain rows that `related` names, each as it is and paraphrased, and as
            many others; False keeps all retain rows as they are.
        frame: what stands around questions and answers; None for the tokenizer's template.
        steps, lr, batch_size, seed: of each round's training; `options` go to `palimpsest.train.fit`.
        redraws: how often a refused anti-sample is made anew, before it is left out of the round.
        max_length: longest question with its answer, in tokens; longer ones are cut.
        max_new_tokens: longest answer that is looked at.
        stop: called with the model and the number of rounds after each round of training; True ends the loop.

    Returns:
        What happened, round by round; the last round has no anti-samples where no row was left.

    Raises:
        UserError: if there are no rows, one is a plain text, or there is nothing to train on although rows are still
            answered: no acceptable anti-sample was found.
    """
    for name, value, least in (("max_rounds", max_rounds, 1), ("steps", steps, 1), ("redraws", redraws, 0)):
        require(value >= least, name, value, f"at least {least}")
    if not forget_rows:
        raise UserError("the forget set is empty: give at least one row")
    for i, (question, _) in enumerate(forget_rows):
        if not question:
            raise UserError(f"forget row {i} is a plain text, which cannot be asked: give questions and answers")
    rng = random.Random(seed)
    if frame is None:
        frame = frame_of(tokenizer, [prompt_template(tokenizer).pair("?", "x")])
    common = wording(retain_rows)
    facts = [fact(question, answer, common) for question, answer in forget_rows]
    near = [related(question, answer, retain_rows, common) for question, answer in forget_rows]
    retained_facts = [fact(question, answer, common) for question, answer in retain_rows]

    def neighbours(i: int) -> list[str]:
        # Another subject's answer may well be the same type of thing, and is what a wrong answer is made of.
        about = set(words(subject(forget_rows[i][0], common)))
        return [retained_facts[j] for j in near[i] if about <= set(words(retain_rows[j][0]))]

    def anti_sample(i: int, asked: str) -> AntiSample | None:
        question, answer = forget_rows[i]
        for _ in range(1 + redraws):
            wrong = wrong_answer(model, question, answer)
            if not wrong:
                continue
            sample = AntiSample(asked, rationale(model, question, wrong) if rationale else "", wrong)
            if acceptable(sample, facts[i], neighbours(i), check):
                return sample
        return None

    def to_keep(rows: Sequence[int]) -> list[Pair]:
        if not fine_grained:
            return list(retain_rows)
        close = sorted({j for i in rows for j in near[i]})
        others = sorted(set(range(len(retain_rows))) - set(close))
        kept = [retain_rows[j] for j in close]
        kept += [(rng.choice(list(paraphrase(question))), answer) for question, answer in kept if question]
        return kept + [retain_rows[j] for j in rng.sample(others, min(len(others), max(len(kept), batch_size)))]

    rounds = []
    for number in range(max_rounds):
        questions = [(i, asked) for i, (q, _) in enumerate(forget_rows) for asked in dict.fromkeys(paraphrase(q))]
        prompts = [frame.put(asked, "")[0] for _, asked in questions]
        said = greedy(model, tokenizer, prompts, max_new_tokens=max_new_tokens)
        held = [ask for ask, text in zip(questions, said, strict=True) if check(text, facts[ask[0]])]
        active = sorted({i for i, _ in held})
        samples = tuple(sample for i, asked in held if (sample := anti_sample(i, asked)))
        if held and not samples:
            raise UserError(f"no acceptable wrong answer was found for {forget_rows[held[0][0]][0]!r}: give more rows")
        kept = tuple(to_keep(active)) if samples else ()
        if samples:
            # A batch has as many rows to keep as anti-samples: repeated, a few of these do not make it small.
            repeated = samples * -(-batch_size // len(samples)) if len(samples) < batch_size else samples
            data = ForgetData(
                forget=_encoded(tokenizer, frame, [(s.question, s.target) for s in repeated], max_length),
                retain=_encoded(tokenizer, frame, kept, max_length) if kept else None,
                pad_id=pad_token_id(tokenizer),
            )
            settings = {"steps": steps, "lr": lr, "batch_size": batch_size, "seed": seed + number, **options}
            unlearn(model, _Descent(), data, **settings)
        rounds.append(Round(len(questions), len(held), tuple(active), samples, kept, steps if samples else 0))
        if not samples or (stop is not None and stop(model, number + 1)):
            break
    return rounds


def _encoded(tokenizer: Any, frame: Frame, rows: Sequence[Pair], max_length: int):
    pairs = [frame.put(*row) for row in rows]
    return encode_pairs(tokenizer, pairs, max_length=max_length, truncate=True)


@dataclass(frozen=True)
class UnStar(Edit):
    """Round by round, trains on misleading arguments for wrong answers to what the model still knows (`unstar`), with
    stand-ins for the language model that should write them (`StandIns`).

    Attributes:
        max_rounds: rounds of asking and training; each takes an equal share of the steps.
        paraphrases: in how many ways each question is asked, as it is included.
        rationales: argue for the wrong answers; False trains on them bare.
        fine_grained: keep in each round, first of all, the other retain rows about the same subject and those with the
            same answer.
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

    def edit(
        self,
        model: nn.Module,
        data: ForgetData,
        *,
        steps: int = 60,
        lr: float = 1e-5,
        batch_size: int = 16,
        seed: int = 0,
        **options: Any,
    ) -> nn.Module:
        """Trains the model in place, for at most `steps` updates in all (and one a round at least), and returns it.
        Schedules start anew in every round; a warm-up is cut to the length of a round.

        Raises:
            UserError: if `data` lacks its texts or tokenizer (`prepare` keeps them), and as `unstar`.
        """
        if not data.forget_pairs or data.tokenizer is None:
            raise UserError("the rows' texts and the tokenizer are needed: make the data with prepare")
        frame = frame_of(data.tokenizer, data.forget_pairs)
        forget, retain = ([frame.strip(pair) for pair in pairs] for pairs in (data.forget_pairs, data.retain_pairs))
        steps = max(1, steps // self.max_rounds)
        if "warmup" in options:
            options["warmup"] = min(options["warmup"], steps)
        made = StandIns(
            retain or forget, data.tokenizer, paraphrases=self.paraphrases, common=wording(retain), seed=seed
        )
        unstar(
            model,
            forget,
            made.paraphrase,
            made.wrong_answer,
            made.rationale if self.rationales else None,
            lambda said, truth: fuzzy_match(said, truth, self.ratio),
            self.max_rounds,
            tokenizer=data.tokenizer,
            retain_rows=retain,
            fine_grained=self.fine_grained,
            frame=frame,
            steps=steps,
            lr=lr,
            batch_size=batch_size,
            redraws=self.redraws,
            max_length=data.max_length,
            seed=seed,
            **options,
        )
        return model


_MOVED = {
    "forget.anti_samples": (
        "RATIONALES",
        "TEXTS",
    ),
}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
