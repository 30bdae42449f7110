"""Sequences of tasks of which it is known whether the past helps: whose topic a line is on, said by one word.

Source: Fisch et al. (2023), Towards robust and efficient continual language learning, arXiv 2307.05741, whose sequences
are of public tasks.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["positive", "negative", "neutral", "mixed"]
KINDS: tuple[Kind, ...] = ("positive", "negative", "neutral", "mixed")
ASKED = ("{} Topic:", "{} This is about")  # how the target asks, and how a helpful past task does
SIZES = {"target": 16, "past": 56, "test": 20}  # lines a topic


@dataclass(frozen=True)
class TopicTask:
    """Lines, and for each the word that stands for its topic.

    Attributes:
        words: of the topics, in their order; each is one token.
        train, test: (prompt, word).
        bearing: what it is to the target: "positive", "negative", "neutral", or "target" itself.
    """

    words: tuple[str, ...]
    train: tuple[tuple[str, str], ...]
    test: tuple[tuple[str, str], ...]
    bearing: str


@dataclass(frozen=True)
class TaskSequence:
    """Past tasks in their order, and a target."""

    kind: Kind
    past: tuple[TopicTask, ...]
    target: TopicTask


def make_sequence(
    kind: Kind,
    groups: Sequence[Mapping[str, Sequence[str]]],
    words: Sequence[str],
    n_past: int = 3,
    seed: int = 0,
    sizes: Mapping[str, int] = SIZES,
) -> TaskSequence:
    """A sequence about groups of topics: the target is to tell the first group's topics apart, from few lines.

    A *positive* past task is the target's group with more and other lines, asked otherwise; a *negative* one the same
    group with its words shifted by one topic; a *neutral* one another group with words of its own. A positive or
    negative sequence has one such task among neutral ones; a mixed one a positive among negative and neutral ones.

    Args:
        groups: topic -> lines, two groups at least.
        words: one token each, as they follow a prompt (" red"); as many as there are topics in all groups.
        sizes: lines a topic of a target, of a past task, and to test either on.

    Raises:
        ValueError: for too few groups, lines or words.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    needed = sum(map(len, groups))
    if len(groups) < 2 or n_past < (2 if kind == "mixed" else 1) or len(set(words)) < needed:
        raise ValueError(
            f"it takes two groups, {needed} words and, to mix, two past tasks: got {len(groups)} groups, "
            f"{len(set(words))} words and {n_past} past tasks"
        )
    draws = random.Random(f"{seed}/{kind}")
    least = sum(sizes.values())
    dealt = []
    for group in groups:
        if short := [topic for topic, lines in group.items() if len(lines) < least]:
            raise ValueError(f"topic {short[0]!r} has {len(group[short[0]])} lines of {least} that are needed")
        dealt.append({topic: draws.sample(list(lines), least) for topic, lines in group.items()})
    said = iter(draws.sample(list(words), len(words)))
    own = [tuple(next(said) for _ in group) for group in groups]
    few, more = sizes["target"], sizes["past"]

    def task(number: int, bearing: str) -> TopicTask:
        names = own[number][1:] + own[number][:1] if bearing == "negative" else own[number]
        asked = ASKED[bearing == "positive"]
        rows = {"train": [], "test": []}
        for word, lines in zip(names, dealt[number].values(), strict=True):
            train = lines[:few] if bearing == "target" else lines[few : few + more]
            for part, chosen in (("train", train), ("test", lines[few + more :])):
                rows[part] += [(asked.format(line), word) for line in chosen]
        return TopicTask(own[number], *(tuple(draws.sample(part, len(part))) for part in rows.values()), bearing)

    others = ["negative" if kind == "mixed" and i % 2 == 0 else "neutral" for i in range(n_past - 1)]
    bearings = [{"mixed": "positive"}.get(kind, kind), *others]
    draws.shuffle(bearings)
    neutral = [1 + draws.randrange(len(groups) - 1) for _ in bearings]
    past = [
        task(number if bearing == "neutral" else 0, bearing) for number, bearing in zip(neutral, bearings, strict=True)
    ]
    return TaskSequence(kind, tuple(past), task(0, "target"))
