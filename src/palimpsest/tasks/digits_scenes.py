"""Scenes of one or two coloured digits with captions, for learning from images and text together.

A scene is a canvas of 16 x 16 pixels, three channels, black; each quadrant holds one digit at its native size or
nothing. Its attributes are digit, colour and place, and two objects differ in digit. A caption names either the
places ("a red three at the top left and a blue seven at the bottom right") or, for two objects, how they lie ("a red
three left of a blue seven"), in one of several wordings; `parse` reads every caption back. `change` alters exactly
one concept of a scene, which gives captions that are nearly right (`hard_captions`) and pairs of scenes that differ
in one concept (`minimal_pairs`), scored by `pair_scores`.

Sources: captions that differ in one concept: Yuksekgonul et al. (2023), arXiv 2210.01936; pair scores: Thrush et al.
(2022), Winoground, arXiv 2204.03162.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from palimpsest.tasks.digits import CLASSES, SIZE, drawn, images_at
from palimpsest.tasks.digits_images import PALETTE
from palimpsest.tasks.digits_mosaics import glyphs
from palimpsest.tasks.fresh import check_disjoint
from palimpsest.tasks.splits import Rows, Split, Splits

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS = ("red", "green", "blue", "yellow", "magenta", "cyan")
PLACES = ("top left", "top right", "bottom left", "bottom right")
RELATIONS = ("left of", "right of", "above", "below")
CONCEPTS = ("digit", "colour", "place", "relation", "binding")
STYLES = ("place", "relation", "mixed")
SCENES = 120  # random stream of this file

# Wordings of one object with its place, and of two objects with their relation; "{a}" and "{b}" are "a red three".
PLACE_WORDINGS = ("{a} at the {place}", "at the {place} {a}", "{a} in the {place} corner", "the {place} shows {a}")
RELATION_WORDINGS = ("{a} {relation} {b}", "there is {a} {relation} {b}")
WORDINGS = len(PLACE_WORDINGS)


@dataclass(frozen=True, eq=False)
class Scenes(Rows):
    """Scenes with their captions. Every attribute has two columns, one an object, in the order of the caption.

    Attributes:
        x: images, float32 in [0, 1].
        digit: 0 to 9; -1 where there is no second object.
        colour: position in `COLOURS`, or -1.
        place: position in `PLACES`, or -1.
        relation: position in `RELATIONS` where the caption says how the first object lies to the second; -1 where it
            names the places.
        wording: which wording the caption has.
        index: which of scikit-learn's images an object is, or -1.
        captions: the captions.
    """

    x: Float[Tensor, "n 3 16 16"]
    digit: Int[Tensor, "n 2"]
    colour: Int[Tensor, "n 2"]
    place: Int[Tensor, "n 2"]
    relation: Int[Tensor, " n"]
    wording: Int[Tensor, " n"]
    index: Int[Tensor, "n 2"]
    captions: tuple[str, ...]

    @property
    def count(self) -> Int[Tensor, " n"]:
        """How many objects a scene has."""
        return (self.digit >= 0).sum(1)


@dataclass(frozen=True)
class Parsed:
    """What a caption says: objects as (digit, colour, place), a place being None where the relation is given
    instead."""

    objects: tuple[tuple[int, int, int | None], ...]
    relation: int | None


def digits_captions(
    seed: int,
    *,
    train: int = 2000,
    validation: int = 300,
    test: int = 500,
    objects: tuple[int, int] = (1, 2),
    style: str = "place",
    wordings: int = WORDINGS,
    colours: int = len(COLOURS),
    unseen: float = 0.0,
) -> Splits[Scenes]:
    """Captioned scenes whose glyphs, and so whose images, are others in every split.

    Args:
        seed: 0 to 999,999.
        train, validation, test: how many scenes.
        objects: fewest and most objects, 1 or 2.
        style, wordings, colours: as in `draw_scenes`.
        unseen: share of the (digit, colour) pairs that are kept for the test: no object of training or validation has
            one, every object of the test has one. With 0, all splits have all pairs.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> task = digits_captions(0, train=100)
        >>> tuple(task.train.x.shape), len(task.train.captions)
        ((100, 3, 16, 16), 100)
        >>> describe(3, 0, 0)
        'a red three at the top left'
    """
    if not 0 <= unseen < 1:
        raise ValueError(f"unseen must be from 0 to below 1, got {unseen}")
    _in_range("colours", colours, 1, len(COLOURS))
    draw = partial(draw_scenes, objects=objects, style=style, wordings=wordings, colours=colours)
    if unseen == 0:
        task = drawn(seed, draw, train=train, validation=validation, test=test, stream=SCENES)
    else:
        # For every digit a few consecutive colours, from a start that differs between the digits: all digits and all
        # colours occur in training, and all digits in the test.
        kept = min(colours - 1, max(1, round(unseen * colours)))
        if kept < 1:
            raise ValueError("unseen pairs need at least two colours, got 1")
        start = torch.arange(CLASSES)[:, None] + seed
        held_out = (torch.arange(colours) - start) % colours < kept
        seen = drawn(seed, partial(draw, allowed=~held_out), train=train, validation=validation, test=0, stream=SCENES)
        new = drawn(seed, partial(draw, allowed=held_out), train=0, validation=0, test=test, stream=SCENES)
        task = Splits(seen.train, seen.validation, new.test)
    check_disjoint(train=_keys(task.train), validation=_keys(task.validation), test=_keys(task.test))
    return task


def draw_scenes(
    pool: Split,
    n: int,
    generator: torch.Generator,
    *,
    objects: tuple[int, int] = (1, 2),
    style: str = "place",
    wordings: int = WORDINGS,
    colours: int = len(COLOURS),
    allowed: Bool[Tensor, "10 colours"] | None = None,
) -> Scenes:
    """Random scenes: digits, colours and places uniform, the number of objects too; two objects differ in digit.

    Args:
        pool: images [m, 1, 8, 8] to take the glyphs from, with every digit among them.
        n: how many scenes.
        generator: the source of randomness.
        objects: fewest and most objects, 1 or 2.
        style: captions name the "place" of every object; the "relation" of the two objects, where there are two; or
            "mixed", either with probability 1/2.
        wordings: out of how many wordings captions are drawn, 1 to 4 (relations have two at most).
        colours: how many colours there are, 1 to 6.
        allowed: which (digit, colour) pairs may occur; None for all.

    Example:
        >>> from palimpsest.tasks.digits import digits
        >>> generator = torch.Generator().manual_seed(0)
        >>> scenes = draw_scenes(digits(0).train, 50, generator, objects=(2, 2), style="relation")
        >>> parse(scenes.captions[0]).relation == scenes.relation[0]
        tensor(True)
    """
    _in_range("n", n, 0, 10**9)
    _in_range("wordings", wordings, 1, WORDINGS)
    _in_range("colours", colours, 1, len(COLOURS))
    if style not in STYLES:
        raise ValueError(f"style must be one of {', '.join(STYLES)}, got {style!r}")
    if not 1 <= objects[0] <= objects[1] <= 2:
        raise ValueError(f"objects must be (1, 1), (1, 2) or (2, 2), got {tuple(objects)}")
    allowed = torch.ones(CLASSES, colours, dtype=torch.bool) if allowed is None else allowed
    if allowed.shape != (CLASSES, colours) or int(allowed.any(1).sum()) < objects[1]:
        raise ValueError(
            f"allowed must be [{CLASSES}, {colours}] and leave {objects[1]} digits or more, "
            f"got {tuple(allowed.shape)} with {int(allowed.any(1).sum())}"
        )
    two = torch.randint(objects[0], objects[1] + 1, (n,), generator=generator) == 2
    present = torch.stack([torch.ones_like(two), two], 1)
    # Ranks of random numbers are a draw without replacement: two digits that differ, two places that differ.
    chance = torch.rand(n, CLASSES, generator=generator).masked_fill(~allowed.any(1), -1)
    digit = chance.argsort(1, descending=True)[:, :2]
    colour = torch.rand(n, 2, colours, generator=generator).masked_fill(~allowed[digit], -1).argmax(2)
    place = torch.rand(n, len(PLACES), generator=generator).argsort(1)[:, :2]
    related = (
        two
        & {
            "place": torch.zeros(n, dtype=torch.bool),
            "relation": torch.ones(n, dtype=torch.bool),
            "mixed": torch.rand(n, generator=generator) < 0.5,
        }[style]
    )
    wording = torch.randint(wordings, (n,), generator=generator)
    wording = torch.where(related, wording % len(RELATION_WORDINGS), wording)
    digit, colour, place = (torch.where(present, column, -1) for column in (digit, colour, place))
    index = torch.where(present, _glyph_index(pool, digit, generator), -1)
    return _scenes(digit, colour, place, torch.where(related, relation_of(place), -1), wording, index)


def render(
    index: Int[Tensor, "n 2"], colour: Int[Tensor, "n 2"], place: Int[Tensor, "n 2"]
) -> Float[Tensor, "n 3 16 16"]:
    """Scenes from the glyphs (rows of scikit-learn's table), colours and places of their objects; -1 is no object."""
    present = index >= 0
    ink = images_at(index.clamp_min(0)) * present[..., None, None, None] * PALETTE[colour][..., None, None]
    x = torch.zeros(len(index), 3, 2 * SIZE, 2 * SIZE)
    for quadrant in range(len(PLACES)):
        top, left = SIZE * (quadrant // 2), SIZE * (quadrant % 2)
        here = ((place == quadrant) & present)[..., None, None, None]
        x[:, :, top : top + SIZE, left : left + SIZE] = (ink * here).amax(1)
    return x


def relation_of(place: Int[Tensor, "n 2"]) -> Int[Tensor, " n"]:
    """How the first object lies to the second: left or right in the same row, else above or below; -1 for one object.

    >>> relation_of(torch.tensor([[0, 1], [0, 3], [2, 0], [3, -1]]))
    tensor([ 0,  2,  3, -1])
    """
    (first_row, second_row), (first, second) = (place // 2).T, (place % 2).T
    beside = torch.where(first < second, 0, 1)
    over = torch.where(first_row < second_row, 2, 3)
    return torch.where((place < 0).any(1), -1, torch.where(first_row == second_row, beside, over))


def describe(digit: int, colour: int | None = None, place: int | None = None, wording: int = 0) -> str:
    """One object in words, naming only what is given.

    >>> describe(8), describe(3, 1), describe(3, 1, 2, wording=3)
    ('an eight', 'a green three', 'the bottom left shows a green three')
    """
    for name, value, count in (
        ("digit", digit, len(DIGITS)),
        ("colour", colour or 0, len(COLOURS)),
        ("place", place or 0, len(PLACES)),
        ("wording", wording, WORDINGS),
    ):
        _in_range(name, value, 0, count - 1)
    words = [] if colour is None else [COLOURS[colour]]
    words.append(DIGITS[digit])
    noun = f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}"
    return noun if place is None else PLACE_WORDINGS[wording].format(a=noun, place=PLACES[place])


def parse(caption: str) -> Parsed:
    """What a caption says; the inverse of writing it, for every wording.

    >>> parse("there is a red three above a blue seven")
    Parsed(objects=((3, 0, None), (7, 2, None)), relation=2)

    Raises:
        ValueError: the caption was not written here.
    """
    relation = None
    clauses = caption.split(" and ")
    if len(clauses) == 1:
        for number, words in enumerate(RELATIONS):
            if f" {words} " in caption:
                relation, clauses = number, caption.split(f" {words} ")
    found = tuple(
        (_word(clause, DIGITS), _word(clause, COLOURS), _word(clause, PLACES) if relation is None else None)
        for clause in clauses
    )
    if len(clauses) > 2 or any(part is None for digit, colour, _ in found for part in (digit, colour)):
        raise ValueError(f"not a caption of a scene: {caption!r}")
    if relation is None and any(place is None for *_, place in found):
        raise ValueError(f"the caption names no place and no relation: {caption!r}")
    return Parsed(found, relation)


def caption_words() -> list[str]:
    """Every word that captions use, for a tokenizer.

    >>> "seven" in caption_words(), "left" in caption_words()
    (True, True)
    """
    phrases = (*DIGITS, *COLOURS, *PLACES, *RELATIONS, "a an and", "there is", "at the in corner shows")
    return sorted({word for phrase in phrases for word in phrase.split()})


def attribute_tokens(scenes: Scenes, concepts: Sequence[str] = ("digit", "colour", "place")) -> Int[Tensor, "n 6"]:
    """Scenes as six token ids: digit, colour and place of either object; 0 for nothing, or for a concept left out.

    Digits are 1 to 10, colours 11 to 16, places 17 to 20, so that a vocabulary has 21 entries.

    >>> from palimpsest.tasks.digits import digits
    >>> scenes = draw_scenes(digits(0).train, 3, torch.Generator().manual_seed(0), objects=(1, 1))
    >>> attribute_tokens(scenes, ("digit",))[:, 1:].any()
    tensor(False)
    """
    unknown = set(concepts) - {"digit", "colour", "place"}
    if unknown:
        raise ValueError(f"concepts must be among digit, colour and place, got {sorted(unknown)[0]!r}")
    offsets = {"digit": 1, "colour": 1 + len(DIGITS), "place": 1 + len(DIGITS) + len(COLOURS)}
    columns = [
        torch.where(getattr(scenes, concept) >= 0, getattr(scenes, concept) + offset, 0) * (concept in concepts)
        for concept, offset in offsets.items()
    ]
    return torch.stack(columns, 2).flatten(1)


def change(
    scenes: Scenes,
    generator: torch.Generator,
    *,
    concepts: Sequence[str] = CONCEPTS,
    colours: int = len(COLOURS),
    pool: Split | None = None,
) -> tuple[Scenes, Int[Tensor, " n"]]:
    """Every scene with exactly one concept changed, so that its caption is false for the scene it came from.

    digit: an object becomes a digit that the scene lacks; colour: another colour; place: an empty quadrant (where the
    caption names places); relation: the objects change places (where the caption names the relation); binding: the
    objects change digits, all the words staying the same. Concept and object are chosen uniformly among those that
    apply.

    Args:
        scenes: scenes to start from.
        generator: the source of randomness.
        concepts: which concepts may change, out of `CONCEPTS`.
        colours: how many colours there are, at least 2 and no fewer than the scenes use.
        pool: images to take new digits from; without one, `x` and `index` stay those of `scenes`.

    Returns:
        The changed scenes, worded like the others, and which concept was changed, by its position in `CONCEPTS`.

    Raises:
        ValueError: a concept is unknown, or none of them applies to some scene.
    """
    unknown = set(concepts) - set(CONCEPTS)
    if unknown:
        raise ValueError(f"concepts must be among {', '.join(CONCEPTS)}, got {sorted(unknown)[0]!r}")
    _in_range("colours", colours, max(2, 1 + max(scenes.colour.flatten().tolist(), default=0)), len(COLOURS))
    n = len(scenes)
    two, related = scenes.count == 2, scenes.relation >= 0
    always = torch.ones(n, dtype=torch.bool)
    applies = torch.stack([always, always, ~related, related, two], 1)
    applies &= torch.tensor([concept in concepts for concept in CONCEPTS])
    if not bool(applies.any(1).all()):
        row = int((~applies.any(1)).nonzero()[0])
        raise ValueError(f"none of {', '.join(concepts)} can change in the scene {scenes.captions[row]!r}")
    concept = torch.rand(applies.shape, generator=generator).masked_fill(~applies, -1).argmax(1)
    which = torch.randint(2, (n,), generator=generator) * two
    chosen = torch.arange(2) == which[:, None]

    def other(taken: Tensor, count: int) -> Tensor:
        chance = torch.rand(n, count + 1, generator=generator)
        # Column 0 stands for the absent object's -1, which is never drawn.
        return chance.scatter(1, torch.cat([taken + 1, torch.zeros_like(taken[:, :1])], 1), -1).argmax(1, True) - 1

    def changed(name: str, values: Tensor, new: Tensor) -> Tensor:
        return torch.where(chosen & (concept == CONCEPTS.index(name))[:, None], new, values)

    def swapped(name: str, values: Tensor) -> Tensor:
        return torch.where((concept == CONCEPTS.index(name))[:, None], values.flip(1), values)

    own_colour = scenes.colour.gather(1, which[:, None])
    digit = changed("digit", scenes.digit, other(scenes.digit, CLASSES))
    colour = changed("colour", scenes.colour, other(own_colour, colours))
    place = changed("place", scenes.place, other(scenes.place, len(PLACES)))
    index = scenes.index
    if pool is not None:
        index = changed("digit", index, _glyph_index(pool, digit, generator))
    digit, place, index = swapped("binding", digit), swapped("relation", place), swapped("binding", index)
    relation = torch.where(related, relation_of(place), -1)
    made = _scenes(digit, colour, place, relation, scenes.wording, index, scenes.x if pool is None else None)
    return made, concept


def hard_captions(
    scenes: Scenes,
    generator: torch.Generator,
    *,
    concepts: Sequence[str] = CONCEPTS,
    colours: int = len(COLOURS),
) -> tuple[tuple[str, ...], Int[Tensor, " n"]]:
    """A caption for every scene that is wrong in one concept, and which concept it is; see `change`.

    >>> from palimpsest.tasks.digits import digits
    >>> scenes = draw_scenes(digits(0).train, 20, torch.Generator().manual_seed(0), objects=(2, 2))
    >>> wrong, _ = hard_captions(scenes, torch.Generator().manual_seed(1), concepts=("binding",))
    >>> all(a != b and sorted(a.split()) == sorted(b.split()) for a, b in zip(wrong, scenes.captions))
    True
    """
    made, concept = change(scenes, generator, concepts=concepts, colours=colours)
    return made.captions, concept


def minimal_pairs(
    scenes: Scenes,
    pool: Split,
    generator: torch.Generator,
    *,
    concepts: Sequence[str] = CONCEPTS,
    colours: int = len(COLOURS),
) -> tuple[Scenes, Int[Tensor, " n"]]:
    """For every scene a second one, drawn anew, that differs in one concept, and which concept it is; see `change`.

    >>> from palimpsest.tasks.digits import digits
    >>> pool = digits(0).test
    >>> scenes = draw_scenes(pool, 20, torch.Generator().manual_seed(0))
    >>> second, _ = minimal_pairs(scenes, pool, torch.Generator().manual_seed(1), concepts=("colour",))
    >>> bool(((second.x - scenes.x).abs().sum((1, 2, 3)) > 0).all()), bool((second.place == scenes.place).all())
    (True, True)
    """
    return change(scenes, generator, concepts=concepts, colours=colours, pool=pool)


def mismatched(scenes: Scenes, rate: float, generator: torch.Generator) -> tuple[Scenes, Bool[Tensor, " n"]]:
    """Captions of exactly round(rate * n) scenes moved on by one among them, and which captions are still their own.

    A moved caption may be true by chance, where two scenes have the same one. With a single scene to move, none is.

    >>> from palimpsest.tasks.digits import digits
    >>> scenes = draw_scenes(digits(0).train, 100, torch.Generator().manual_seed(0))
    >>> mixed, own = mismatched(scenes, 0.2, torch.Generator().manual_seed(1))
    >>> int(own.sum())
    80
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must be from 0 to 1, got {rate}")
    moved = torch.randperm(len(scenes), generator=generator)[: round(rate * len(scenes))]
    moved = moved if len(moved) > 1 else moved[:0]
    source = torch.arange(len(scenes))
    source[moved] = moved.roll(1)
    captions = tuple(scenes.captions[row] for row in source.tolist())
    return dataclasses.replace(scenes, captions=captions), source == torch.arange(len(scenes))


def pair_scores(similarity: Float[Tensor, "n 2 2"]) -> dict[str, Bool[Tensor, " n"]]:
    """Which pairs of images and captions are told apart, from similarity[:, image, caption] (pairs on the diagonal).

    text: for either image, its own caption is more similar than the other's; image: for either caption, its own image
    is; group: both. Chance is 1/4, 1/4 and 1/6. Equal similarities count as wrong.

    >>> pair_scores(torch.tensor([[[2.0, 1.0], [0.0, 3.0]]]))
    {'text': tensor([True]), 'image': tensor([True]), 'group': tensor([True])}
    """
    if similarity.shape[1:] != (2, 2):
        raise ValueError(f"similarity must be [n, 2, 2], got {tuple(similarity.shape)}")
    own = similarity.diagonal(dim1=1, dim2=2)
    text = (own > similarity.flip(2).diagonal(dim1=1, dim2=2)).all(1)
    image = (own > similarity.flip(1).diagonal(dim1=1, dim2=2)).all(1)
    return {"text": text, "image": image, "group": text & image}


def _scenes(
    digit: Tensor,
    colour: Tensor,
    place: Tensor,
    relation: Tensor,
    wording: Tensor,
    index: Tensor,
    x: Tensor | None = None,
) -> Scenes:
    captions = tuple(
        _caption(*row)
        for row in zip(*(column.tolist() for column in (digit, colour, place, relation, wording)), strict=True)
    )
    x = render(index, colour, place) if x is None else x
    return Scenes(x, digit, colour, place, relation, wording, index, captions)


def _caption(digit: list[int], colour: list[int], place: list[int], relation: int, wording: int) -> str:
    if relation >= 0:
        first, second = (describe(*attributes) for attributes in zip(digit, colour, strict=True))
        return RELATION_WORDINGS[wording].format(a=first, b=second, relation=RELATIONS[relation])
    return " and ".join(
        describe(*attributes, wording) for attributes in zip(digit, colour, place, strict=True) if attributes[0] >= 0
    )


def _glyph_index(pool: Split, digit: Int[Tensor, "n 2"], generator: torch.Generator) -> Int[Tensor, "n 2"]:
    """Random images of the given digits; where there is no object, of any."""
    return pool.index[glyphs(pool, torch.where(digit >= 0, digit, digit[:, :1]), generator)]


def _word(clause: str, words: Sequence[str]) -> int | None:
    return next((number for number, word in enumerate(words) if f" {word} " in f" {clause} "), None)


def _keys(scenes: Scenes) -> list[tuple[int, ...]]:
    """What is seen, whatever the order of the objects and the wording."""
    rows = zip(scenes.index.tolist(), scenes.colour.tolist(), scenes.place.tolist(), strict=True)
    return [tuple(sorted(zip(*row, strict=True))) for row in rows]


def _in_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low} to {high}, got {value}")
