"""Freezing: what may change and what may not, in a classifier and in a language model."""

import torch
from tests.retain.streams import model, stream
from tests.retain.test_tokens import model as language_model
from tests.retain.test_tokens import stream as token_rows

from palimpsest.models.blocks import blocks
from palimpsest.retain import Freeze, learn_stream


def changed(before, after):
    return {name for name, p in after.named_parameters() if not torch.equal(before.get_parameter(name), p)}


def test_the_first_task_trains_all_layers_and_later_ones_the_last():
    settings = {"steps": 2, "lr": 1e-2, "batch_size": 8, "progress": False}
    data = stream()
    known = learn_stream(model(), Freeze(), data, already=3, **settings).model
    assert changed(model(), known) == set()
    learned = learn_stream(model(), Freeze(), data, already=1, **settings).model
    assert changed(model(), learned) == {"head.weight", "head.bias"}
    assert changed(model(), learn_stream(model(), Freeze(), data, **settings).model) > {"head.weight"}
    assert all(p.requires_grad for p in learned.parameters())


def test_of_a_language_model_the_last_blocks_learn():
    before = language_model()
    settings = {"already": 1, "steps": 2, "lr": 1e-2, "progress": False}
    learned = learn_stream(language_model(), Freeze(layers=1), token_rows(), **settings).model
    own = {name for name, _ in blocks(learned)[-1].named_parameters(prefix="model.layers.1")}
    assert changed(before, learned) == own
