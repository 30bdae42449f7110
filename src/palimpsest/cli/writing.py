"""How rows are written for a user's own model, by the flags of `palimpsest.family.Writing`; and general text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from palimpsest.errors import UserError


def settle(args: Any, tokenizer: Any, end: bool | None = None) -> None:
    """Settles by the flags how rows are written for a tokenizer; `end` is what auto has come to, if it has.

    Raises:
        UserError: for arguments that are no JSON object, or flags for a chat template where there is none.
    """
    from palimpsest.models.template import use_template  # late: transformers takes seconds, help must not

    options = {}
    if args.template_kwargs is not None:
        try:
            options = json.loads(args.template_kwargs)
        except (ValueError, RecursionError) as error:
            raise UserError(f"--template-kwargs is not valid JSON ({error})") from None
        if not isinstance(options, dict):
            raise UserError(f"--template-kwargs must be a JSON object, got {args.template_kwargs}")
    chosen = {"yes": True, "no": False}.get(args.end_token, end)
    use_template(tokenizer, system=args.system, options=options, end=chosen)


def read_text(path: Path) -> str:
    """A file of general text.

    Raises:
        UserError: if the file is missing, empty or not UTF-8.
    """
    from palimpsest.tasks.rows import read_bytes

    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}): save the file as UTF-8") from None
    if not text.strip():
        raise UserError(f"{path}: the file has no text")
    return text
