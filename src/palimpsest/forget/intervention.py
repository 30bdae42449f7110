"""Forgetting at inference: the weights stay as they are, and something learned beside them steers what comes out.

An intervention (`palimpsest.train.method`) learns what it has to know from a `ForgetData`, of which it may use the
texts and the tokenizer, and is installed on a model or around it: what comes of it has transformers' `forward` and
`generate`. It saves as an ordinary model folder with two files more: `intervention.json` (the method and its settings)
and `intervention.safetensors` (what it learned). Plain transformers opens such a folder and finds the model that
remembers; `palimpsest.forget.load` finds the one that forgets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.errors import UserError
from palimpsest.forget.procedure import ForgetData
from palimpsest.models import files
from palimpsest.models.loading_checks import explained
from palimpsest.train.method import Intervention, apply

SETTINGS, TENSORS = "intervention.json", "intervention.safetensors"
# Method -> where its class is: a folder names the method, and nothing else of it is ever imported.
INTERVENTIONS: dict[str, tuple[str, str]] = {
    "uld": ("palimpsest.forget.uld", "ULD"),
    "eco_prompts": ("palimpsest.forget.eco_prompts", "ECO"),
    "refusal_guard": ("palimpsest.forget.refusal_guard", "RefusalGuard"),
    "neuron_adjust": ("palimpsest.forget.skill_unlearning", "NeuronAdjust"),
    "key_space": ("palimpsest.forget.skill_unlearning", "KeySpaceDetection"),
    "sae_unlearning": ("palimpsest.forget.sae_unlearning", "SaeClamp"),
    "rwku_steering": ("palimpsest.forget.rwku", "Steering"),
}


def intervene(
    model: PreTrainedModel, intervention: Intervention, data: ForgetData, **options: Any
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Learns and installs: the model that forgets, and what was learned, which `save` wants.

    Raises:
        UserError: if the intervention needs rows that `data` lacks.
    """
    applied = apply(model, intervention, data, **options)
    return applied.model, applied.learned


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    out: str | Path,
    intervention: Intervention,
    learned: Mapping[str, Tensor],
    *,
    force: bool = False,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Saves a model and an intervention into one folder, that `load` opens.

    Args:
        model: the model as it was before the intervention.
        learned: what `intervention.learn` gave.
        force, extra: as for `palimpsest.models.save`.

    Raises:
        UserError: as `palimpsest.models.save`.
        ValueError: if the intervention is not one that `load` knows.
    """
    place = (type(intervention).__module__, type(intervention).__name__)
    name = next((name for name, known in INTERVENTIONS.items() if known == place), None)
    if name is None:
        raise ValueError(f"{place[1]} is not an intervention that can be loaded again: {', '.join(INTERVENTIONS)}")
    if not learned:
        raise ValueError(f"{place[1]} learned nothing: give what its learn() returned")
    text = json.dumps({"method": name, "settings": asdict(intervention)}, indent=2) + "\n"

    def write_tensors(folder: Path) -> None:
        save_file({key: value.detach().cpu().contiguous() for key, value in learned.items()}, folder / TENSORS)

    files.save(model, tokenizer, out, force=force, extra={**(extra or {}), SETTINGS: text}, also=write_tensors)


def load(
    path: str | Path, *, dtype: str = "float32", remote_code: bool = False
) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """Loads a model that forgets, and its tokenizer: with its intervention if the folder has one, else as it is.

    Args:
        path, dtype, remote_code: as for `palimpsest.models.load`.

    Raises:
        UserError: as `palimpsest.models.load`, and if the intervention's files are missing or broken.
    """
    model, tokenizer = files.load(path, dtype=dtype, remote_code=remote_code)
    folder = Path(path).expanduser()
    if not (folder / SETTINGS).is_file():
        return model, tokenizer
    with explained(f"the intervention in {folder}"):
        saved = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        module, name = INTERVENTIONS[saved["method"]]
        intervention = getattr(import_module(module), name)(**saved["settings"])
        learned = load_file(folder / TENSORS)
    with explained(f"the intervention in {folder}"), torch.no_grad():
        changed = intervention.install(model, tokenizer, learned)
        output = changed(input_ids=torch.zeros(1, 1, dtype=torch.long))  # tensors of another model come to light here
        if output.logits.isnan().any():
            raise UserError(f"cannot load the intervention in {folder}: with it, the model's output is not a number")
    return changed, tokenizer
