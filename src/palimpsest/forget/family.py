"""`palimpsest forget MODEL --method npo --forget forget.jsonl --retain retain.jsonl --out DIR`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from palimpsest.family import Family, Writing
from palimpsest.forget.methods import METHODS, MOST_RATES
from palimpsest.train.ranges import Above, AtLeast, AtMost


@dataclass
class Flags:
    """Make a causal language model forget rows, keep others, and audit it.

    Rows are JSON lines: question and answer, prompt and completion, or text.

    Several --method are compared in one table; the best balanced is saved.
    """

    model: tyro.conf.Positional[Path]
    """Folder of a Hugging Face causal language model: safetensors weights and the tokenizer."""
    forget: Path
    """JSON lines to forget."""
    out: Path
    """Folder to save the model to."""
    retain: Path | None = None
    """JSON lines to keep; most methods need them."""
    text: Path | None = None
    """General text, a plain file: how well the model still speaks it is part of what is kept."""
    steps: Annotated[int, AtLeast(1)] = 60
    """Optimizer steps."""
    until: Annotated[float | None, Above(0), AtMost(1)] = None
    """Stop training a method once this share is forgotten; --steps is then the most that it gets."""
    look_every: Annotated[int, AtLeast(1)] = 2
    """Steps between looks at what is forgotten, for --until; a look costs the answers to 32 forget rows at most."""
    tune: Annotated[int | None, AtLeast(2), AtMost(MOST_RATES)] = None
    """Try so many learning rates around --lr for each method, half a decade apart; retain rows held out choose."""
    lr: Annotated[float, Above(0)] = 1e-5
    """Learning rate: about 1e-5 for models of billions of parameters, up to 1e-3 for very small ones."""
    batch_size: Annotated[int, AtLeast(1)] = 16
    """Forget rows, and as many retain rows, in a batch."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """Optimizer."""
    schedule: str = "constant"
    """Learning-rate schedule, by its name in transformers."""
    warmup: Annotated[int, AtLeast(0)] = 0
    """Steps of linear warm-up."""
    clip: float | Literal["none"] = 1.0
    """Largest gradient norm; none for no limit."""
    accumulate: Annotated[int, AtLeast(1)] = 1
    """Batches in a step."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the weights when scored and saved, whatever it is on disk; they train in float32."""
    merge_adapter: bool = False
    """Where the model is a peft adapter: merge it into its base model, and train and save that."""
    lora: Annotated[int | None, AtLeast(1)] = None
    """Train and save LoRA adapters of this rank on all linear maps, not the weights: less memory, a small result."""
    max_length: Annotated[int, AtLeast(1)] = 512
    """Longest question with its answer, in tokens; never more than the model's context."""
    truncate: bool = False
    """Cut longer answers instead of refusing them."""
    max_rows: Annotated[int | None, AtLeast(1)] = None
    """Score at most so many rows of each file."""
    checkpoint_every: Annotated[int, AtLeast(1)] = 50
    """Steps between checkpoints, from which the same command goes on after an interruption."""
    seed: Annotated[int, AtLeast(0)] = 0
    """Of the order of the rows, and of all else that is drawn."""
    allow_overlap: bool = False
    """Go on although rows are both to forget and to retain."""


family = Family(name="forget", flags=Flags, methods=METHODS, shared=Writing, job="forgetting:Forgetting")
