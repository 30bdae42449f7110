"""Letters in many faces: which are told apart, disjoint test parts, unseen classes, episodes and views."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from palimpsest.tasks import digits_views
from palimpsest.tasks import glyphs as room
from palimpsest.tasks.glyphs import (
    CHOICE,
    FACES,
    KINDS,
    PARTS,
    SEEN,
    TEST,
    TRAIN,
    UNSEEN,
    augment,
    digest,
    episode,
    glyphs,
    letters,
    unseen_glyphs,
    view_batches,
    views,
)

ALL = len(FACES)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module", autouse=True)
def drawn():
    """The fonts are read once, which is no test's own time."""
    return room._pool()


def test_of_letters_that_look_alike_one_is_kept():
    known = set(letters())
    assert len(known) == SEEN + UNSEEN
    for alike in ("AΑА", "oοо", "PΡР", "KΚ", "ÐĐ", "iі"):
        assert len(known & set(alike)) == 1, alike
    assert set("oOcCÖŌØЖжΨ") <= known


def test_letters_that_look_alike_in_most_faces_are_found():
    x = np.zeros((4, 3, room.SIDE, room.SIDE), np.uint8)
    x[:, :, 4:12, 4:12] = 200
    x[1, 0, 20:24, 20:24] = 200  # differs in one face of three
    x[2, :2, 20:24, 20:24] = 200  # in two of three
    x[3, :, 4, 4] = 100  # everywhere, but by less than 2% of the ink
    assert room._distinct(x) == [0, 2]


def test_letters_stand_in_the_middle_and_on_their_line(drawn):
    characters, x = drawn
    assert max(x[..., 0].max(), x[..., -1].max()) == 0
    columns = x.sum(2, dtype=np.int64)
    centre = (columns > 0).argmax(-1) + (columns[..., ::-1] > 0).argmax(-1)
    assert abs(centre).max() < room.SIDE
    below = {character: x[characters.index(character), 0, 21:].sum() for character in "xpEg"}
    assert below["x"] == below["E"] == 0 < min(below["p"], below["g"])
    height = {character: (x[characters.index(character), 0].sum(1) > 0).sum() for character in "oO"}
    assert height["o"] < height["O"]


def test_twenty_seeds_are_tested_on_twenty_disjoint_parts():
    tests = torch.cat([glyphs(seed).test.index for seed in range(100, 100 + PARTS)])
    assert tests.unique().numel() == len(tests) == SEEN * TEST
    asked = torch.cat([unseen_glyphs(seed).queries.index for seed in range(100, 100 + PARTS)])
    assert asked.unique().numel() == len(asked) == (UNSEEN - CHOICE) * ALL
    assert torch.equal(glyphs(100 + PARTS).test.index, glyphs(100).test.index)
    assert not torch.equal(glyphs(100 + PARTS).test.x, glyphs(100).test.x)  # other views of them


def test_no_image_is_in_two_splits_of_any_seeds():
    tested = torch.cat([glyphs(seed).test.index for seed in range(PARTS)])
    validation = glyphs(0).validation
    for seed in (0, 7):
        train = glyphs(seed).train
        assert torch.cat([train.index, validation.index, tested]).unique().numel() == SEEN * ALL
        assert train.y.bincount().tolist() == [TRAIN] * SEEN
    assert validation.y.unique().numel() == SEEN
    assert (train.domain.bincount(minlength=ALL) > 0).all()
    few, more = glyphs(7, train=2).train, glyphs(7, train=3).train
    assert torch.isin(few.index, more.index).all()
    assert not torch.equal(few.index, glyphs(8, train=2).train.index)


def test_unseen_letters_are_no_letters_of_training_and_every_query_has_its_class_in_the_gallery():
    validation, test = unseen_glyphs(3, "validation"), unseen_glyphs(3)
    labels = [set(torch.cat([each.queries.y, each.gallery.y]).tolist()) for each in (validation, test)]
    assert labels == [set(range(SEEN, SEEN + CHOICE)), set(range(SEEN + CHOICE, SEEN + UNSEEN))]
    assert glyphs(3).train.y.max() < SEEN
    for each in (validation, test):
        assert torch.isin(each.queries.y, each.gallery.y).all()
        assert not torch.isin(each.queries.index, each.gallery.index).any()
    assert torch.equal(unseen_glyphs(9, "validation").queries.x, validation.queries.x)


