"""The verdicts of a claim on a bench: three looks at the seeds, five words, and what makes a sentence void.

At 5, 10 and 20 seeds every sentence is weighed and decided by `palimpsest.evidence.decision`; the first look that
decides a sentence decides it for good. Void is a sentence

- where a precondition (`given`) does not hold: its 95% interval lies outside its region, or is not inside after the
  last look; until then the others are open;
- whose arms all lie at one bound of the measure, where nothing could have been gained;
- that the bench's floor satisfies in the method's place: it is trivial.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from palimpsest.evidence.claim import Claim
from palimpsest.evidence.decision import LOOKS, Evidence, decide, look_at, weigh, weigh_within
from palimpsest.evidence.sentences import Sentence
from palimpsest.evidence.verdict import Values, Verdict, alone, judge_by_intervals, stepped

LAST = max(LOOKS)


def judge(claim: Claim, values: Values, seeds: Sequence[int]) -> tuple[Verdict, ...]:
    """The verdicts of a claim, in the order of its expectations, by the rule that it was registered with."""
    return judge_by_looks(claim, values, seeds) if claim.sequential else judge_by_intervals(claim, values, seeds)


def judge_by_looks(claim: Claim, values: Values, seeds: Sequence[int]) -> tuple[Verdict, ...]:
    """The verdicts of a claim whose sentences are a bench's, in their order."""
    looks = [look for look in LOOKS if look <= len(seeds)]
    found: dict[int, Verdict] = {}
    now: list[Verdict] = [_undecided(sentence, values, seeds) for sentence in claim.expects]
    for look in looks:
        now = _look(claim.expects, values, seeds[:look], look)
        for place, verdict in enumerate(now):
            if verdict.word != "open" and not verdict.expectation.precondition:
                found.setdefault(place, verdict)
    return tuple(found.get(place, verdict) for place, verdict in enumerate(now))


def next_look(verdicts: Sequence[Verdict], seeds: int) -> int | None:
    """How many seeds the next look takes; None where the central sentence is decided, or no look is left."""
    central = next(verdict for verdict in verdicts if verdict.expectation.role == "central")
    ahead = [look for look in LOOKS if look > look_at(seeds)]
    return ahead[0] if ahead and central.word == "open" else None


def _look(sentences: Sequence[Sentence], values: Values, seeds: Sequence[int], look: int) -> list[Verdict]:
    """What one look says of all sentences."""
    verdicts = [_undecided(sentence, values, seeds, look) for sentence in sentences]
    given = [verdict for verdict in verdicts if verdict.expectation.precondition]
    places = [place for place, sentence in enumerate(sentences) if not sentence.precondition]
    evidence = [_evidence(sentences[place], values, seeds) for place in places]
    for place, weighed, (word, adjusted) in zip(places, evidence, decide(evidence, look), strict=True):
        verdict = verdicts[place]
        if word == "held" and sentences[place].kind in ("rises", "falls"):
            verdict = stepped(
                replace(verdict, word=word), [values[arm][sentences[place].on] for arm in sentences[place].arms]
            )
            word = verdict.word
        note = verdict.note or weighed.note
        verdicts[place] = replace(
            verdict, word=word, p=weighed.p, adjusted=adjusted, share=weighed.share, note=note if word == "open" else ""
        )
    if failed := [verdict for verdict in given if verdict.word != "held"]:
        settled = look >= LAST or any(verdict.word == "refuted" for verdict in failed)
        said = "precondition not held" if settled else "precondition not settled yet"
        why = f"{said}: " + "; ".join(str(verdict.expectation) for verdict in failed)
        for place in places:
            verdicts[place] = replace(verdicts[place], word="void" if settled else "open", note=why)
        return verdicts
    for place in places:
        if why := _empty(sentences[place], values, seeds):
            verdicts[place] = replace(verdicts[place], word="void", note=why)
    return verdicts


def _undecided(sentence: Sentence, values: Values, seeds: Sequence[int], look: int = 0) -> Verdict:
    """The numbers of a sentence. A precondition has its word, that of its 95% interval; the others are open."""
    verdict = replace(alone(sentence, values, seeds, len(seeds)), look=look)
    if sentence.precondition:
        return verdict
    note = verdict.note or ("" if look else f"{len(seeds)} seeds: the first look is at {min(LOOKS)}")
    verdict = replace(verdict, word="open", p=math.nan, note=note)
    if sentence.share and (room := _room(sentence, values, seeds)) is not None and len(room):
        asked = sentence.share * float(np.mean(room))
        ends = {"above": (asked, math.inf), "below": (-math.inf, -asked), "within": (-abs(asked), abs(asked))}
        verdict = replace(verdict, region=ends[sentence.kind])
    return verdict


def _evidence(sentence: Sentence, values: Values, seeds: Sequence[int]) -> Evidence:
    verdict = alone(sentence, values, seeds, len(seeds))
    numbers = np.array([verdict.differences.get(seed, math.nan) for seed in seeds])
    room = _room(sentence, values, seeds)
    if room is None or np.isnan(numbers).any():
        return Evidence("open", 1.0, math.nan, (math.nan, math.nan), note=verdict.note or "values are missing")
    if sentence.kind == "within":
        asked = abs(sentence.share) * room if sentence.share else np.full(len(seeds), sentence.by)
        return weigh_within(numbers, asked, exact=sentence.exact)
    sign = -1.0 if sentence.kind in ("below", "at_most", "falls") else 1.0
    if sentence.kind in ("at_least", "at_most"):
        return weigh(sign * (numbers - sentence.by), exact=sentence.exact)
    if sentence.share:
        return weigh(sign * numbers, share=sentence.share, room=room, exact=sentence.exact)
    return weigh(sign * numbers, margin=sentence.by, exact=sentence.exact)


def _room(sentence: Sentence, values: Values, seeds: Sequence[int]) -> np.ndarray | None:
    """Ceiling minus baseline of every seed, in the better direction; zeros where no share of it is asked, None where
    values are missing."""
    if not sentence.share:
        return np.zeros(len(seeds))
    ceiling, baseline = (values.get(arm, {}).get(sentence.on, {}) for arm in (sentence.ceiling, sentence.arms[1]))
    if not all(seed in ceiling and seed in baseline for seed in seeds):
        return None
    room = np.array([ceiling[seed] - baseline[seed] for seed in seeds])
    return -room if sentence.kind == "below" else np.abs(room) if sentence.kind == "within" else room


def _empty(sentence: Sentence, values: Values, seeds: Sequence[int]) -> str:
    """Why a sentence says nothing; empty where it says something, or where values are missing."""
    if not all(seed in values.get(arm, {}).get(sentence.on, {}) for arm in sentence.arms for seed in seeds):
        return ""
    numbers = {values[arm][sentence.on][seed] for arm in sentence.arms for seed in seeds}
    if sentence.bounds and not sentence.exact and len(numbers) == 1 and numbers <= set(sentence.bounds):
        return f"{sentence.on} is at its bound, {numbers.pop():g}, in every arm"
    if sentence.floor and len(sentence.arms) <= 2:
        instead = replace(sentence, arms=(sentence.floor, *sentence.arms[1:]), floor="")
        trivial = _evidence(instead, values, seeds)
        if trivial.leaning == "held" and trivial.p <= LOOKS[LAST]:
            return f"trivial: {sentence.floor} satisfies it too"
    return ""
