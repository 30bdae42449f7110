"""The user's own sentence encoder: a folder of sentence-transformers, loaded as the language models are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from palimpsest.errors import MissingExtra, UserError
from palimpsest.models.loading_checks import quiet


def load_encoder(folder: str | Path) -> Any:
    """A `SentenceTransformer` on the CPU: nothing is downloaded, nothing unpickled, no code of the folder's run.

    Raises:
        UserError: no such folder, no encoder in it, weights that are pickled only, or one that cannot be loaded.
        MissingExtra: sentence-transformers is not installed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give that of a sentence-transformers encoder")
    if not (folder / "modules.json").is_file():
        raise UserError(f"{folder}: no modules.json: it is no folder of sentence-transformers")
    _check_modules(folder)
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtra(error.name or "sentence-transformers", "encoder") from None
    try:
        with quiet():
            return SentenceTransformer(
                str(folder), device="cpu", local_files_only=True, model_kwargs={"use_safetensors": True}
            )
    except Exception as error:  # whatever the library raises for files that do not fit together
        line = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{folder}: the encoder cannot be loaded: {line[0]}") from None


def _check_modules(folder: Path) -> None:
    """The library would unpickle the weights of a part that has no others, and import a part that is not its own."""
    try:
        parts = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        parts = [(str(part["type"]), folder / part["path"]) for part in parts]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder}/modules.json is damaged: copy the encoder again") from None
    for kind, path in parts:
        if not kind.startswith("sentence_transformers."):
            raise UserError(f"{folder}: {kind} is code of the encoder's own, which is not run")
        if any(path.glob("pytorch_model*.bin")) and not any(path.glob("*.safetensors")):
            raise UserError(
                f"{path}: the weights are pickled only, which can run code: save them as safetensors"
                " (model.save(FOLDER, safe_serialization=True))"
            )
