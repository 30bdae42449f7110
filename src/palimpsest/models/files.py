"""Models from and to disk, in the Hugging Face format: safetensors only, no remote code, never half-written."""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import signal
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import safe_open
from torch import nn
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

from palimpsest import seals
from palimpsest.errors import UserError
from palimpsest.models.language import seeded
from palimpsest.models.vision import ViTForImageClassification

TASKS = {
    "causal": (AutoModelForCausalLM, "a causal language model"),
    "masked": (AutoModelForMaskedLM, "a masked language model"),
    "seq2seq": (AutoModelForSeq2SeqLM, "a sequence-to-sequence model"),
    "image": (AutoModelForImageClassification, "an image classifier"),
}
DTYPES = ("float32", "bfloat16", "float16", "float64")
ADAPTER = "adapter_config.json"
LFS = b"version https://git-lfs"
COUNTS = re.compile(r"^n(um)?_.*(layer|expert|head)s?$|^(encoder|decoder)_layers$")  # sizes of loops in a model's code
PATIENCE = 10  # seconds; the longest templates take milliseconds
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
    _check_files(folder)
    model, tokenizer = load(base, dtype=dtype, remote_code=remote_code)
    if any((folder / file).is_file() for file in TOKENIZER_FILES):
        tokenizer = _load_tokenizer(folder, task, remote_code)
    with explained(f"the adapter in {folder}"):
        _fit_vocabulary(model, len(tokenizer), folder)
    from peft import PeftConfig, PeftModel  # late: it takes seconds

    with quiet(), explained(f"the adapter in {folder}"):
        config = PeftConfig.from_pretrained(str(folder))
        if merge and config.is_prompt_learning:
            raise UserError(
                f"it is {config.peft_type.value}, which puts virtual tokens before the prompt and has no weights to"
                " merge: leave merge_adapter away"
            )
        # Added into a matrix that is both, an adapter of the output layer would change the embeddings too.
        if merge and _vocabulary_tensors(model, folder) and not getattr(config, "ensure_weight_tying", False):
            untie(model)
        model = PeftModel.from_pretrained(model, str(folder), is_trainable=not (merge or config.is_prompt_learning))
        if config.is_prompt_learning:
            model.requires_grad_(False)  # else the base model would train, of which a saved adapter holds nothing
    _check_finite(model, f"the adapter in {folder}")
    if merge:
        return model.merge_and_unload().requires_grad_().eval(), tokenizer  # peft froze the base
    # Saved again, the adapter must find its base model from any folder.
    model.active_peft_config.base_model_name_or_path = str(base.resolve())
    return model.eval(), tokenizer


def _vocabulary_tensors(model: PreTrainedModel, adapter: Path) -> dict[str, int]:
    """The adapter's tensors that belong to the model's embeddings or its output layer, with the number of tokens."""
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    names = [name for name, module in model.named_modules() if any(module is table for table in tables)]
    found = {}
    with safe_open(adapter / "adapter_model.safetensors", framework="pt") as file:
        for key in file.keys():  # noqa: SIM118  (no mapping)
            if any(f".{name}." in key for name in names):
                shape = file.get_slice(key).get_shape()
                # The low-rank factors: lora_A of the output layer is the one that knows no tokens.
                rows = {"lora_embedding_A": shape[-1], "lora_embedding_B": 0, "lora_A": 0}
                found[key] = next((n for part, n in rows.items() if f".{part}" in key), shape[0])
    return found


def _fit_vocabulary(model: PreTrainedModel, tokens: int, adapter: Path) -> None:
    """Gives the base model as many tokens as the adapter was trained with; new ones begin as the mean of the others."""
    before = model.get_input_embeddings().weight.shape[0]
    after = max(_vocabulary_tensors(model, adapter).values(), default=0) or max(before, tokens)
    if after == before:
        return
    with quiet():
        model.resize_token_embeddings(after, mean_resizing=False)
    with torch.no_grad():
        for table in (model.get_input_embeddings(), model.get_output_embeddings()):
            if table is not None and after > before:
                table.weight[before:] = table.weight[:before].mean(0)


def untie(model: PreTrainedModel) -> None:
    """Gives the output layer a matrix of its own where it shares the embeddings', in the configuration too.

    >>> from palimpsest.models import causal_lm
    >>> model = causal_lm(10, d_model=16, n_layers=1, tie=True)
    >>> untie(model)
    >>> model.lm_head.weight is model.model.embed_tokens.weight
    False
    """
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not embeddings.weight:
        return
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
        config.tie_word_embeddings = False
    for module in model.modules():  # transformers keeps a list of what it ties besides the configuration
        if getattr(module, "all_tied_weights_keys", None):
            module.all_tied_weights_keys = {}


