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
ADAPTER = "adapter_config.json"
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
    path: str | Path,
    *,
    task: str = "causal",
    dtype: str = "float32",
    remote_code: bool = False,
    merge_adapter: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Load a model and its tokenizer from a folder. Nothing is unpickled, nothing is downloaded.

    A folder may hold a peft adapter of a causal language model in place of a model: then its base model is loaded from
    the folder that `adapter_config.json` names (in full, or as seen from the adapter's folder), and the adapter put on
    it. The result is a `PeftModel`, of which only the adapter trains, or with `merge_adapter` a plain model.

    Args:
        path: the folder, in the Hugging Face format, with its weights as safetensors (in one file or several).
        task: what the model must be: "causal", "masked", "seq2seq" or "image".
        dtype: the weights' type in memory, whatever it is on disk: "float32", "bfloat16", "float16" or "float64".
        remote_code: whether Python code that comes with the model may run.
        merge_adapter: whether an adapter is added into its base model's weights, so that these train.

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
    if (folder / ADAPTER).is_file():
        return _load_adapter(folder, task, dtype, remote_code, merge_adapter)
    _check_folder(folder, remote_code)
    with _quiet():
        return _load_model(folder, task, dtype, remote_code), _load_tokenizer(folder, task, remote_code)


def _load_adapter(
    folder: Path, task: str, dtype: str, remote_code: bool, merge: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if task != "causal":
        raise UserError(f"{folder} holds an adapter: only those of causal language models can be loaded")
    if not (folder / "adapter_model.safetensors").is_file():
        raise UserError(f"{folder} has no adapter_model.safetensors: save the adapter with peft's save_pretrained")
    name = (_read_json(folder / ADAPTER) or {}).get("base_model_name_or_path")
    base = next((path for path in (folder / str(name), Path(str(name))) if name and path.is_dir()), None)
    if base is None:
        raise UserError(
            f"the base model {name!r} of the adapter in {folder} is not on this disk: write its folder as"
            f" base_model_name_or_path into {ADAPTER}"
        )
    model, tokenizer = load(base, dtype=dtype, remote_code=remote_code)
    if any((folder / file).is_file() for file in TOKENIZER_FILES):
        tokenizer = _load_tokenizer(folder, task, remote_code)
    from peft import PeftModel  # late: it takes seconds

    with _quiet(), _explained(f"the adapter in {folder}"):
        model = PeftModel.from_pretrained(model, str(folder), is_trainable=not merge)
    if merge:
        return model.merge_and_unload().requires_grad_().eval(), tokenizer  # peft froze the base
    # Saved again, the adapter must find its base model from any folder.
    model.active_peft_config.base_model_name_or_path = str(base.resolve())
    return model.eval(), tokenizer


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
        model: a Hugging Face model; its weights are written as safetensors. Of a `PeftModel`, the adapter alone.
        tokenizer: its tokenizer, None for an image classifier.
        out: the folder to make.
        force: whether to replace a model that is already there; a folder that holds anything else is never replaced.
        extra: further files, name -> text, for example a model card.
        also: writes yet other files into the folder it is given, before it is put in its place.

    Raises:
        UserError: the folder exists and may not be replaced.
        TypeError: the model is not a Hugging Face model, nor an adapter on one.
        ValueError: a name in `extra` is a path, or that of a file of the model's or tokenizer's.
    """
    if not isinstance(model, PreTrainedModel) and not hasattr(model, "peft_config"):
        raise TypeError(
            f"model must be a transformers PreTrainedModel or a PeftModel, got {type(model).__name__}: unwrap it"
        )

    def write(folder: Path) -> None:
        folder.mkdir()
        with _quiet():
            model.save_pretrained(folder)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
        also(folder)

    _write(write, out, force, extra)


def copy(
    folder: str | Path, out: str | Path, *, force: bool = False, extra: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Copy a folder that `save` made, with all that is in it, as carefully as `save` writes one.

    Args:
        folder: the model's folder.
        out, force, extra: as for `save`.

    Raises:
        UserError: the folder `out` exists and may not be replaced.
        ValueError: a name in `extra` is a path, or that of a file in the folder.
    """
    _write(lambda new: shutil.copytree(folder, new), out, force, extra)


def _write(write: Callable[[Path], object], out: str | Path, force: bool, extra: Mapping[str, str]) -> None:
    """`write(folder)` makes a folder beside `out`, which takes its name when it is complete."""
    for name in extra:
        if name in ("", ".", "..") or Path(name).name != name or "\\" in name:
            raise ValueError(f"extra files need plain names, got {name!r}")
    out = check_out(out, force)
    out.parent.mkdir(parents=True, exist_ok=True)
    new = out.with_name(f".{out.name}-{uuid.uuid4().hex}")
    try:
        write(new)
        for name, text in extra.items():
            if (new / name).exists():
                raise ValueError(f"{name!r} in extra is a file of the model itself: choose another name")
            (new / name).write_text(text, encoding="utf-8")
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
    if any(out.iterdir()) and not any((out / name).is_file() for name in ("config.json", ADAPTER)):
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
