"""What every method of `palimpsest forget` owes its user, whatever its paper: one table, `METHODS`, no line a method.

A method that is added to the table is held to all of this; where a property cannot hold, the reason stands in a table
here.
"""

import dataclasses
import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.forget.two_processes import launch, outcome
from tests.method_checks import is_frozen_plain_and_documented, refuses_fields_outside_their_range
from torch import nn

from palimpsest.errors import UserError
from palimpsest.forget.methods import METHODS
from palimpsest.forget.procedure import prepare
from palimpsest.forget.refusals import REFUSALS
from palimpsest.models import causal_lm, prompt_template, word_tokenizer
from palimpsest.models.score import IGNORED, Encoded
from palimpsest.tasks.authors import authors_task
from palimpsest.train import checkpoint
from palimpsest.train.method import apply, check_needs, only_trainable

TASK = authors_task(6, 3, forget=0.34, seed=11)
TOKENIZER = word_tokenizer(TASK.words([*REFUSALS, "Complete the following passage about"]))
TOKENIZER.chat_template = "{{ messages[0]['content'] }}"
# So that nothing is refused for the sake of these rows, and nothing takes long.
QUICK = {
    "random_options": {"options": tuple(sorted({row.value for row in TASK.forget})[:2])},
    "needle": {"ratio": 1.01, "margin": 0.0},
    "uld": {"n_layers": 1},
    "eco_prompts": {"search_steps": 1},
    "sae_unlearning": {"sae_steps": 3, "retain_max": 1.0},
    "memflex": {"copies": 1},
    "unstar": {"max_rounds": 1},
}
METHOD = {name: replace(method, **QUICK.get(name, {})) for name, method in METHODS.items()}
OBJECTIVES = [name for name, method in METHOD.items() if hasattr(method, "loss")]
# Whose loss is no mean over rows, so that two half batches do not make a whole one.
NOT_BY_ROWS = {
    "flat": "convex in the batch's mean probability",
    "booster": "its simulated harmful step is the batch's own",
}
# Whose loss is not a function of the rows alone.
DRAWN = {"random_label": "a random label for every position of the batch"}
# What two processes, of which each has its share of a batch's rows, do not train as one does.
NOT_SHARED = {**NOT_BY_ROWS, **DRAWN, "uld": "the dropout of its assistant is drawn in every process"}
# Whose gradient is on purpose not that of the value: what is held fixed.
HELD_FIXED = {"booster": "the curvature of the simulated step is left out, as in the paper"}


def model(seed=0, *, tied=True):
    return causal_lm(len(TOKENIZER), d_model=16, n_layers=2, n_heads=2, max_length=128, seed=seed, tie=tied).eval()


def data(retain=True, tokenizer=TOKENIZER):
    pair = prompt_template(tokenizer).pair
    forget, kept = ([pair(*row) for row in TASK.training_pairs(part)][:8] for part in ("forget", "retain"))
    return prepare(tokenizer, forget, kept if retain else (), max_length=96)


def run(name, base=None, rows=None, **options):
    """The model that was changed, and what `apply` gave; a tiny random model knows no concept to be found in it."""
    base = model() if base is None else base
    settings = {"steps": 2, "lr": 1e-3, "batch_size": 4, "seed": 0, **options}
    try:
        return base, apply(base, METHOD[name], data() if rows is None else rows, **settings)
    except UserError as error:
        assert "more accuracy than the retain answers" in str(error)  # noqa: PT017
        return base, None


