"""Bad pair mining against a plain version, its limits, and a world with known bad pairs."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.stats import norm
from tests.contrast.training import losses_while_training
from torch import nn
from torch.nn import functional as F

from palimpsest.claims.contrast.dbpm import Mined
from palimpsest.contrast.dbpm import DBPM, pair_weights
from palimpsest.contrast.dbpm_measures import PairMemory, bad_pairs, nt_xent_per_sample
from palimpsest.contrast.heads import Projected
from palimpsest.contrast.info_nce import nt_xent
from palimpsest.contrast.pretrain import Views
from palimpsest.tasks.waveforms import view_batches, waveforms, with_bad_pairs
from palimpsest.train import fit


def plain_nt_xent(z1, z2, tau):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    n = len(z1)
    values = []
    for i in range(n):
        both = []
        for a, b in ((i, i + n), (i + n, i)):
            others = [math.exp(float(z[a] @ z[j]) / tau) for j in range(2 * n) if j != a]
            both.append(-math.log(math.exp(float(z[a] @ z[b]) / tau) / sum(others)))
        values.append(sum(both) / 2)
    return torch.tensor(values)


def test_nt_xent_per_sample():
    z1, z2 = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    found = nt_xent_per_sample(z1, z2, 0.3)
    torch.testing.assert_close(found, plain_nt_xent(z1, z2, 0.3))
    torch.testing.assert_close(found.mean(), nt_xent(z1, z2, 0.3))
    order = torch.randperm(6)
    torch.testing.assert_close(nt_xent_per_sample(z1[order], z2[order], 0.3), found[order])


def plain_run(losses, epochs, warm, b_np, b_fp, cap):
    """losses [epochs, n]: the weighted mean at every epoch, pair by pair."""
    history = {i: [] for i in range(losses.shape[1])}
    means = []
    for epoch, row in enumerate(losses):
        weights = np.ones(len(row))
        if epoch >= warm:
            m = np.array([np.mean([(e + 1) / epochs * past for e, past in enumerate(history[i])]) for i in history])
            mu, sd = m.mean(), m.std()
            for i in history:
                if m[i] <= mu - b_np * sd or m[i] >= mu + b_fp * sd:
                    weights[i] = min(cap, norm(mu, sd).pdf(row[i]))
        for i in history:
            history[i].append(row[i])
        means.append((weights * row).mean())
    return means


@pytest.mark.parametrize("cap", [1.0, math.inf])
@pytest.mark.parametrize("spread", [0.05, 1.0])
def test_the_whole_procedure_against_a_plain_one(cap, spread):
    rng = np.random.default_rng(0)
    epochs, n = 8, 40
    losses = np.abs(2 + spread * rng.normal(size=(epochs, n)) + 3 * spread * rng.normal(size=n))
    mining = DBPM(epochs, warmup=0.5, b_np=1.0, b_fp=1.5, cap=None if cap == math.inf else cap)
    memory, found = mining.init(nn.Identity(), range(n)), []
    for epoch in range(epochs):
        total = 0.0
        for index in torch.randperm(n).split(8):
            total += float(mining.step(memory, torch.tensor(losses[epoch])[index], index)) * len(index) / n
        found.append(total)
    assert memory.epoch == epochs
    expected = plain_run(losses, epochs, 4, 1.0, 1.5, cap)
    assert found == pytest.approx(expected, rel=1e-4)
    assert found[5] != pytest.approx(losses[5].mean(), rel=1e-4)


def test_value_of_the_authors_code():
    """Their training loop, at a learning rate of 0 and in float64, gave these losses of four epochs; the last two are
    weighted."""
    rows = torch.arange(12)
    angle = torch.arange(36, dtype=torch.float64).reshape(12, 3)
    losses = nt_xent_per_sample(torch.sin(angle), torch.sin(angle + 0.1 * (rows % 5).double()[:, None] ** 2), 0.2)
    mining = DBPM(epochs=4, warmup=0.5, b_np=0.8, b_fp=1.0, cap=None)
    memory = mining.init(nn.Identity(), rows).double()
    found = [mining.step(memory, losses, rows, epoch).item() for epoch in range(4)]
    theirs = [2.647210703123004, 2.647210703123004, 1.5240605389807886, 1.4975481330393368]
    assert found == pytest.approx(theirs, abs=1e-6)


def test_weights():
    loss = torch.rand(5, dtype=torch.float64, requires_grad=True)
    flagged = torch.tensor([True, True, False, True, False])
    mean, std = torch.tensor(0.4, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    weights = pair_weights(loss, flagged, mean, std)
    expected = torch.tensor(norm(0.4, 0.5).pdf(loss.detach().numpy()))
    torch.testing.assert_close(weights[flagged], expected[flagged])
    assert not weights.requires_grad
    assert (weights[~flagged] == 1).all()
    narrow = pair_weights(loss, flagged, loss[0].detach(), std / 100)
    assert narrow[0] == 1
    assert pair_weights(loss, flagged, loss[0].detach(), std / 100, cap=None)[0] > 70
    with pytest.raises(ValueError, match=r"\[batch\] each"):
        pair_weights(loss, flagged[:2], mean, std)
    with pytest.raises(TypeError, match=r"torch\.int64"):
        pair_weights(loss, flagged.long(), mean, std)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_where_all_summaries_are_the_same(dtype):
    loss, flagged = torch.tensor([1.0, 2.0], dtype=dtype), torch.tensor([True, True])
    assert pair_weights(loss, flagged, torch.tensor(1.0), torch.tensor(0.0)).tolist() == [1, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    loss, index = (3 * torch.rand(300, generator=torch.Generator().manual_seed(0))).to(dtype), torch.arange(300)
    found, wide = bad_pairs(loss, 1, 1), bad_pairs(loss.float(), 1, 1)
    assert torch.equal(found.flagged, wide.flagged)
    assert found.std.item() == wide.std.item()
    mining, values = DBPM(2, warmup=0.5, b_np=1, b_fp=1), {}
    for x in (loss, loss.float()):
        memory = mining.init(nn.Identity(), index)
        values[x.dtype] = [float(mining.step(memory, x, index)) for _ in range(2)]
    assert values[dtype] == pytest.approx(values[torch.float32], rel=1e-2)


def test_gradient_is_the_weighted_mean_and_weights_are_constants():
    mining = DBPM(4, warmup=0.25, b_np=1, b_fp=1)
    memory = mining.init(nn.Identity(), range(6))
    index = torch.arange(6)
    past = torch.tensor([0.1, 1.0, 1.0, 1.1, 0.9, 3.0])
    mining.step(memory, past, index, 0)
    x = past.double().requires_grad_()
    (grad,) = torch.autograd.grad(mining.step(memory, x, index, 1), x)
    bad = bad_pairs(memory.summary(1), 1, 1)
    torch.testing.assert_close(grad, pair_weights(x, bad.flagged, bad.mean, bad.std) / 6)
    assert bad.flagged.nonzero().flatten().tolist() == [0, 5]
    assert grad[5] < 1e-3
    z1, z2 = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: nt_xent_per_sample(a, b, 0.5), (z1, z2))


def test_bad_pairs_edges():
    same = bad_pairs(torch.ones(5))
    assert not same.flagged.any()
    assert same.std == 0
    unseen = bad_pairs(torch.tensor([math.nan, 1.0, 1.0, 1.0, 1.0, 10.0]), 1, 1)
    assert unseen.faulty.tolist() == [False] * 5 + [True]
    assert not unseen.noisy.any()
    with pytest.raises(ValueError, match="no pair has been seen"):
        bad_pairs(torch.full((3,), math.nan))
    with pytest.raises(ValueError, match="b_fp"):
        bad_pairs(torch.ones(3), 1, 0)
    with pytest.raises(ValueError, match=r"\[pairs\]"):
        bad_pairs(torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"floats, got .* of torch\.int64"):
        bad_pairs(torch.arange(3))
    with pytest.raises(ValueError, match="summary must be finite, got inf"):
        bad_pairs(torch.tensor([1.0, 2.0, math.inf]))


def test_wide_thresholds_or_a_long_warmup_are_the_plain_loss():
    loss, index = torch.rand(20) * 4, torch.arange(20)
    for mining in (DBPM(4, warmup=1.0), DBPM(4, warmup=0.25, b_np=100, b_fp=100)):
        memory = mining.init(nn.Identity(), range(20))
        for epoch in range(4):
            torch.testing.assert_close(mining.step(memory, loss, index, epoch), loss.mean())


def test_flags_hold_through_an_epoch_and_see_only_the_past():
    memory = PairMemory(4, 3)
    index = torch.arange(4)
    memory.record(torch.tensor([1.0, 1.0, 1.0, 5.0]), index, 0)
    first = memory.bad_pairs(1, 1, 1)
    memory.record(torch.tensor([9.0, 1.0, 1.0, 5.0]), index, 1)
    assert memory.bad_pairs(1, 1, 1) is first
    assert memory.bad_pairs(1, 5, 5) is not first
    assert memory.bad_pairs(2, 1, 1).faulty.tolist() == [True, False, False, False]
    memory.record(torch.tensor([5.0, 1.0, 1.0, 1.0]), index, 0)  # the past changes
    assert memory.bad_pairs(1, 1, 1).faulty.tolist() == [True, False, False, False]


def test_memory_has_nothing_to_train_and_comes_back_from_its_state():
    memory = PairMemory(5, 2)
    memory.record(torch.rand(5), torch.arange(5), 0)
    again = PairMemory(5, 2)
    again.load_state_dict(memory.state_dict())
    assert list(memory.parameters()) == []
    assert again.epoch == 1
    torch.testing.assert_close(again.summary(1), memory.summary(1))


def test_memory_refuses():
    memory = PairMemory(3, 2)
    ones = torch.ones(2)
    for epoch in (2, -1, 0.5):
        with pytest.raises(ValueError, match=f"epoch must be a whole number from 0 to 1, got {epoch}"):
            memory.record(ones, torch.tensor([0, 1]), epoch)
    for epoch in (-1, 99):
        with pytest.raises(ValueError, match=f"from 0 to 2, got {epoch}"):
            memory.summary(epoch)
    with pytest.raises(ValueError, match=r"one pair at least, got \[0\]"):
        DBPM(2).step(memory, ones[:0], torch.arange(0))
    with pytest.raises(TypeError, match=r"whole numbers, got torch\.float32"):
        memory.record(ones, ones, 0)
    with pytest.raises(ValueError, match="index must be from 0 to 2"):
        memory.record(ones, torch.tensor([0, 3]), 0)
    with pytest.raises(ValueError, match=r"\[batch\] each"):
        memory.record(ones, torch.tensor([0]), 0)
    with pytest.raises(ValueError, match="finite"):
        memory.record(torch.tensor([1.0, math.nan]), torch.tensor([0, 1]), 0)
    with pytest.raises(ValueError, match="n must be"):
        PairMemory(0, 2)


@pytest.mark.parametrize("bad", [{"warmup": 1.5}, {"b_np": 0}, {"b_fp": -1}, {"cap": 0}, {"epochs": 0}])
def test_method_refuses(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        DBPM(**{"epochs": 3, **bad})


def test_a_batch_over_the_seam_belongs_to_the_first_epoch():
    memory, mining = PairMemory(3, 4), DBPM(4)
    mining.step(memory, torch.tensor([1.0, 2.0]), torch.tensor([0, 1]))
    mining.step(memory, torch.tensor([3.0, 4.0]), torch.tensor([2, 0]))
    mining.step(memory, torch.tensor([5.0, 6.0]), torch.tensor([1, 2]))
    expected = torch.tensor([[4.0, math.nan], [2.0, 5.0], [3.0, 6.0]])
    torch.testing.assert_close(memory.losses[:, :2], expected, equal_nan=True)
    assert memory.epoch == 2
    torch.testing.assert_close(memory.summary(2), torch.tensor([4 / 4, (2 / 4 + 5 * 2 / 4) / 2, (3 / 4 + 6 / 2) / 2]))


def test_epochs_that_leave_rows_out_are_counted_by_the_batches():
    """5 of 7 rows an epoch, as a loader does that drops the last batch."""
    rows = waveforms(0, train=7).train
    epochs, begun = 4, {}
    for told in (True, False):
        mining = DBPM(epochs, warmup=0.5, b_np=0.5, b_fp=0.5)
        memory = mining.init(nn.Identity(), rows)
        model = small_model()
        for epoch in range(epochs):
            order = torch.randperm(7, generator=torch.Generator().manual_seed(epoch))[:5]
            batch = {"views": torch.cat([rows.x[order, None]] * 2, 1), "index": order}
            mining.loss(memory, model, {**batch, "epoch": torch.tensor(epoch)} if told else batch)
            assert not told or memory.losses[order, epoch].isfinite().all()
        begun[told] = int((~memory.losses.isnan()).any(0).nonzero().max())
    assert begun == {True: epochs - 1, False: epochs - 2}


RANK = """
import json, os, sys
import torch
import torch.distributed as dist
from palimpsest.claims.contrast.dbpm import Mined
from palimpsest.contrast.dbpm import DBPM
rank, losses = int(sys.argv[1]), torch.tensor(json.loads(sys.argv[3]))
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
mining = DBPM(len(losses), warmup=0.5, b_np=0.7, b_fp=0.7)
memory, values = mining.init(torch.nn.Identity(), losses[0]), []
for epoch in losses:
    for index in torch.arange(8).split(4):
        mine = index[2 * rank : 2 * rank + 2]
        values.append(mining.step(memory, epoch[mine], mine).item())
