"""Models from and to disk, in the Hugging Face format: safetensors only, no remote code, never half-written."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from palimpsest.errors import UserError
from palimpsest.models.vision import ViTForImageClassification

TASKS = {
    "causal": (AutoModelForCausalLM, "a causal language model"),
    "masked": (AutoModelForMaskedLM, "a masked language model"),
    "seq2seq": (AutoModelForSeq2SeqLM, "a sequence-to-sequence model"),
    "image": (AutoModelForImageClassification, "an image classifier"),
}
DTYPES = ("float32", "bfloat16", "float16", "float64")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# Any one of these is enough for some tokenizer.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
    "tekken.json",
)


def load(
    path: str | Path, *, task: str = "causal", dtype: str = "float32", remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Load a model and its tokenizer from a folder. Nothing is unpickled, nothing is downloaded.

    Args:
        path: the folder, in the Hugging Face format, with its weights as safetensors (in one file or several).
        task: what the model must be: "causal", "masked", "seq2seq" or "image".
        dtype: the weights' type in memory, whatever it is on disk: "float32", "bfloat16", "float16" or "float64".
        remote_code: whether Python code that comes with the model may run.

    Returns:
        The model, on the CPU and in evaluation mode, and the tokenizer, which is None for an image classifier.

    Raises:
        UserError: the folder, its configuration, its weights or its tokenizer is missing or broken, the weights are
            pickled, the model is of another task or lacks weights, or it asks for remote code.
        ValueError: the task or the dtype is unknown.

    Example:
        >>> import tempfile
        >>> from palimpsest.models import causal_lm, word_tokenizer
        >>> tokenizer = word_tokenizer(["sky"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(causal_lm(len(tokenizer), d_model=16, n_heads=2), tokenizer, f"{folder}/model")
        ...     model, tokenizer = load(f"{folder}/model")
        >>> type(model).__name__, len(tokenizer)
        ('LlamaForCausalLM', 5)
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    folder = Path(path).expanduser()
    _check_folder(folder, remote_code)
    with _quiet():
        return _load_model(folder, task, dtype, remote_code), _load_tokenizer(folder, task, remote_code)


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    out: str | Path,
    *,
    force: bool = False,
    extra: Mapping[str, str] = MappingProxyType({}),
    also: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Save a model, its tokenizer and further text files into a new folder that is never seen half-written.

    Everything is written beside the folder first, which is then renamed. With `force`, a model that is already there
    stays until the new one is complete, and comes back where the renaming fails.

    Args:
        model: a Hugging Face model; its weights are written as safetensors.
        tokenizer: its tokenizer, None for an image classifier.
        out: the folder to make.
        force: whether to replace a model that is already there; a folder that holds anything else is never replaced.
        extra: further files, name -> text, for example a model card.
        also: writes yet other files into the folder it is given, before it is put in its place.

    Raises:
        UserError: the folder exists and may not be replaced.
        TypeError: the model is not a Hugging Face model.
        ValueError: a name in `extra` is a path, or that of a file of the model's or tokenizer's.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"model must be a transformers PreTrainedModel, got {type(model).__name__}"
            " (unwrap it, and merge adapters with merge_and_unload())"
        )
    for name in extra:
        if name in ("", ".", "..") or Path(name).name != name or "\\" in name:
            raise ValueError(f"extra files need plain names, got {name!r}")
    out = check_out(out, force)
    out.parent.mkdir(parents=True, exist_ok=True)
    new = out.with_name(f".{out.name}-{uuid.uuid4().hex}")
    try:
        new.mkdir()
        with _quiet():
            model.save_pretrained(new)
            if tokenizer is not None:
                tokenizer.save_pretrained(new)
        for name, text in extra.items():
            if (new / name).exists():
                raise ValueError(f"{name!r} in extra is a file of the model itself: choose another name")
            (new / name).write_text(text, encoding="utf-8")
        also(new)
        _put(new, out)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def check_out(out: str | Path, force: bool = False) -> Path:
    """The folder that `save` would make, in full, or the error that it would raise: ask before a long computation.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     check_out(f"{folder}/model").name
        'model'
    """
    out = Path(out).expanduser().resolve()
    if not out.exists():
        parent = next(path for path in out.parents if path.exists())
        if not parent.is_dir():
            raise UserError(f"{parent} is a file, which cannot hold {out.name}: choose another folder")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise UserError(f"{parent} may not be written to: choose another folder")
        return out
    if not out.is_dir():
        raise UserError(f"{out} is a file: choose another folder")
    if not force:
        raise UserError(f"{out} exists: choose another folder, or replace it with force")
    if any(out.iterdir()) and not (out / "config.json").is_file():
        raise UserError(f"{out} holds something other than a model, which is not replaced: choose another folder")
    return out


def _put(new: Path, out: Path) -> None:
    """Rename `new` to `out`; what was there goes only after that, and comes back if it fails."""
    if not out.exists():
        new.rename(out)
        return
    old = out.with_name(f".{out.name}-{uuid.uuid4().hex}")
    out.rename(old)
    try:
        new.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old)


def _check_folder(folder: Path, remote_code: bool) -> None:
    """What can be known before anything is loaded."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give the folder of a model on disk (download it first)")
    if (folder / "adapter_config.json").exists():
        raise UserError(
            f"{folder} holds an adapter, not a whole model: merge it into its base model with peft's"
            " merge_and_unload() and save the result"
        )
    config = _read_json(folder / "config.json")
    if config is None:
        raise UserError(f"{folder} has no config.json: it is not a model in the Hugging Face format")
    if not remote_code:
        for name, content in {
            "config.json": config,
            "tokenizer_config.json": _read_json(folder / "tokenizer_config.json") or {},
        }.items():
            if content.get("auto_map"):
                raise UserError(
                    f"{folder} asks to run its own code (auto_map in {name}): pass remote_code if you trust it,"
                    " or remove auto_map where transformers knows the model"
                )
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise UserError(
            f"{folder} has pickled weights only ({pickles[0]}), which can run code when opened: where you trust them,"
            " convert them with transformers, from_pretrained(folder).save_pretrained(new_folder)"
        )
    raise UserError(f"{folder} has no weights: model.safetensors is missing")


