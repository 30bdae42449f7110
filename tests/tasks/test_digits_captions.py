"""Captions as tokens, and what they are true of, against reading them."""

import pytest
import torch

from palimpsest.tasks.digits import digits
from palimpsest.tasks.digits_captions import LENGTH, WORDS, caption_tokens, fits
from palimpsest.tasks.digits_scenes import draw_scenes, parse


def scenes(style="place", n=200, objects=(1, 2), colours=2):
    generator = torch.Generator().manual_seed(0)
    return draw_scenes(digits(0).test, n, generator, objects=objects, style=style, colours=colours)


@pytest.mark.parametrize("style", ["place", "relation", "mixed"])
def test_every_caption_can_be_read_back_from_its_tokens(style):
    made = scenes(style)
    words = {number: word for word, number in WORDS.items()}
    for row, caption in zip(caption_tokens(made.captions).tolist(), made.captions, strict=True):
        assert " ".join(words[number] for number in row if number) == caption


def test_words_that_no_caption_has_and_captions_too_long_are_refused():
    for caption in ("a purple three", "", "a " * (LENGTH + 1)):
        with pytest.raises(ValueError, match="not the caption"):
            caption_tokens([caption])


def naive_fits(made):
    """Read from the captions, one pair of scenes at a time."""

    def says(caption):
        found = parse(caption)
        if found.relation is None:
            return frozenset(found.objects)
        first, second = found.objects if found.relation in (0, 2) else found.objects[::-1]
        return first, second, found.relation in (0, 1)

    meanings = [says(caption) for caption in made.captions]
    return torch.tensor([[one == other for other in meanings] for one in meanings])


@pytest.mark.parametrize("style", ["place", "relation"])
def test_which_captions_are_true_is_what_reading_them_says(style):
    made = scenes(style, objects=(1, 2) if style == "place" else (2, 2))
    found = fits(made)
    assert torch.equal(found, naive_fits(made))
    assert found.sum() > len(made), "the seed should give scenes that share a caption's meaning"


def test_of_mixed_captions_each_is_judged_by_what_it_names():
    made = scenes("mixed", objects=(2, 2))
    found = fits(made)
    assert found.diagonal().all()
    named = made.relation < 0
    assert torch.equal(found[named][:, named], naive_fits(made[named]))
    assert torch.equal(found[~named][:, ~named], naive_fits(made[~named]))