def speaks(changed):
    ids = torch.tensor([[1, 5, 6]])
    return bool(changed(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.isfinite().all())


def begun(name, base, rows):
    """The data as the method trains on them, and its state."""
    rows = METHOD[name].rewrite(rows)
    torch.manual_seed(0)
    return rows, METHOD[name].init(base, rows)


def value(name, state, base, batch):
    torch.manual_seed(1)  # of what a loss may draw
    return sum(METHOD[name].loss(state, base, batch).values())


@pytest.mark.parametrize("name", METHOD)
def test_it_is_frozen_plain_and_documented(name):
    is_frozen_plain_and_documented(METHOD[name])


@pytest.mark.parametrize("name", METHOD)
def test_a_field_outside_its_range_is_refused(name):
    refuses_fields_outside_their_range(METHOD[name])


@pytest.mark.parametrize("name", METHOD)
def test_what_it_needs_is_asked_for(name):
    alone = data(retain=False)
    if {"retain", "mismatch"} & set(METHOD[name].needs):
        with pytest.raises(UserError, match="needs retain rows, and there are none: give some"):
            check_needs(METHOD[name], alone)
    else:
        run(name, rows=alone)


@pytest.mark.parametrize("tied", [True, False], ids=["tied head", "head of its own"])
@pytest.mark.parametrize("name", METHOD)
def test_two_steps_leave_a_model_that_speaks(name, tied):
    base, applied = run(name, model(tied=tied))
    assert all(p.isfinite().all() for p in base.parameters())
    if applied is not None:
        assert speaks(applied.model)
        assert (base.lm_head.weight is base.model.embed_tokens.weight) == tied


@pytest.mark.parametrize("name", METHOD)
def test_the_same_seed_gives_the_same_bits_and_leaves_the_callers_generators_alone(name):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, first = run(name)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    two, second = run(name)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    if first is not None and first.learned is not None:
        assert all(torch.equal(tensor, second.learned[key]) for key, tensor in first.learned.items())


@pytest.mark.parametrize("name", METHOD)
def test_padding_on_the_left_changes_nothing(name):
    left = deepcopy(TOKENIZER)
    left.padding_side = "left"
    one, _ = run(name)
    two, _ = run(name, rows=data(tokenizer=left))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize("name", METHOD)
def test_a_batch_of_one_row_is_enough(name):
    base, applied = run(name, batch_size=1)
    assert all(p.isfinite().all() for p in base.parameters())
    assert applied is None or speaks(applied.model)


@pytest.mark.parametrize("name", METHOD)
def test_the_rows_stay_as_they_were(name):
    rows = data()
    before = deepcopy(rows)
    run(name, rows=rows)
    for field in dataclasses.fields(rows):
        if field.name != "tokenizer":
            assert getattr(rows, field.name) == getattr(before, field.name)


@pytest.mark.parametrize("name", [name for name, method in METHOD.items() if hasattr(method, "learn")])
def test_an_intervention_leaves_the_weights_alone(name):
    base, before = model(), model()
    apply(base, METHOD[name], data(), steps=2, lr=1e-3, batch_size=4)
    now = dict(base.named_parameters())
    assert all(torch.equal(now[key], tensor) for key, tensor in before.named_parameters() if key in now)
    assert sum(p.numel() for p in base.parameters()) >= sum(p.numel() for p in before.parameters())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_state_leaves_the_model_alone_and_survives_a_checkpoint(name, tmp_path):
    base, untouched = model(), model()
    rows, state = begun(name, base, data())
    assert all(torch.equal(a, b) for a, b in zip(base.parameters(), untouched.parameters(), strict=True))
    assert all(p.grad is None for p in base.parameters())
    _, fresh = begun(name, model(seed=1), rows)
    batch = rows.batches(4, 0)(0)
    tensors = {}
    facts = json.loads(json.dumps(checkpoint.encode(state, tensors, "")))
    again = checkpoint.decode(facts, tensors, fresh)
    assert torch.equal(value(name, again, base, batch), value(name, state, base, batch))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_is_the_slope_of_the_loss(name):
    base = model().double()
    rows, state = begun(name, base, data())
    batch = rows.batches(4, 0)(0)
    with only_trainable(base, METHOD[name]):
        trained = [p for p in base.parameters() if p.requires_grad]
        generator = torch.Generator().manual_seed(2)
        moved = [0.02 * torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in trained]
        step = [1e-5 * torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in trained]
        nudge(trained, moved)  # away from where the model equals its reference, and a KL term is flat
        slopes = torch.autograd.grad(value(name, state, base, batch), trained, allow_unused=True)
        assert all(slope is None or slope.isfinite().all() for slope in slopes)
        along = sum((slope * d).sum() for slope, d in zip(slopes, step, strict=True) if slope is not None)
        if name in HELD_FIXED:
            assert along.isfinite()
            return
        nudge(trained, step)
        up = value(name, state, base, batch).detach()
        nudge(trained, [-2 * d for d in step])
        down = value(name, state, base, batch).detach()
    torch.testing.assert_close((up - down) / 2, along.to(up), rtol=1e-3, atol=1e-9)


def nudge(parameters, steps):
    with torch.no_grad():
        for p, d in zip(parameters, steps, strict=True):
            p.add_(d)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in DRAWN])
def test_longer_padding_changes_nothing(name):
    base = model()
    rows, state = begun(name, base, data())
    batch = rows.batches(4, 0)(0)
    fill = {"input_ids": rows.pad_id, "attention_mask": 0, "labels": IGNORED}
    longer = {
        part: {k: nn.functional.pad(v, (0, 3), value=fill[k]) if k in fill else v for k, v in tensors.items()}
        for part, tensors in batch.items()
    }
    torch.testing.assert_close(value(name, state, base, longer), value(name, state, base, batch))


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in DRAWN])
def test_the_order_of_the_rows_does_not_matter(name):
    base = model()
    rows, state = begun(name, base, data())
    batch = rows.batches(4, 0)(0)
    turned = {part: {k: v.flip(0) for k, v in tensors.items()} for part, tensors in batch.items()}
    torch.testing.assert_close(value(name, state, base, turned), value(name, state, base, batch))


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in DRAWN])
def test_two_half_batches_make_a_whole_one(name):
    base = model().double()  # so that a difference of second order is seen
    rows, state = begun(name, base, data())
    batch = rows.batches(4, 0)(0)
    halves = [
        {part: {k: v[half] for k, v in tensors.items()} for part, tensors in batch.items()}
        for half in (slice(0, 2), slice(2, 4))
    ]
    whole, accumulated = value(name, state, base, batch), sum(value(name, state, base, half) for half in halves) / 2
    if name in NOT_BY_ROWS:
        assert not torch.isclose(whole, accumulated, rtol=1e-12, atol=0)
    else:
        torch.testing.assert_close(accumulated, whole)


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory):
    return launch(tmp_path_factory.mktemp("two") / "processes")


@pytest.mark.slow
@pytest.mark.parametrize("name", METHOD)
def test_two_processes_do_what_one_does(name, of_two_processes):
    first, second = (found[name] for found in of_two_processes)
    assert np.isfinite(first).all()
    assert np.array_equal(first, second)
    if name in NOT_SHARED:
        assert not np.array_equal(first, outcome(name))
    else:
        np.testing.assert_allclose(first, outcome(name), rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_half_precision_is_near_float32(name):
    base = model()
    rows, state = begun(name, base, data())
    batch = rows.batches(4, 0)(0)
    plain = value(name, state, base, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = value(name, state, base, batch)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, plain, rtol=3e-2, atol=3e-2)
    _, applied = run(name, base.bfloat16(), lr=1e-4)
    assert applied is None or speaks(applied.model)


def test_the_table_of_rows_has_what_every_method_reads():
    assert isinstance(data().forget, Encoded)
    assert set(QUICK) <= set(METHODS)
    assert {*NOT_BY_ROWS, *HELD_FIXED, *DRAWN} <= set(OBJECTIVES)
    assert set(NOT_SHARED) <= set(METHODS)
