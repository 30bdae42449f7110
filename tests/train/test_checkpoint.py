"""Checkpoints: whatever goes in comes out to the bit, and a death between any two file operations loses nothing."""

import errno
import json
import os
import shutil
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from palimpsest.errors import UserError
from palimpsest.train import checkpoint


class Pair(NamedTuple):
    left: object
    right: object


@dataclass(frozen=True)
class Memory:
    means: torch.Tensor
    count: int = 0
    seen: list = field(default_factory=list, init=False)


def round_trip(value, folder, template=None):
    checkpoint.save(folder, "step-000000001", nn.Linear(1, 1), {}, {"value": value})
    _, document, tensors = checkpoint.load(folder / "step-000000001")
    return checkpoint.decode(document["training"], tensors, {"value": template})["value"]


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one.nan_to_num(7.5), other.nan_to_num(7.5)) and one.dtype == other.dtype
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other) and one.dtype == other.dtype
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and type(one) is type(other) and all(map(same, one, other))
    return type(one) is type(other) and (one == other or (one != one and other != other))


dtypes = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
tensors = st.builds(
    lambda shape, dtype: (torch.rand(shape) * 9).to(dtype), st.lists(st.integers(0, 3), max_size=3), dtypes
)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | tensors | arrays("int32", (2, 3))
nests = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers() | st.tuples(st.integers(), st.text(max_size=2)), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(nests)
def test_any_nest_comes_back(tmp_path_factory, value):
    folder = tmp_path_factory.mktemp("nest")
    assert same(round_trip(value, folder), value)
    shutil.rmtree(folder)


def test_random_states_of_all_kinds_come_back(tmp_path):
    from palimpsest.train import randomness

    state = randomness.capture()
    assert same(round_trip(state, tmp_path), state)


def test_what_json_cannot_make_is_taken_from_the_template(tmp_path):
    kept = Memory(torch.arange(3.0), count=4)
    kept.seen.extend([1, (2, "x")])
    module = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    generator = torch.Generator().manual_seed(5)
    value = {"memory": kept, "pair": Pair(1, torch.ones(2)), "module": module, "optimizer": optimizer}
    value["generator"] = generator
    template_module = nn.Linear(2, 2)
    template = {
        "memory": Memory(torch.zeros(3)),
        "pair": Pair(None, None),
        "module": template_module,
        "optimizer": torch.optim.SGD(template_module.parameters(), lr=9.0),
        "generator": torch.Generator(),
    }
    back = round_trip(value, tmp_path, template)
    assert isinstance(back["memory"], Memory)
    assert (back["memory"].count, back["memory"].seen) == (4, [1, (2, "x")])
    assert torch.equal(back["memory"].means, kept.means)
    assert isinstance(back["pair"], Pair)
    assert back["module"] is template_module
    assert torch.equal(template_module.weight, module.weight)
    assert back["optimizer"].param_groups[0]["lr"] == 0.5
    assert torch.equal(torch.rand(2, generator=back["generator"]), torch.rand(2, generator=generator))


def test_fitting_tensors_are_filled_in_place_and_others_replaced(tmp_path):
    shared = torch.zeros(2, requires_grad=True)
    template = {"mean": shared, "queue": torch.zeros(0, 3)}
    back = round_trip({"mean": torch.ones(2), "queue": torch.ones(4, 3)}, tmp_path, template)
    assert back["mean"] is shared
    assert shared.tolist() == [1.0, 1.0]
    assert back["queue"].shape == (4, 3)


def test_tensors_that_share_memory_are_written_apart(tmp_path):
    whole = torch.arange(6.0).reshape(2, 3)
    value = [whole, whole.T, whole[1], whole]
    assert same(round_trip(value, tmp_path), value)


def test_what_cannot_be_kept_is_named(tmp_path):
    with pytest.raises(TypeError, match=r"a set at /0:state/1:b cannot be kept in a checkpoint"):
        checkpoint.encode({"state": {"a": 1, "b": {1, 2}}}, {}, "")


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(2, 2), nn.Linear(2, 2)
        self.other.weight = self.one.weight
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("hidden", torch.zeros(2), persistent=False)


def test_a_model_comes_back_with_tied_weights_and_all_buffers(tmp_path):
    model, other = Tied(), Tied()
    model.count += 3
    model.hidden += 1
    checkpoint.save(tmp_path, "step-000000001", model, {}, {})
    path = tmp_path / "step-000000001"
    checkpoint.fill(other, checkpoint.load(path)[0], path)
    assert other.other.weight is other.one.weight
    for name, tensor in {**model.state_dict(), "hidden": model.hidden}.items():
        assert torch.equal(tensor, {**other.state_dict(), "hidden": other.hidden}[name])
    with pytest.raises(UserError, match="is of another model: only the model has 'bias'"):
        checkpoint.fill(nn.Linear(2, 2), checkpoint.load(path)[0], path)