print(json.dumps([values, memory.losses.tolist(), memory.epoch]))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    losses = torch.rand(4, 8, generator=torch.Generator().manual_seed(0)) + torch.arange(8) / 2
    arguments = [str(tmp_path / "store"), json.dumps(losses.tolist())]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        found = [json.loads(process.communicate(timeout=240)[0]) for process in running]
    finally:
        for process in running:
            process.kill()
    mining = DBPM(4, warmup=0.5, b_np=0.7, b_fp=0.7)
    memory = mining.init(nn.Identity(), losses[0])
    joint = [float(mining.step(memory, epoch[index], index)) for epoch in losses for index in torch.arange(8).split(4)]
    assert joint[-1] < losses[-1, 4:].mean() - 0.1
    assert [sum(both) / 2 for both in zip(found[0][0], found[1][0], strict=True)] == pytest.approx(joint, rel=1e-5)
    for _, kept, epoch in found:
        torch.testing.assert_close(torch.tensor(kept), memory.losses)
        assert epoch == memory.epoch == 4


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))


def test_as_an_objective_it_trains_and_within_the_warmup_is_simclr():
    rows = with_bad_pairs(waveforms(0, train=64).train, torch.Generator().manual_seed(0))
    batches = view_batches(rows, 32)
    first, second = small_model(), small_model()
    warm = fit(first, DBPM(30, warmup=1.0), batches, steps=6, data=rows, progress=False)
    plain = fit(second, Views(lambda a, b: nt_xent(a, b, 0.2)), batches, steps=6, progress=False)
    assert [s["contrast"] for s in warm.steps] == pytest.approx([s["contrast"] for s in plain.steps], rel=1e-4)
    history = fit(small_model(), DBPM(30, warmup=0.2, b_np=1, b_fp=1), batches, steps=60, data=rows, progress=False)
    assert history.steps[-1]["contrast"] < history.steps[0]["contrast"] - 0.5
    with pytest.raises(ValueError, match="views"):
        DBPM(2).loss(PairMemory(4, 2), first, {"views": torch.ones(4, 3, 64), "index": torch.arange(4)})
    with pytest.raises(ValueError, match="a batch needs index, got views"):
        DBPM(2).loss(PairMemory(4, 2), first, {"views": torch.ones(4, 2, 64)})
    with pytest.raises(TypeError, match=r"data=rows\), got None"):
        fit(first, DBPM(2), batches, steps=1, progress=False)