def add_lora(model: PreTrainedModel, rank: int, folder: str | Path, seed: int = 0) -> PreTrainedModel:
    """The model with fresh LoRA adapters on all its linear maps but the output layer; only they train.

    Args:
        model: a causal language model.
        rank: r; the scale is lora_alpha / r = 2.
        folder: where the model is on this disk, for the saved adapter to find it again.
        seed: of the adapters' first matrix; the second begins at 0, so the model is at first what it was.

    Raises:
        UserError: if the rank is not positive, the model has an adapter already, or peft cannot adapt it.

    >>> from palimpsest.models import causal_lm
    >>> model = add_lora(causal_lm(10, d_model=16, n_layers=1, n_heads=2), 2, "model")
    >>> sorted({name.split(".")[-3] for name, p in model.named_parameters() if p.requires_grad})
    ['lora_A', 'lora_B']
    """
    if rank < 1:
        raise UserError(f"the rank of LoRA adapters must be at least 1, got {rank}")
    if hasattr(model, "peft_config"):
        raise UserError("the model has an adapter already, which trains: leave lora away, or merge the adapter first")
    from peft import LoraConfig, get_peft_model  # late: it takes seconds

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    with quiet(), explained(f"LoRA adapters into {type(model).__name__}"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft finds GPT-2's transposed matrices itself, and says so
        adapted = seeded(seed, lambda: get_peft_model(model, config))
    adapted.active_peft_config.base_model_name_or_path = str(Path(folder).expanduser().resolve())
    return adapted.eval()


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
        with seals.explained(out):
            write(new)
            (new / seals.SEAL).unlink(missing_ok=True)  # of the folder that was copied
            for name, text in extra.items():
                if (new / name).exists():
                    raise ValueError(f"{name!r} in extra is a file of the model itself: choose another name")
                (new / name).write_text(text, encoding="utf-8")
            seals.seal(new)
        check_out(out, force)  # again: somebody may have put something there meanwhile
        _put(new, out)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def check_out(out: str | Path, force: bool = False, inputs: Iterable[Path] = ()) -> Path:
    """The folder that `save` would make, in full, or the error that it would raise: ask before a long computation.

    Args:
        out, force: as for `save`.
        inputs: files and folders that are still needed, and may therefore not be replaced with the folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     check_out(f"{folder}/model").name
        'model'
    """
    out = Path(out).expanduser()
    try:
        str(out).encode("utf-8")
        is_link, out = out.is_symlink(), out.resolve()
        exists = out.exists()
    except (OSError, RuntimeError, ValueError):
        raise UserError(f"{out} cannot be a folder's name: choose another folder") from None
    if is_link:
        raise UserError(f"{out} is reached through a link, which is not replaced: choose another folder")
    for path in map(Path, inputs):
        if out == (path := path.expanduser().resolve()) or out in path.parents:
            raise UserError(f"{out} holds {path}, which this reads: choose another folder")
    if not exists:
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
    if any(out.iterdir()) and (why := seals.broken(out)):
        raise UserError(
            f"{out} is not replaced, because it is not just what was saved there ({why}): choose another folder"
        )
    return out


def check_space(*needs: tuple[Path, int]) -> None:
    """Raises a UserError where a disk has less room than will be written at least: (where, how many bytes) each.

    >>> check_space((Path("."), 1), (Path("deep/down"), 1))
    """
    wanted: dict[int, tuple[Path, int]] = {}
    for path, size in needs:
        place = next(each for each in (path, *path.absolute().parents) if each.exists())
        _, before = wanted.get(place.stat().st_dev, (place, 0))
        wanted[place.stat().st_dev] = place, before + size
    for place, size in wanted.values():
        if (free := shutil.disk_usage(place).free) < size:
            raise UserError(
                f"{place} has {free / 1e9:.3g} GB left, and at least {size / 1e9:.3g} GB will be written: free some"
            )


def sources(folder: str | Path) -> list[Path]:
    """The folders that a model is loaded from: its own, and, of an adapter, its base model's.

    Raises:
        UserError: an adapter's base model is not on this disk, or is the adapter itself.
    """
    found = [Path(folder).expanduser()]
    while (found[-1] / ADAPTER).is_file():
        base = _base(found[-1])
        if any(base.samefile(other) for other in found):
            raise UserError(f"the adapter in {folder} is its own base model: mend base_model_name_or_path in {ADAPTER}")
        found.append(base)
    return found


def _base(adapter: Path) -> Path:
    name = (_read_json(adapter / ADAPTER) or {}).get("base_model_name_or_path")
    base = next((path for path in (adapter / str(name), Path(str(name))) if name and path.is_dir()), None)
    if base is None:
        raise UserError(
            f"the base model {name!r} of the adapter in {adapter} is not on this disk: write its folder as"
            f" base_model_name_or_path into {ADAPTER}"
        )
    return base


def _put(new: Path, out: Path) -> None:
    """Rename `new` to `out`; what was there goes only after that, and comes back if it fails."""
    if not out.exists():
        new.rename(out)
        return
    old = out.with_name(f".{out.name}-{uuid.uuid4().hex}.old")
    out.rename(old)
    try:
        new.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old)


