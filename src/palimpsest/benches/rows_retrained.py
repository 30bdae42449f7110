"""A model that never saw the rows to forget, where the user agrees to pay for it: the one from before, trained on the
rows to keep.

The user's model was fine-tuned on all of its rows. What exact forgetting would give is the same base model fine-tuned
on the rows to keep alone (`palimpsest.forget.retrain` says when fresh weights would do): it is trained once, kept in
the home of Palimpsest, and stands in every seed's comparison as its ceiling.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from palimpsest.errors import UserError
from palimpsest.forget.compare import pairs
from palimpsest.forget.procedure import encode_pairs
from palimpsest.models.files import load, save
from palimpsest.models.score import pad_token_id
from palimpsest.tasks.held_out import content_digest, key
from palimpsest.tasks.rows import Row
from palimpsest.tasks.worlds import cached
from palimpsest.train.language import fine_tune
from palimpsest.train.progress import duration

MEASURED = 3  # steps on a copy, by which the time that all will take is told
BATCH = 16


@dataclass(frozen=True)
class Retraining:
    """What the retrained model is made from.

    Attributes:
        base: folder of the model from before the rows were learned.
        epochs: passes over the rows to keep.
        lr: learning rate.
    """

    base: str
    epochs: float = 5.0
    lr: float = 1e-5

    def steps(self, rows: Sequence[Row]) -> int:
        return max(1, -int(-self.epochs * len(rows) // min(BATCH, len(rows))))


def retrained(how: Retraining, rows: Sequence[Row], tokenizer: Any, longest: int) -> Path:
    """The folder of the retrained model, which is trained where it is not there yet; how long that takes is said.

    Args:
        rows: all that are to be kept.
        tokenizer: of the user's model.
        longest: tokens of a question with its answer, at most.

    Raises:
        UserError: the base model cannot be loaded, or reads other tokens than the user's model.
    """
    base = Path(how.base)
    weights = sorted(base.glob("*.safetensors"))
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in weights]
    content = content_digest([key(str(row)) for row in rows])  # no row is written down
    settings = {**asdict(how), "weights": stats, "rows": content, "longest": longest}

    def build(folder: Path) -> None:
        tried, own = load(base)
        if own.get_vocab() != tokenizer.get_vocab():
            raise UserError(f"{base} has another tokenizer than your model: give the model that yours was trained from")
        encoded = encode_pairs(tokenizer, pairs(tokenizer, rows), max_length=longest)
        options = {"pad_id": pad_token_id(tokenizer), "batch_size": BATCH, "lr": how.lr, "schedule": "linear"}
        n, began = how.steps(rows), time.monotonic()
        fine_tune(tried, encoded, epochs=min(1.0, MEASURED / n) * how.epochs, progress=False, **options)
        each = (time.monotonic() - began) / min(MEASURED, n)
        print(
            f"palimpsest: retraining {base.name} on {len(rows)} rows to keep, {n} steps of {each:.2g} s:"
            f" about {duration(n * each)}, once",
            file=sys.stderr,
            flush=True,
        )
        del tried
        model, _ = load(base)
        fine_tune(model, encoded, epochs=how.epochs, progress=None, **options)
        save(model.eval(), tokenizer, folder / "model")

    return cached("retrained", settings, build) / "model"
