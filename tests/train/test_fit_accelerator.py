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

from palimpsest.train import fit


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
