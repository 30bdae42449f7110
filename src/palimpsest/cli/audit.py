"""`palimpsest audit MODEL --data rows.jsonl [--attacks all] [--reference OTHER] [--before ORIGINAL] ...`."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from palimpsest.family import Writing


@dataclass
class Arguments(Writing):
    """Ask a causal language model what it remembers of rows.

    Rows are JSON lines: question and answer, prompt and completion, or text.

    Wrong answers (perturbed_answer) add the truth ratio.
    """

    model: tyro.conf.Positional[Path]
    """Folder of a Hugging Face causal language model: safetensors weights and the tokenizer."""
    data: Path
    """JSON lines to ask about."""
    reference: Path | None = None
    """Folder of the model to compare with: one retrained without the rows, or the one before unlearning."""
    before: Path | None = None
    """Folder of the model before unlearning, where the reference is another."""
    attacks: str = "none"
    """Attacks to make: all, none, or names with commas; the names are explained in the guide."""
    retain: Path | None = None
    """JSON lines that should be kept: what is left of them, examples for few-shot prompts, rows to relearn on."""
    neighbours: Path | None = None
    """JSON lines close to the forgotten ones that should be kept."""
    text: Path | None = None
    """General text, a plain file: its perplexity."""
    heldout: Path | None = None
    """JSON lines of the same kind that the model never saw: adds the membership attacks."""
    relearn_steps: int = 20
    """Steps of the relearning attacks."""
    relearn_lr: float | None = None
    """Learning rate of the relearning attacks, in place of the largest that their control bears."""
    max_rows: int | None = None
    """Ask about at most so many rows."""
    max_length: int = 512
    """Longest question with its answer, in tokens, for the attacks that train and the membership attacks."""
    batch_size: int = 64
    """Answers scored at once."""
    seed: int = 0
    """Of the choice of rows, with --max-rows."""
    report: Path | None = None
    """Write an HTML report there."""
    json: bool = False
    """Print JSON, with the numbers of every row."""


def main(args: Arguments) -> None:
    from palimpsest.cli import auditing  # late: torch takes seconds, help must not

    auditing.main(args)
