"""Models from and to disk, in the Hugging Face format: safetensors only, no remote code, never half-written."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
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

from palimpsest.errors import UserError
from palimpsest.models.adapters import ADAPTER, attach, sources
from palimpsest.models.loading_checks import (
    SENTENCEPIECE,
    check_causal,
    check_files,
    check_finite,
    check_folder,
    check_sentencepiece,
    check_template,
    explained,
    quiet,
)
from palimpsest.models.output_folders import write_folder
from palimpsest.models.vision import ViTForImageClassification

TASKS = {
    "causal": (AutoModelForCausalLM, "a causal language model"),
    "masked": (AutoModelForMaskedLM, "a masked language model"),
    "seq2seq": (AutoModelForSeq2SeqLM, "a sequence-to-sequence model"),
    "image": (AutoModelForImageClassification, "an image classifier"),
}
DTYPES = ("float32", "bfloat16", "float16", "float64")
# Any one of these is enough for some tokenizer.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    *SENTENCEPIECE,
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
    check_folder(folder, remote_code)
    with quiet():
        return _load_model(folder, task, dtype, remote_code), _load_tokenizer(folder, task, remote_code)


def _load_adapter(
    folder: Path, task: str, dtype: str, remote_code: bool, merge: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if task != "causal":
        raise UserError(f"{folder} holds an adapter: only those of causal language models can be loaded")
    if not (folder / "adapter_model.safetensors").is_file():
        raise UserError(f"{folder} has no adapter_model.safetensors: save the adapter with peft's save_pretrained")
    base = sources(folder)[1]
    check_files(folder)
    model, tokenizer = load(base, dtype=dtype, remote_code=remote_code)
    if any((folder / file).is_file() for file in TOKENIZER_FILES):
        tokenizer = _load_tokenizer(folder, task, remote_code)
    return attach(model, len(tokenizer), folder, base, merge), tokenizer


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
    stays until the new one is complete, and comes back where the renaming fails. The folder gets a list of its files
    with their digests, by which a later `force` knows that nothing in it is anybody else's.

    Args:
        model: a Hugging Face model; its weights are written as safetensors. Of a `PeftModel`, the adapter alone.
        tokenizer: its tokenizer, None for an image classifier.
        out: the folder to make.
        force: whether to replace a model that was saved here before; a folder that holds anything else, or a file that
            was changed since, is never replaced, nor what a link leads to.
        extra: further files, name -> text, for example a model card.
        also: writes yet other files into the folder it is given, before it is put in its place.

    Raises:
        UserError: the folder exists and may not be replaced, or the disk is full.
        TypeError: the model is not a Hugging Face model, nor an adapter on one.
        ValueError: a name in `extra` is a path, or that of a file of the model's or tokenizer's.
    """
    if not isinstance(model, PreTrainedModel) and not hasattr(model, "peft_config"):
        raise TypeError(
            f"model must be a transformers PreTrainedModel or a PeftModel, got {type(model).__name__}: unwrap it"
        )

    def write(folder: Path) -> None:
        folder.mkdir()
        with quiet():
            model.save_pretrained(folder)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
        also(folder)

    write_folder(write, out, force, extra)


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
    write_folder(lambda new: shutil.copytree(folder, new), out, force, extra)


def _load_model(folder: Path, task: str, dtype: str, remote_code: bool) -> PreTrainedModel:
    auto, what = TASKS[task]
    with explained(f"the model in {folder}"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=remote_code)
        fits = _is_for(config, auto, remote_code)
    if not fits:
        kind = ", ".join(config.architectures or [config.model_type])
        raise UserError(f"{folder} holds {kind}, which is not {what}: choose another task or another model")
    kind = ViTForImageClassification if task == "image" and config.model_type == "vit" else auto
    with explained(f"the model in {folder}"):
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
    check_finite(model, f"the model in {folder}")
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if ends is not None and not all(type(end) is int for end in (ends if isinstance(ends, list) else [ends])):
        raise UserError(f"generation_config.json in {folder} has eos_token_id {ends!r}: give numbers of tokens")
    model.eval()
    if task == "causal":
        check_causal(model, f"the model in {folder}")
    return model


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
    check_sentencepiece(folder)
    with explained(f"the tokenizer in {folder}"):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=remote_code)
        tokenizer.decode(tokenizer("a")["input_ids"])  # settings of a wrong kind load, and fail where they are used
    check_template(tokenizer, folder)
    return tokenizer