def test_pixels_find_some_letters_and_views_make_them_hard_to_find():
    def found(strength):
        right = []
        for seed in range(5):
            search = unseen_glyphs(seed, strength=strength)
            query, gallery = (normalize(each.x.flatten(1)) for each in (search.queries, search.gallery))
            right.append(search.gallery.y[(query @ gallery.T).argmax(1)] == search.queries.y)
        return torch.cat(right).float().mean()

    assert 0.4 < found(0.0) < 0.7
    assert 0.1 < found(0.7) < 0.3


def test_an_episode_shows_every_class_and_asks_for_others_images():
    search = unseen_glyphs(0)
    support, queries = episode(search, gen(), ways=7, shots=3)
    assert support.y.tolist() == [label for label in range(7) for _ in range(3)]
    assert set(queries.y.tolist()) == set(range(7))
    assert not torch.isin(queries.index, support.index).any()
    for part in (support, queries):  # one letter a label, the same in both
        assert {(int(label), int(row) // ALL) for label, row in zip(part.y, part.index, strict=True)} == {
            (label, int(support.index[3 * label]) // ALL) for label in range(7)
        }
    again, _ = episode(search, gen(), ways=7, shots=3)
    assert torch.equal(again.index, support.index)


def test_a_stroke_grows_or_shrinks_by_the_strength_and_stays_in_bounds():
    x = glyphs(0, strength=0).validation.x
    changed = augment(x, gen(), kinds=("stroke",), strength=1.0)
    assert ((changed >= x).flatten(1).all(1) | (changed <= x + 1e-6).flatten(1).all(1)).all()
    grown = (changed.sum((1, 2, 3)) > x.sum((1, 2, 3))).float().mean()
    assert 0.4 < grown < 0.6
    assert 0 <= changed.min() <= changed.max() <= 1
    mild = augment(x, gen(), kinds=("stroke",), strength=0.5)
    torch.testing.assert_close(mild - x, (changed - x) / 2)


def test_other_changes_are_those_of_the_digits():
    x = glyphs(0, strength=0).test.x
    draws = gen()
    torch.rand(len(x), generator=draws)
    expected = digits_views.augment(x, draws, kinds=KINDS[1:], strength=0.7)
    assert torch.equal(augment(x, gen(), kinds=KINDS[1:]), expected)


def test_batches_depend_on_seed_and_step_alone():
    train = glyphs(0).train
    batch = view_batches(train, 64, seed=3)(7)
    later = view_batches(train, 64, seed=3)
    later(0)
    assert all(torch.equal(value, later(7)[name]) for name, value in batch.items())
    assert torch.equal(batch["labels"], train.y[batch["index"]])
    assert not torch.equal(batch["views"][:, 0], batch["views"][:, 1])
    assert not torch.equal(view_batches(train, 64, seed=4)(7)["index"], batch["index"])


def test_sides_and_the_digest():
    assert glyphs(0, size=20).train.x.shape == (SEEN * TRAIN, 1, 20, 20)
    assert unseen_glyphs(0, size=14).gallery.x.shape[-1] == 14
    assert len(digest()) == 64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: glyphs(0, train=0), "train must be from 1 to 5, got 0"),
        (lambda: glyphs(0, train=6), "train must be from 1 to 5, got 6"),
        (lambda: unseen_glyphs(0, "train"), "part must be 'validation' or 'test', got 'train'"),
        (lambda: episode(unseen_glyphs(0), gen(), ways=1), "ways must be from 2 to "),
        (lambda: episode(unseen_glyphs(0), gen(), shots=12), "shots must be from 1 to "),
        (lambda: views(torch.zeros(1, 1, 4, 4), gen(), n=0), "n must be at least 1, got 0"),
        (lambda: augment(torch.zeros(1, 1, 4, 4), gen(), kinds=("flip",)), "got 'flip'"),
        (lambda: glyphs(0, strength=-1), "got -1"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