def test_another_shape_is_named(tmp_path):
    checkpoint.save(tmp_path, "step-000000001", nn.Linear(2, 2), {}, {})
    path = tmp_path / "step-000000001"
    with pytest.raises(UserError, match=r"'weight' has shape \(2, 2\) there and \(2, 3\) here"):
        checkpoint.fill(nn.Linear(3, 2), checkpoint.load(path)[0], path)


def test_no_pickle_and_a_single_newest_folder(tmp_path):
    for step in (1, 2, 10):
        checkpoint.save(tmp_path, f"step-{step:09d}", nn.Linear(1, 1), {"step": step}, {"x": torch.ones(1)})
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000010"]
    newest = checkpoint.latest(tmp_path)
    assert {path.name for path in newest.iterdir()} == {
        "model.safetensors",
        "training.safetensors",
        "training.json",
        "palimpsest.sha256",
    }
    assert json.loads((newest / "training.json").read_text())["step"] == 10


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors", "training.json", "palimpsest.sha256"])
@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"{"), flip_a_bit])
def test_damage_is_reported_in_one_line(tmp_path, name, damage):
    checkpoint.save(tmp_path, "step-000000001", nn.Linear(1, 1), {}, {"x": torch.ones(1)})
    damage(tmp_path / "step-000000001" / name)
    with pytest.raises(UserError, match=r"is damaged \(.*\): delete it to start again") as caught:
        checkpoint.load(tmp_path / "step-000000001")
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_named_and_the_last_checkpoint_stays(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, "step-000000001", nn.Linear(1, 1), {}, {})

    def full(tensors, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UserError, match="no space is left to write"):
        checkpoint.save(tmp_path, "step-000000002", nn.Linear(1, 1), {}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]
    checkpoint.load(tmp_path / "step-000000001")


class Death(BaseException):
    """The process is killed here."""


def dying(monkeypatch, after):
    """Let the file operation number `after` (from 0) of a save not happen, or happen by half, and count them."""
    counted = [0]

    def watch(owner, name, half=None):
        real = getattr(owner, name)

        def step(*arguments, **options):
            counted[0] += 1
            if counted[0] == after + 1:
                if half is not None:
                    half(*arguments)
                raise Death(name)
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, step)

    def half_removed(path, *_):
        for file in sorted(os.scandir(path), key=lambda entry: entry.name)[:1]:
            os.unlink(file.path)

    watch(checkpoint.shutil, "rmtree", half_removed)
    watch(checkpoint.os, "replace")
    watch(checkpoint.os, "fsync")
    watch(checkpoint, "save_file", lambda tensors, path: path.write_bytes(b"half"))
    watch(checkpoint.Path, "write_text", lambda path, text: path.write_bytes(b"{"))
    watch(checkpoint.Path, "mkdir")
    return counted


def test_death_between_any_two_file_operations_leaves_a_whole_checkpoint(tmp_path):
    def saved(folder, step):
        with torch.no_grad():
            model = nn.Linear(1, 1)
            model.weight.fill_(step)
        checkpoint.save(folder, f"step-{step:09d}", model, {"step": step}, {"x": torch.full((2,), float(step))})

    with pytest.MonkeyPatch.context() as patch:
        operations = dying(patch, after=10**6)
        saved(tmp_path / "count", 1)
        operations[0] = 0
        saved(tmp_path / "count", 2)
    assert operations[0] >= 10  # make the folder, three files, flush each and the folders, rename, remove the old one
    for death in range(operations[0] + 1):
        folder = tmp_path / str(death)
        saved(folder, 1)
        with pytest.MonkeyPatch.context() as patch:
            dying(patch, after=death)
            if death < operations[0]:
                with pytest.raises(Death):
                    saved(folder, 2)
        newest = checkpoint.latest(folder)
        weights, document, tensors = checkpoint.load(newest)
        step = document["step"]
        assert newest.name == f"step-{step:09d}"
        assert weights["weight"].item() == step
        assert checkpoint.decode(document["training"], tensors)["x"].tolist() == [step, step]
        saved(folder, 3)  # what the dead left behind does not matter
        assert [path.name for path in folder.iterdir()] == ["step-000000003"]


def test_files_are_plain_safetensors(tmp_path):
    model = nn.Linear(2, 1)
    checkpoint.save(tmp_path, "step-000000001", model, {}, {})
    read = safetensors.torch.load_file(tmp_path / "step-000000001" / "model.safetensors")
    assert torch.equal(read["weight"], model.weight)
