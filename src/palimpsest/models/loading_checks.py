"""What is checked of a model that comes from a folder: its files before any is opened, its weights, its template."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from palimpsest.errors import UserError, out_of_memory

LFS = b"version https://git-lfs"
COUNTS = re.compile(r"^n(um)?_.*(layer|expert|head)s?$|^(encoder|decoder)_layers$")  # sizes of loops in a model's code
PATIENCE = 10  # seconds; the longest templates take milliseconds
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")


def check_folder(folder: Path, remote_code: bool) -> None:
    """What can be known before anything is loaded."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give the folder of a model on disk (download it first)")
    check_files(folder)
    config = read_json(folder / "config.json")
    if config is None:
        raise UserError(f"{folder} has no config.json: it is not a model in the Hugging Face format")
    if not remote_code:
        for name, content in {
            "config.json": config,
            "tokenizer_config.json": read_json(folder / "tokenizer_config.json") or {},
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


def check_files(folder: Path) -> None:
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
        shards = (read_json(index) or {}).get("weight_map")
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


def check_finite(model: nn.Module, what: str) -> None:
    """Scores of a model with weights that are no numbers look like perfect forgetting."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(
                f"{what} has weights that are not finite (NaN or infinity) as {tensor.dtype}, the first are in {name}:"
                " save a sound model again"
            )


def check_sentencepiece(folder: Path) -> None:
    """A vocabulary of sentencepiece alone: without that library, transformers takes it for one of tiktoken's."""
    if (folder / "tokenizer.json").is_file() or find_spec("sentencepiece"):
        return
    for name in SENTENCEPIECE:
        if (folder / name).is_file() and (folder / name).read_bytes()[:1] == b"\n":  # the first field of its format
            raise UserError(
                f"{folder} has its tokenizer as {name} alone, which sentencepiece reads: run pip install sentencepiece"
                " protobuf, or put the model's tokenizer.json there"
            )


def check_causal(model: nn.Module, what: str) -> None:
    """What a model says of a token must not hang on those behind it, else every score would be one of a text that it
    has read already: XLM and encoders are loaded as causal models, too.

    Raises:
        UserError: it does.
    """
    with torch.no_grad():
        try:
            size = model.get_input_embeddings().weight.shape[0]
            ids = (size - 1 - torch.arange(5)).repeat(2, 1) % size  # special tokens are the first, as a rule
            ids[1, 3] = ids[1, 4]
            logits = model(input_ids=ids[:, :4]).logits[:, :3].float()
        except Exception:  # one that cannot read four tokens says so where it is used
            return
    if (logits[0] - logits[1]).abs().max() > 0.02 * logits.std():
        raise UserError(f"{what} reads the tokens behind each one as well: it is not a causal language model")


def check_template(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
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


def read_json(path: Path) -> dict | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Whatever goes wrong while foreign files are read is about those files."""
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        # What is written in Rust, tokenizers and safetensors, panics: that is no Exception, and cannot be named.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
        if out_of_memory(error):
            reason = "there is not enough memory"
        elif "ignore_mismatched_sizes" in reason:  # transformers' advice, which would leave weights out
            reason = "its weights have other shapes than config.json says"
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
