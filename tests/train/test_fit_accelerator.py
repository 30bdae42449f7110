"""Accelerators: several in one process, given or our own, in different precisions; and nothing is left behind."""

import contextlib
import gc
import weakref

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch import nn

from palimpsest.train import fit, processes


def loss(model, batch):
    return model(batch).square().mean()


BATCHES = [torch.ones(4, 3)]


def test_one_process_may_train_in_one_precision_after_another():
    dtypes = []

    def objective(model, batch):
        dtypes.append(torch.mm(batch, batch.T).dtype)
        return loss(model, batch)

    for precision in ("bf16", "no", "bf16"):
        fit(nn.Linear(3, 1), objective, BATCHES, steps=1, precision=precision)
    assert dtypes == [torch.bfloat16, torch.float32, torch.bfloat16]


def test_the_callers_accelerator_is_as_it_was():
    AcceleratorState._reset_state()
    mine = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=3)
    fit(nn.Linear(3, 1), loss, BATCHES, steps=1, precision="no", accumulate=2)
    assert mine.mixed_precision == "bf16"
    assert mine.gradient_accumulation_steps == 3
    fit(nn.Linear(3, 1), loss, BATCHES, steps=1, accumulate=2, accelerator=mine)
    assert mine.gradient_accumulation_steps == 3
    assert mine._models == []
    assert mine.ddp_handler is None
    with pytest.raises(ValueError, match="precision='fp16' but the accelerator has mixed_precision='bf16'"):
        fit(nn.Linear(3, 1), loss, BATCHES, steps=1, precision="fp16", accelerator=mine)
    AcceleratorState._reset_state()


def test_a_given_accelerator_decides_the_precision():
    AcceleratorState._reset_state()
    seen = []

    def objective(model, batch):
        seen.append(torch.mm(batch, batch.T).dtype)
        return loss(model, batch)

    fit(nn.Linear(3, 1), objective, BATCHES, steps=1, accelerator=Accelerator(mixed_precision="bf16"))
    assert seen == [torch.bfloat16]
    AcceleratorState._reset_state()
    with pytest.raises(ValueError, match="precision='fp16' needs a GPU"):
        fit(nn.Linear(3, 1), loss, BATCHES, steps=1, accelerator=Accelerator(mixed_precision="fp16", cpu=True))
    AcceleratorState._reset_state()


@pytest.fixture
def scaled(monkeypatch):
    """An Accelerator for fp16 with its gradient scaler, on the CPU, where fit would refuse it."""
    monkeypatch.setattr(processes, "_supported", lambda accelerator: accelerator)

    def build(scale):
        AcceleratorState._reset_state()
        accelerator = Accelerator(mixed_precision="fp16", cpu=True)
        accelerator.native_amp = True
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=3)
        return accelerator

    yield build
    AcceleratorState._reset_state()


def linear():
    model = nn.Linear(3, 1)
    nn.init.ones_(model.weight), nn.init.zeros_(model.bias)
    return model


def test_fp16_skips_steps_that_overflow_and_the_schedule_waits(scaled):
    weights = []

    def objective(model, batch):
        weights.append(model.weight[0, 0].item())
        return loss(model, batch)

    options = {"steps": 6, "lr": 0.01, "optimizer": "sgd", "clip": 1.0, "schedule": "linear"}
    history = fit(linear(), objective, BATCHES, accelerator=scaled(2.0**16), **options)
    skipped = [record for record in history.steps if record["grad_norm"] == float("inf")]
    assert len(skipped) == 3  # 4 x 1.5 x 2**13 is the first to fit below 65504
    assert history.steps[: len(skipped)] == skipped
    assert weights[: len(skipped) + 1] == [1.0] * (len(skipped) + 1)
    assert weights[-1] < 1.0
    assert [record["lr"] for record in skipped] == [0.01] * len(skipped)
    assert history.steps[-1]["lr"] == pytest.approx(0.01 * (1 - (5 - len(skipped)) / 6))


def test_fp16_clips_the_unscaled_gradient(scaled):
    seen = []

    class Watching:
        def init(self, model, data):
            return None

        def loss(self, state, model, batch):
            return {"loss": loss(model, batch)}

        def gradients(self, state, model):
            seen.append(model.weight.grad.clone())

    options = {"steps": 1, "lr": 0.01, "optimizer": "sgd", "clip": 1.0}
    model = linear()
    history = fit(model, Watching(), BATCHES, accelerator=scaled(1024.0), **options)
    # loss = (sum of 3 weights + bias)^2 = 9, its gradient is 6 in each of the four
    assert history.steps[0]["grad_norm"] == pytest.approx(12.0)
    torch.testing.assert_close(seen[0], torch.full((1, 3), 6.0))
    torch.testing.assert_close(model.weight, torch.full((1, 3), 1.0 - 0.01 * 0.5), rtol=1e-5, atol=1e-6)


def test_fp16_resumes_with_the_scale_it_had(scaled, tmp_path):
    def run(breaks_at=None, **options):
        calls = []

        def objective(model, batch):
            calls.append(1)
            if len(calls) == breaks_at:
                raise KeyboardInterrupt
            return loss(model, batch)

        model, accelerator = linear(), scaled(2.0**16)
        history = fit(model, objective, BATCHES, steps=9, lr=0.01, clip=1.0, accelerator=accelerator, **options)
        return model, history, accelerator.scaler.get_scale()

    model, history, scale = run()
    with pytest.raises(KeyboardInterrupt):
        run(breaks_at=7, checkpoint=tmp_path, checkpoint_every=5)
    resumed, again, same_scale = run(checkpoint=tmp_path, checkpoint_every=5)
    assert again.resumed_from == 5
    assert torch.equal(resumed.weight, model.weight)
    assert again.steps == history.steps
    assert same_scale == scale < 2.0**16


def test_sharded_training_is_refused(monkeypatch):
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.FSDP)
    with pytest.raises(ValueError, match=r"whole copies of the model .* not FSDP"):
        fit(nn.Linear(3, 1), loss, BATCHES, steps=1)


@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}, {"accumulate": 2, "clip": 1.0}])
def test_nothing_keeps_the_model_alive(options):
    fit(nn.Linear(3, 1), loss, BATCHES, steps=1, **options)
    gc.collect()
    gc.disable()
    try:
        models = []
        for _ in range(34):
            model = nn.Linear(3, 1)
            fit(model, loss, BATCHES, steps=1, **options)
            models.append(weakref.ref(model))
            del model
        assert sum(model() is not None for model in models) == 0
    finally:
        gc.enable()


def test_a_failed_run_keeps_nothing_alive_either():
    model = nn.Linear(3, 1)
    kept = weakref.ref(model)
    with contextlib.suppress(ValueError):
        fit(model, lambda model, batch: model(batch), BATCHES, steps=1)
    del model
    gc.collect()
    assert kept() is None
