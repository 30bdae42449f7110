"""The attacks: they find what is there, find nothing where nothing is, and leave the attacked model alone."""

import copy

import pytest
import torch

from palimpsest.forget.attacks import membership, relearn
from palimpsest.models.language import causal_lm
from palimpsest.models.score import Encoded, answer_nll
from palimpsest.train.language import fine_tune


def rows(seed, n=24):
    generator = torch.Generator().manual_seed(seed)
    return Encoded([[1, *ids] for ids in torch.randint(3, 40, (n, 8), generator=generator).tolist()], [4] * n)


def texts(encoded):
    return [" ".join(map(str, ids)) for ids in encoded.input_ids]


@pytest.fixture(scope="module")
def knowing():
    model = causal_lm(40, d_model=48, n_layers=1, n_heads=2)
    fine_tune(model, rows(0), pad_id=0, epochs=80, batch_size=12, lr=1e-2, progress=False)
    return model


def test_members_are_told_from_unseen_rows_only_by_a_model_that_saw_them(knowing):
    members, others = rows(0), rows(1)
    found = membership(
        knowing, members, others, texts=texts(members), non_member_texts=texts(others), pad_id=0, batch_size=7
    )
    assert set(found) == {"loss", "zlib", "min_k", "min_k++"}
    assert min(found.values()) > 0.95
    blank = causal_lm(40, d_model=48, n_layers=1, n_heads=2, seed=3)
    found = membership(blank, members, others, texts=texts(members), non_member_texts=texts(others), pad_id=0)
    assert all(0.25 < area < 0.75 for area in found.values())


def test_swapping_the_groups_mirrors_the_area(knowing):
    a, b = rows(0, 10), rows(1, 14)
    there = membership(knowing, a, b, texts=texts(a), non_member_texts=texts(b), pad_id=0)
    back = membership(knowing, b, a, texts=texts(b), non_member_texts=texts(a), pad_id=0)
    assert back == pytest.approx({name: 1 - area for name, area in there.items()})


def test_relearning_works_on_a_copy(knowing):
    before = copy.deepcopy(knowing.state_dict())
    target = rows(5, 8)

    def loss(model, step=0):
        with torch.no_grad():
            return {"nll": float(answer_nll(model, target.batch(range(8), 0)).mean())}

    attacked, history = relearn(
        knowing, target, pad_id=0, steps=30, lr=1e-2, evaluate=loss, evaluate_every=10, progress=False
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in knowing.state_dict().items())
    trace = [evaluation["nll"] for evaluation in history.evaluations]
    assert [evaluation["step"] for evaluation in history.evaluations] == [0, 10, 20, 30]
    assert trace[0] == pytest.approx(loss(knowing)["nll"])
    assert trace[-1] < 0.3 * trace[0]
    assert loss(attacked)["nll"] == pytest.approx(trace[-1])
    assert len(history.steps) == 30


def test_relearning_with_an_adapter_of_low_rank(knowing):
    target = rows(5, 8)
    before = copy.deepcopy(knowing.state_dict())
    attacked, history = relearn(knowing, target, pad_id=0, steps=30, lr=2e-2, rank=2, progress=False)
    assert type(attacked) is type(knowing)
    after = attacked.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(before[name], tensor) for name, tensor in knowing.state_dict().items())
    moved = {name: after[name] - before[name] for name in before if not torch.equal(after[name], before[name])}
    assert moved, "nothing was learned"
    for name, change in moved.items():
        assert "proj" in name, "only linear layers move"
        assert torch.linalg.matrix_rank(change, rtol=1e-3) <= 2
    assert history.steps[-1]["loss"] < 0.7 * history.steps[0]["loss"]
    same, _ = relearn(knowing, target, pad_id=0, steps=30, lr=2e-2, rank=2, progress=False)
    assert all(torch.equal(after[name], tensor) for name, tensor in same.state_dict().items())
    with pytest.raises(ValueError, match="rank"):
        relearn(knowing, target, pad_id=0, rank=-1)