def tidy(out: Path) -> None:
    """Clear away what killed calls of `save` left beside a folder, into which nobody else may be writing.

    Where one was killed between its two renamings, the model that was there comes back.
    """
    for left in out.parent.glob(f".{glob.escape(out.name)}-*"):
        if re.fullmatch(r"-[0-9a-f]{32}(\.old)?", left.name[len(out.name) + 1 :]):
            if left.suffix == ".old" and not out.exists():
                left.rename(out)
            else:
                shutil.rmtree(left)


def _check_folder(folder: Path, remote_code: bool) -> None:
    """What can be known before anything is loaded."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give the folder of a model on disk (download it first)")
    _check_files(folder)
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
        _check_shards(folder, config)
        _check_counts(folder, config)
        return
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise UserError(
            f"{folder} has pickled weights only ({pickles[0]}), which can run code when opened: where you trust them,"
            " convert them with transformers, from_pretrained(folder).save_pretrained(new_folder)"
        )
    raise UserError(f"{folder} has no weights: model.safetensors is missing")


def _check_files(folder: Path) -> None:
    """No pipe, which would be waited on for ever, and no stand-in of git-lfs for a file that is not here."""
    for path in folder.iterdir():
        if path.exists() and not path.is_file() and not path.is_dir():
            raise UserError(f"{path} is neither a file nor a folder: take it out of the model's folder")
        if path.is_file() and path.stat().st_size < 1024 and path.read_bytes().startswith(LFS):
            raise UserError(f"{path} is a pointer of git-lfs, not the file itself: run git lfs pull in {folder}")


def _check_shards(folder: Path, config: dict) -> None:
    """An index of shards, or the configuration, names safetensors of this folder, and nothing that is unpickled."""
    named = {"config.json": [config["transformers_weights"]]} if config.get("transformers_weights") else {}
    for index in folder.glob("*.safetensors.index.json"):
        shards = (_read_json(index) or {}).get("weight_map")
        if not isinstance(shards, dict):
            raise UserError(f"{index} has no weight_map: save the model again")
        named[index.name] = shards.values()
    for source, names in named.items():
        for name in sorted({str(name) for name in names}):
            if not name.endswith((".safetensors", ".safetensors.index.json")) or Path(name).name != name:
                raise UserError(
                    f"{source} in {folder} names {name}, and only safetensors of the folder itself are loaded, nothing"
                    " pickled: where you trust it, convert it with transformers,"
                    " from_pretrained(folder).save_pretrained(new_folder)"
                )
            if not (folder / name).is_file():
                raise UserError(f"{folder} lacks {name}, which its {source} names: copy the whole model again")


def _check_counts(folder: Path, config: dict) -> None:
    """A configuration with more parts than there are weights for would be built for hours, or until memory ends."""
    tensors = 0
    for path in folder.glob("*.safetensors"):
        # What cannot be read is named by whoever loads it.
        with suppress(Exception), safe_open(path, framework="pt") as file:
            tensors += len(file.keys())
    limit = max(tensors, 4096)  # experts may share one tensor
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for name, value in part.items():
            if COUNTS.search(name) and isinstance(value, (int, float)) and value > limit:
                raise UserError(
                    f"{folder / 'config.json'} has {name} {value}, and there are {tensors} weights: mend it"
                )


def _check_finite(model: nn.Module, what: str) -> None:
    """Scores of a model with weights that are no numbers look like perfect forgetting."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(
                f"{what} has weights that are not finite (NaN or infinity) as {tensor.dtype}, the first are in {name}:"
                " save a sound model again"
            )


def _read_json(path: Path) -> dict | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def _load_model(folder: Path, task: str, dtype: str, remote_code: bool) -> PreTrainedModel:
    auto, what = TASKS[task]
    with explained(f"the model in {folder}"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=remote_code)
    if not _is_for(config, auto, remote_code):
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
    _check_finite(model, f"the model in {folder}")
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
    with explained(f"the tokenizer in {folder}"):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=remote_code)
    _check_template(tokenizer, folder)
    return tokenizer


def _check_template(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """A chat template is a program: one that does not come to its end would hang whatever uses it.

    What else may be wrong with it is said by whoever uses it.
    """
    if not tokenizer.chat_template or threading.current_thread() is not threading.main_thread():
        return
    if not hasattr(signal, "setitimer"):  # Windows
        return

    def stop(number: int, frame: object) -> None:
        raise UserError(f"the chat template in {folder} takes more than {PATIENCE} seconds for one word: mend it")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "word"}], tokenize=False, add_generation_prompt=True)
    except UserError:
        raise
    except Exception:  # some templates want other turns
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Whatever goes wrong while foreign files are read is about those files."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"cannot load {what}: {reason}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars, whose setting is restored."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
