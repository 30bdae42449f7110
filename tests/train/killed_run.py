"""Run by test_fit_resume, which kills it: `killed_run.py FOLDER` trains with dropout and shuffling."""

import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from palimpsest.train import fit


def main(folder: Path, *, unbroken: bool = False, slow: bool = False) -> None:
    torch.manual_seed(0)
    x = torch.randn(48, 4)
    data = TensorDataset(x, x.sum(1, keepdim=True))
    loader = DataLoader(data, batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(3))
    model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.3), nn.Linear(16, 1))

    def loss(model, batch):
        if slow:
            time.sleep(0.005)
        return {"error": (model(batch[0]) - batch[1]).square().mean()}

    history = fit(
        model,
        loss,
        loader,
        steps=200,
        lr=0.01,
        clip=1.0,
        evaluate=lambda model, step: {"error": (model(x) - x.sum(1, keepdim=True)).square().mean()},
        evaluate_every=25,
        log=folder / "log.jsonl",
        checkpoint=None if unbroken else folder / "checkpoint",
        checkpoint_every=None if unbroken else 7,
    )
    save_file(dict(model.state_dict()), folder / "model.safetensors")
    record = {"steps": history.steps, "evaluations": history.evaluations, "resumed_from": history.resumed_from}
    (folder / "history.json").write_text(json.dumps(record))


if __name__ == "__main__":
    main(Path(sys.argv[1]), slow=True)
