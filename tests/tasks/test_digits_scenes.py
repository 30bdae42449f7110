import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest.tasks.digits import digit_of, digits, images_at
from palimpsest.tasks.digits_images import PALETTE
from palimpsest.tasks.digits_scenes import (
    COLOURS,
    CONCEPTS,
    DIGITS,
    PLACES,
    RELATIONS,
    WORDINGS,
    attribute_tokens,
    caption_words,
    change,
    describe,
    digits_captions,
    draw_scenes,
    hard_captions,
    minimal_pairs,
    mismatched,
    pair_scores,
    parse,
    relation_of,
    render,
)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pool():
    return digits(0).train


def true_of(parsed, scenes, row):
    """Whether what a caption says holds for a scene, whatever the order of its objects."""
    objects = {
        (d, c, p)
        for d, c, p in zip(*(a[row].tolist() for a in (scenes.digit, scenes.colour, scenes.place)), strict=True)
        if d >= 0
    }
    if parsed.relation is None:
        return set(parsed.objects) == objects
    placed = [[p for d, c, p in objects if (d, c) == (digit, colour)] for digit, colour, _ in parsed.objects]
    if not all(placed):
        return False
    (first_row, first), (second_row, second) = (divmod(place[0], 2) for place in placed)
    return (
        first < second,
        first > second,
        first_row < second_row,
        first_row > second_row,
    )[parsed.relation]


@pytest.mark.parametrize("style", ["place", "relation", "mixed"])
def test_captions_say_what_the_scene_shows(pool, style):
    scenes = draw_scenes(pool, 400, gen(), style=style)
    for row, caption in enumerate(scenes.captions):
        parsed = parse(caption)
        assert true_of(parsed, scenes, row)
        assert len(parsed.objects) == scenes.count[row]
        assert (-1 if parsed.relation is None else parsed.relation) == scenes.relation[row]
        assert [d for d, _, _ in parsed.objects] == scenes.digit[row][: scenes.count[row]].tolist()
    related = (scenes.relation >= 0).sum() / (scenes.count == 2).sum()
    assert related == pytest.approx({"place": 0, "relation": 1, "mixed": 0.5}[style], abs=0.1)
    assert set(scenes.wording.tolist()) == set(range(WORDINGS))
    assert set(" ".join(scenes.captions).split()) <= set(caption_words())


@given(st.integers(0, 9), st.integers(0, 5), st.integers(0, 3), st.integers(0, WORDINGS - 1))
def test_every_single_object_is_read_back(digit, colour, place, wording):
    parsed = parse(describe(digit, colour, place, wording))
    assert parsed.objects == ((digit, colour, place),)
    assert parsed.relation is None