def test_flags_at_random_are_as_many_and_the_same_in_every_run():
    losses = torch.tensor([[1.0, 1.0, 1.0, 1.0, 9.0, 0.0, 1.0, 1.0]]).repeat(2, 1)
    found = []
    for at_random in (False, True, True):
        mining, model = (
            Mined(2, warmup=0.5, b_np=1.0, b_fp=1.0, at_random=at_random),
            Projected(nn.Flatten(), nn.Flatten()),
        )
        memory = mining.init(model, range(8))
        assert model.extra["memory"] is memory
        mining.step(memory, losses[0], torch.arange(8), epoch=0)
        found.append(mining.find(memory, 1))
    mined, drawn, again = found
    assert mined.faulty.tolist() == [False] * 4 + [True] + [False] * 3
    assert drawn.faulty.sum() == mined.faulty.sum()
    assert drawn.noisy.sum() == mined.noisy.sum()
    assert not torch.equal(drawn.flagged, mined.flagged)
    assert torch.equal(drawn.flagged, again.flagged)


def test_in_a_plain_loop():
    mining, index = DBPM(60, warmup=0.5), torch.arange(32)
    memory = mining.init(nn.Identity(), index)
    values = losses_while_training(lambda z1, z2: mining.step(memory, nt_xent_per_sample(z1, z2), index))
    assert values[-1] < values[0] - 1
    assert memory.epoch == 60


def test_resumed_training_takes_the_same_bits(tmp_path):
    rows = waveforms(0, train=32).train
    mining = DBPM(5, warmup=0.2, b_np=0.5, b_fp=0.5)
    broken_at = [None]

    def batches(step):
        if step == broken_at[0]:
            raise KeyboardInterrupt
        return view_batches(rows, 8)(step)

    def train(model, folder):
        fit(
            model,
            mining,
            batches,
            steps=12,
            data=rows,
            checkpoint=tmp_path / folder,
            checkpoint_every=3,
            progress=False,
        )
        return [parameter.detach().clone() for parameter in model.parameters()]

    whole = train(small_model(), "whole")
    broken_at[0] = 7
    with pytest.raises(KeyboardInterrupt):
        train(small_model(), "broken")
    broken_at[0] = None
    resumed = train(small_model(), "broken")
    for a, b in zip(whole, resumed, strict=True):
        assert torch.equal(a, b)
