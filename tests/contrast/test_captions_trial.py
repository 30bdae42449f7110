"""The trial on captioned scenes: what it shows the towers, what it searches, and that it learns."""

import dataclasses

import pytest
import torch

from palimpsest.contrast.captions_trial import Captioned, CaptionsTrial
from palimpsest.contrast.siglip import SigmoidLoss
from palimpsest.contrast.siglip_measures import softmax_loss
from palimpsest.tasks.digits_captions import caption_tokens, fits
from palimpsest.tasks.digits_scenes import parse


def test_batches_hold_scenes_then_their_near_duplicates():
    trial = CaptionsTrial(0, smoke=True, batch_size=24, near=2)
    batch = trial.batches(5)
    assert torch.equal(batch["images"], trial.pairs.x[batch["index"]])
    anchors, first, second = batch["index"].split(8)
    n = len(trial.splits.train)
    assert anchors.max() < n
    assert torch.equal(first, anchors + n)
    assert torch.equal(second, anchors + 2 * n)
    rows = trial.pairs
    for anchor, copy in zip(anchors.tolist(), first.tolist(), strict=True):
        assert rows.captions[anchor] != rows.captions[copy]
        same = [parse(rows.captions[row]) for row in (anchor, copy)]
        assert len(same[0].objects) == len(same[1].objects)
    assert not fits(rows)[anchors, first].any()
    assert torch.equal(batch["tokens"], caption_tokens([rows.captions[row] for row in batch["index"].tolist()]))


def test_near_duplicates_differ_in_one_concept():
    trial = CaptionsTrial(0, smoke=True, batch_size=8, near=1)
    n = len(trial.splits.train)
    one, other = trial.pairs[:n], trial.pairs[n:]
    changed = [(getattr(one, concept) != getattr(other, concept)).any(1) for concept in ("digit", "colour", "place")]
    assert (torch.stack(changed).sum(0) == 1).all()
    assert len(trial.gallery) == 2 * len(trial.splits.test)


def test_test_scenes_share_no_glyph_with_training():
    trial = CaptionsTrial(0, smoke=True, batch_size=8, near=1)
    trained = set(trial.pairs.index.flatten().tolist()) - {-1}
    assert not trained & set(trial.gallery.index.flatten().tolist())
    assert not trained & set(trial.singles.index.flatten().tolist())
    assert (trial.singles.count == 1).all()


def test_settings_are_chosen_on_glyphs_that_no_test_scene_has():
    test = CaptionsTrial(0, smoke=True, batch_size=8, near=1)
    validation = dataclasses.replace(test, searched="validation")
    glyphs = [set(torch.cat([t.gallery.index, t.singles.index]).unique().tolist()) - {-1} for t in (test, validation)]
    assert not glyphs[0] & glyphs[1]
    assert len(validation.gallery) == 2 * len(validation.splits.validation)
    assert torch.equal(test.pairs.x, validation.pairs.x)


def test_prompts_are_the_captions_of_single_digits():
    trial = CaptionsTrial(0, smoke=True, colours=2, wordings=1)
    assert [len(prompts) for prompts in trial.prompts] == [8] * 10
    assert "a green three at the top left" in trial.prompts[3]
    assert set(trial.singles.captions) & {prompt for prompts in trial.prompts for prompt in prompts}


def test_a_run_is_repeatable_and_trains_what_the_loss_brings():
    trial, runs = CaptionsTrial(0, smoke=True, batch_size=8), []
    for _ in range(2):
        loss = SigmoidLoss()
        runs.append(trial.measures(trial.fit(Captioned(loss), trial.model({"loss": loss}))))
        assert loss.b.item() != -10.0
    assert runs[0] == runs[1]


def test_a_run_learns():
    # One colour and single digits: little to learn.
    trial = CaptionsTrial(0, batch_size=32, steps=50, train=300, test=60, objects=(1, 1), colours=1, wordings=1)
    before, learned = trial.measures(trial.model()), trial.measures(trial.fit(Captioned(softmax_loss)))
    assert learned["R@1"] > before["R@1"] + 0.2
    assert set(learned) == {"zero-shot digit accuracy", "R@1", "image to text R@1", "text to image R@1"}
    assert learned["R@1"] == pytest.approx((learned["image to text R@1"] + learned["text to image R@1"]) / 2)


def test_the_weights_depend_on_the_seed_alone():
    one, other = CaptionsTrial(3, smoke=True).model(), CaptionsTrial(3, smoke=True, batch_size=8).model()
    third = CaptionsTrial(4, smoke=True).model()
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(one.images(x), other.images(x))
    assert not torch.equal(one.images(x), third.images(x))


@pytest.mark.parametrize(("field", "value"), [("near", -1), ("near", 2), ("batch_size", 0), ("searched", "all")])
def test_refusals(field, value):
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(CaptionsTrial(0, smoke=True), **{field: value})