def test_images_show_the_attributes(pool):
    scenes = draw_scenes(pool, 200, gen(), objects=(1, 2))
    assert scenes.x.shape == (200, 3, 16, 16)
    for row in range(200):
        canvas = torch.zeros(3, 16, 16)
        for k in range(int(scenes.count[row])):
            top, left = 8 * (int(scenes.place[row, k]) // 2), 8 * (int(scenes.place[row, k]) % 2)
            glyph = images_at(scenes.index[row, k])[0]
            assert digit_of(scenes.index[row, k]) == scenes.digit[row, k]
            canvas[:, top : top + 8, left : left + 8] = PALETTE[scenes.colour[row, k]][:, None, None] * glyph
        assert torch.equal(scenes.x[row], canvas)


def test_attributes_are_uniform_and_objects_differ_in_digit_and_place(pool):
    scenes = draw_scenes(pool, 6000, gen(), objects=(2, 2))
    for attribute, count in ((scenes.digit, 10), (scenes.colour, 6), (scenes.place, 4)):
        for column in attribute.T:
            assert (column.bincount(minlength=count) / 6000 - 1 / count).abs().max() < 0.02
    assert (scenes.digit[:, 0] != scenes.digit[:, 1]).all()
    assert (scenes.place[:, 0] != scenes.place[:, 1]).all()
    single = draw_scenes(pool, 1000, gen())
    assert (single.count == 1).float().mean() == pytest.approx(0.5, abs=0.05)


def test_splits_share_no_glyph(pool):
    task = digits_captions(0, train=300, validation=100, test=200)
    used = [set(part.index.flatten().tolist()) - {-1} for part in (task.train, task.validation, task.test)]
    assert not used[0] & used[1] | used[0] & used[2] | used[1] & used[2]


@pytest.mark.parametrize("unseen", [0.2, 0.5])
@pytest.mark.parametrize("seed", [0, 5])
def test_kept_pairs_of_digit_and_colour_occur_in_the_test_alone(unseen, seed):
    task = digits_captions(seed, train=2000, test=600, unseen=unseen)

    def combinations(scenes):
        both = torch.stack([scenes.digit, scenes.colour], 2).flatten(0, 1)
        return {tuple(pair) for pair in both.tolist() if pair[0] >= 0}

    train, validation, test = (combinations(part) for part in (task.train, task.validation, task.test))
    assert not (train | validation) & test
    assert len(train) + len(test) == 60
    assert len(test) == round(unseen * 6) * 10
    for part in (train, test):
        assert {digit for digit, _ in part} == set(range(10))
        assert {colour for _, colour in part} == set(range(6))


@given(st.integers(0, 10**6), st.sampled_from(["place", "relation", "mixed"]))
@settings(deadline=None, max_examples=20)
def test_hard_captions_are_false_and_wrong_in_one_concept(seed, style):
    scenes = draw_scenes(digits(0).train, 40, gen(seed), style=style)
    wrong, concept = hard_captions(scenes, gen(seed))
    for row, caption in enumerate(wrong):
        said, true = parse(caption), parse(scenes.captions[row])
        assert not true_of(said, scenes, row)
        name = CONCEPTS[int(concept[row])]
        changed = [
            sum(a[part] != b[part] for a, b in zip(said.objects, true.objects, strict=True)) for part in range(3)
        ]
        expected = {
            "digit": [1, 0, 0],
            "colour": [0, 1, 0],
            "place": [0, 0, 1],
            "relation": [0, 0, 0],
            "binding": [2, 0, 0],
        }
        assert changed == expected[name]
        assert (said.relation != true.relation) == (name == "relation")
        if name == "binding":
            assert sorted(caption.split()) == sorted(scenes.captions[row].split())


@pytest.mark.parametrize("concept", CONCEPTS)
def test_minimal_pairs_differ_in_one_concept_and_are_drawn_as_they_say(concept):
    pool = digits(0).test
    scenes = draw_scenes(pool, 200, gen(), objects=(2, 2), style="relation" if concept == "relation" else "place")
    second, which = minimal_pairs(scenes, pool, gen(1), concepts=(concept,))
    assert set(which.tolist()) == {CONCEPTS.index(concept)}
    assert torch.equal(second.x, render(second.index, second.colour, second.place))
    assert torch.equal(digit_of(second.index), second.digit)
    assert torch.isin(second.index, pool.index).all()
    assert torch.equal(second.wording, scenes.wording)
    differs = {
        name: (getattr(second, name) != getattr(scenes, name)).sum(1) for name in ("digit", "colour", "place", "index")
    }
    expected = {
        "digit": (1, 0, 0, 1),
        "colour": (0, 1, 0, 0),
        "place": (0, 0, 1, 0),
        "relation": (0, 0, 2, 0),
        "binding": (2, 0, 0, 2),
    }[concept]
    for name, count in zip(differs, expected, strict=True):
        assert (differs[name] == count).all()
    for row in range(200):
        assert true_of(parse(second.captions[row]), second, row)
        assert not true_of(parse(second.captions[row]), scenes, row)
        assert not true_of(parse(scenes.captions[row]), second, row)
    both = torch.stack([second.digit, second.place])
    assert (both[..., 0] != both[..., 1]).all()


def test_a_changed_colour_is_one_of_those_in_use():
    scenes = draw_scenes(digits(0).test, 100, gen(), colours=3)
    made, _ = change(scenes, gen(1), concepts=("colour",), colours=3)
    assert made.colour.max() == 2
    with pytest.raises(ValueError, match="colours must be from 3 to 6, got 2"):
        change(scenes, gen(1), colours=2)


def test_without_a_pool_images_stay():
    scenes = draw_scenes(digits(0).test, 20, gen())
    made, _ = change(scenes, gen(1))
    assert made.x is scenes.x
    with pytest.raises(ValueError, match="none of binding can change"):
        change(draw_scenes(digits(0).test, 5, gen(), objects=(1, 1)), gen(), concepts=("binding",))
    with pytest.raises(ValueError, match="got 'size'"):
        change(scenes, gen(), concepts=("size",))


def test_relations_are_read_off_the_places():
    place = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    place = place[place[:, 0] != place[:, 1]]
    opposite = relation_of(place.flip(1))
    assert torch.equal(relation_of(place) // 2, opposite // 2)
    assert torch.equal(relation_of(place) % 2, 1 - opposite % 2)
    assert RELATIONS[relation_of(torch.tensor([[1, 0]]))] == "right of"
    assert RELATIONS[relation_of(torch.tensor([[3, 0]]))] == "below"


def test_mismatched_captions_are_as_many_as_asked_and_belong_to_others(pool):
    scenes = draw_scenes(pool, 200, gen())
    mixed, own = mismatched(scenes, 0.5, gen(1))
    assert own.sum() == 100
    assert sorted(mixed.captions) == sorted(scenes.captions)
    for row, mine in enumerate(own.tolist()):
        if mine:
            assert mixed.captions[row] == scenes.captions[row]
    moved = sum(a != b for a, b in zip(mixed.captions, scenes.captions, strict=True))
    assert 95 <= moved <= 100
    assert torch.equal(mixed.x, scenes.x)
    assert mismatched(scenes, 0, gen())[1].all()
    with pytest.raises(ValueError, match=r"got 1\.5"):
        mismatched(scenes, 1.5, gen())


def test_pair_scores_by_hand_and_by_chance():
    similarity = torch.tensor(
        [
            [[2.0, 1.0], [0.0, 3.0]],  # all right
            [[2.0, 1.0], [3.0, 4.0]],  # either image finds its caption, the first caption finds the second image
            [[2.0, 3.0], [1.0, 4.0]],  # the other way round
            [[1.0, 1.0], [1.0, 1.0]],  # undecided
        ]
    )
    scores = pair_scores(similarity)
    assert scores["text"].tolist() == [True, True, False, False]
    assert scores["image"].tolist() == [True, False, True, False]
    assert scores["group"].tolist() == [True, False, False, False]
    chance = {name: s.float().mean() for name, s in pair_scores(torch.rand(60_000, 2, 2, generator=gen())).items()}
    assert chance["text"] == pytest.approx(1 / 4, abs=0.01)
    assert chance["image"] == pytest.approx(1 / 4, abs=0.01)
    assert chance["group"] == pytest.approx(1 / 6, abs=0.01)


def test_tokens_name_the_attributes(pool):
    scenes = draw_scenes(pool, 300, gen())
    words = ["", *DIGITS, *COLOURS, *PLACES]
    for row, tokens in enumerate(attribute_tokens(scenes).tolist()):
        said = [words[token] for token in tokens if token]
        expected = []
        for digit, colour, place in parse(scenes.captions[row]).objects:
            expected += [DIGITS[digit], COLOURS[colour], PLACES[place]]
        assert said == expected
    some = attribute_tokens(scenes, ("digit", "place"))
    assert not some[:, [1, 4]].any()
    assert some[:, 0].all()


def test_rows_are_taken_with_their_captions(pool):
    scenes = draw_scenes(pool, 10, gen())
    part = scenes[[7, 2]]
    assert part.captions == (scenes.captions[7], scenes.captions[2])
    assert torch.equal(part.x, scenes.x[[7, 2]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pool: draw_scenes(pool, 1, gen(), objects=(0, 1)), r"got \(0, 1\)"),
        (lambda pool: draw_scenes(pool, 1, gen(), style="prose"), "got 'prose'"),
        (lambda pool: draw_scenes(pool, 1, gen(), colours=7), "colours must be from 1 to 6, got 7"),
        (lambda pool: draw_scenes(pool, 1, gen(), wordings=0), "wordings must be from 1 to 4, got 0"),
        (lambda pool: draw_scenes(pool, -1, gen()), "got -1"),
        (lambda pool: draw_scenes(pool, 1, gen(), allowed=torch.zeros(10, 6, dtype=torch.bool)), "with 0"),
        (lambda pool: draw_scenes(pool.of((1, 2)), 50, gen()), "no image of the digit"),
        (lambda pool: digits_captions(0, unseen=1.0), "got 1.0"),
        (lambda pool: digits_captions(0, unseen=0.5, colours=1), "at least two colours"),
        (lambda pool: describe(10), "digit must be from 0 to 9, got 10"),
        (lambda pool: parse("a red balloon at the top left"), "not a caption"),
        (lambda pool: parse("a red three"), "names no place"),
        (lambda pool: attribute_tokens(draw_scenes(pool, 1, gen()), ("size",)), "got 'size'"),
        (lambda pool: pair_scores(torch.zeros(3, 2)), r"got \(3, 2\)"),
    ],
)
def test_bad_arguments_are_refused(pool, call, message):
    with pytest.raises(ValueError, match=message):
        call(pool)