def _read_json(path: Path) -> dict | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def _load_model(folder: Path, task: str, dtype: str, remote_code: bool) -> PreTrainedModel:
    auto, what = TASKS[task]
    with _explained(f"the model in {folder}"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=remote_code)
    if not _is_for(config, auto, remote_code):
        kind = ", ".join(config.architectures or [config.model_type])
        raise UserError(f"{folder} holds {kind}, which is not {what}: choose another task or another model")
    kind = ViTForImageClassification if task == "image" and config.model_type == "vit" else auto
    with _explained(f"the model in {folder}"):
        model, report = kind.from_pretrained(
            folder,
            config=config,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=remote_code,
            output_loading_info=True,
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing)} weights of {what}, the first is {missing[0]}: save the whole model again"
        )
    return model.eval()


def _is_for(config: PretrainedConfig, auto: type, remote_code: bool) -> bool:
    """Whether the saved class is one of the task's: BERT's configuration alone would pass as a causal model."""
    if remote_code and auto.__name__ in (getattr(config, "auto_map", None) or {}):
        return True
    if type(config) not in auto._model_mapping:
        return False
    classes = auto._model_mapping[type(config)]
    names = {cls.__name__ for cls in (classes if isinstance(classes, tuple) else (classes,))}
    return not config.architectures or bool(names & set(config.architectures))


def _load_tokenizer(folder: Path, task: str, remote_code: bool) -> PreTrainedTokenizerBase | None:
    if task == "image":
        return None
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(f"{folder} has no tokenizer (tokenizer.json is missing): save the model's tokenizer there")
    with _explained(f"the tokenizer in {folder}"):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=remote_code)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Whatever goes wrong while foreign files are read is about those files."""
    try:
        yield
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"cannot load {what}: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars, whose setting is restored."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
