"""The shapes of a method: what the base classes give, what `apply` does with each, and what it refuses."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Literal

import pytest
import torch
from torch import nn

from palimpsest.errors import UserError
from palimpsest.train import Edit, Intervention, Objective, apply, fit
from palimpsest.train.method import check_needs
from palimpsest.train.ranges import Above, AtLeast, AtMost, Below, ranges

ROWS = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))


class Data(SimpleNamespace):
    def batches(self, batch_size, seed):
        order = torch.randperm(len(ROWS), generator=torch.Generator().manual_seed(seed))
        return list(ROWS[order].split(batch_size))


@dataclass(frozen=True)
class Shrink(Objective):
    needs = frozenset({"retain"})

    def loss(self, state, model, batch):
        return {"size": model(batch).square().mean()}

    def trainable(self, model):
        return [model.weight]


@dataclass(frozen=True)
class Halve(Edit):
    def edit(self, model, data, **training):
        with torch.no_grad():
            model.weight.mul_(0.5)
        return model


@dataclass(frozen=True)
class Shift(Intervention):
    def learn(self, model, data, *, seed=0, **training):
        return {"shift": torch.tensor(float(seed))}

    def install(self, model, tokenizer, learned):
        return nn.Sequential(model, nn.Flatten(0)) if learned["shift"] == 0 else lambda x: model(x) + learned["shift"]


def linear():
    model = nn.Linear(3, 1)
    nn.init.ones_(model.weight)
    nn.init.ones_(model.bias)
    return model


def test_an_objective_trains_what_it_names_and_nothing_else():
    model = linear()
    applied = apply(model, Shrink(), Data(retain=ROWS), steps=5, lr=0.1, batch_size=8, seed=3)
    assert applied.model is model
    assert applied.learned is None
    assert [record["step"] for record in applied.history.steps] == [1, 2, 3, 4, 5]
    assert not torch.equal(model.weight, torch.ones(1, 3))
    assert torch.equal(model.bias, torch.ones(1))
    assert all(p.requires_grad for p in model.parameters())


def test_an_edit_and_an_intervention_leave_checkpoints_aside(tmp_path):
    training = {"steps": 5, "lr": 0.1, "checkpoint": tmp_path / "none", "checkpoint_every": 2}
    model = linear()
    assert apply(model, Halve(), Data(), **training).model is model
    assert torch.equal(model.weight, torch.full((1, 3), 0.5))
    applied = apply(linear(), Shift(), Data(tokenizer=None), seed=2, **training)
    assert applied.learned == {"shift": torch.tensor(2.0)}
    assert torch.equal(applied.model(torch.zeros(1, 3)), torch.tensor([[3.0]]))
    assert not (tmp_path / "none").exists()


def test_a_plain_function_is_an_objective():
    model = linear()
    history = apply(model, lambda model, batch: model(batch).square().mean(), Data(), steps=2, lr=0.1).history
    assert len(history.steps) == 2


def test_what_is_missing_is_named():
    with pytest.raises(UserError, match="Shrink needs retain rows, and there are none: give some"):
        apply(linear(), Shrink(), Data(retain=None), steps=1)
    both = SimpleNamespace(needs={"mismatch", "retain"})
    with pytest.raises(UserError, match="needs retain rows"):  # of which the mismatched answers would be made
        check_needs(both, SimpleNamespace(retain=None, mismatch=None))
    frozen = linear().requires_grad_(False)
    with pytest.raises(UserError, match="Shrink cannot be applied to Linear: it trains weights that are frozen"):
        apply(frozen, Shrink(), Data(retain=ROWS), steps=1)
    for shape, name in ((Objective(), "loss"), (Edit(), "edit"), (Intervention(), "learn")):
        with pytest.raises(NotImplementedError, match=f"{type(shape).__name__} has no {name}"):
            apply(linear(), shape, Data(), steps=1)


@dataclass(frozen=True)
class Noisy(Shrink):
    def augment(self, batch, generator):
        return batch + torch.randn(batch.shape, generator=generator)


def test_augmentation_is_a_function_of_the_seed_and_of_the_batch(tmp_path):
    batches = Data().batches(8, 0)
    found = {}
    for name, seed, steps in (("whole", 1, 6), ("again", 1, 6), ("other", 2, 6)):
        found[name] = [r["size"] for r in fit(linear(), Noisy(), batches, steps=steps, lr=0.0001, seed=seed).steps]
    assert found["whole"] == found["again"]
    assert found["whole"] != found["other"]
    assert found["whole"] != [r["size"] for r in fit(linear(), Shrink(), batches, steps=6, lr=0.0001, seed=1).steps]

    broken = []

    def once(model, step):
        if step == 3 and not broken:
            broken.append(step)
            raise KeyboardInterrupt
        return {}

    settings = {"steps": 6, "lr": 0.0001, "seed": 1, "checkpoint": tmp_path, "checkpoint_every": 1, "evaluate_every": 1}
    with pytest.raises(KeyboardInterrupt):
        fit(linear(), Noisy(), batches, evaluate=once, **settings)
    resumed = fit(linear(), Noisy(), batches, evaluate=once, **settings)
    assert [r["size"] for r in resumed.steps] == found["whole"]


@dataclass(frozen=True)
class Ranged(Objective):
    rate: Annotated[float, Above(0), Below(1)] = 0.5
    share: Annotated[float, AtLeast(0), AtMost(1)] = 0.5
    layer: Annotated[int | None, AtLeast(0)] = None
    kind: Literal["ce", "kl", "none"] = "ce"
    free: float = -3.0


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        *[("rate", value, "above 0 and below 1") for value in (0, 1, -1.0, float("nan"), float("inf"), "0.5", True)],
        *[("share", value, "at least 0 and at most 1") for value in (-0.01, 1.01, None)],
        ("layer", -1, "at least 0, or None"),
        ("layer", 1.5, "a whole number, at least 0, or None"),
        ("kind", "mse", "'ce', 'kl' or 'none'"),
    ],
)
def test_a_field_outside_its_range_is_refused(field, value, wanted):
    with pytest.raises(UserError) as caught:
        Ranged(**{field: value})
    assert str(caught.value) == f"{field} must be {wanted}, got {value!r}"


def test_fields_within_their_ranges_are_taken():
    for fields in ({"rate": 1e-9}, {"share": 0}, {"share": 1.0}, {"layer": None}, {"layer": 3}, {"kind": "kl"}):
        assert Ranged(**fields) == Ranged(**fields)
    assert list(ranges(Ranged)) == ["rate", "share", "layer", "kind"]
    assert str(ranges(Ranged)["layer"]) == "at least 0, or None"
    assert 10**400 in ranges(Ranged)["layer"]  # larger than any float


@dataclass(frozen=True)
class Clipped(Objective):
    clip: float | Literal["none"] = 1.0
    norm: Literal["l1", "l2"] | None = None


def test_a_word_beside_numbers_is_no_choice_of_words():
    assert Clipped(0.5).clip == 0.5
    assert list(ranges(Clipped)) == ["norm"]
    with pytest.raises(UserError, match="norm must be 'l1' or 'l2', got 'l3'"):
        Clipped(norm="l3")
