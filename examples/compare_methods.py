"""All forgetting methods on the same rows at the same level of forgetting: the table and the figure of the guide.

    python examples/compare_methods.py --data FOLDER [--work FOLDER] [--figure FILE] [--method NAME ...]

FOLDER holds forget.jsonl and retain.jsonl as TOFU publishes them (Maini et al. 2024). A small Llama-architecture model
learns both files; a second one, the gold standard, the retain rows alone. Then every method makes a copy of the first
forget until the mean probability of the forget answers is at most LEVEL, or its steps are used up. Its learning rate is
the one of RATES, tried on a seed of its own, that reaches the level and keeps most (or, where none does, has the best
balance); the seeds shown are others.

    forgotten = 1 - mean of after / before over {P, ROUGE-L recall} of 100 forget rows
    kept      = mean of after / before over {P, ROUGE-L recall} of 100 retain rows
    cost      = processor seconds until the level (looking not counted), over those of retraining

Everything is kept under --work, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch

from palimpsest.errors import UserError
from palimpsest.evidence.figures import ARMS, FAINT, INK, MUTED, STYLE, canvas, svg
from palimpsest.forget.compare import pairs
from palimpsest.forget.evaluation import subsample
from palimpsest.forget.forgotten_and_kept import balance, left
from palimpsest.forget.methods import METHODS
from palimpsest.forget.procedure import ForgetData, prepare
from palimpsest.forget.tofu_measures import tofu_score
from palimpsest.models import causal_lm, load, save, train_tokenizer
from palimpsest.models.score import score
from palimpsest.tasks.rows import read_rows
from palimpsest.train import NonFiniteLoss, apply
from palimpsest.train.language import fine_tune

SIZE = {"d_model": 128, "n_layers": 2, "epochs": 20, "vocabulary": 2048}
MAX_LENGTH, SCORED = 256, 100
LEVEL, STEPS, EVERY = 0.1, 100, 4
RATES, TUNING_SEED, SEEDS = (5e-5, 2e-4, 8e-4), 0, (1, 2)
# Fields that the published defaults, for models a thousand times larger, do not suit.
FIELDS: dict[str, dict[str, Any]] = {
    "simnpo": {"forget_weight": 1.0, "beta": 2.5},
    "rmu": {"coefficient": 20.0, "alpha": 1.0},
}
MEASURES = ("probability", "rouge")


def world(data: Path, work: Path) -> tuple[dict[str, list[dict]], dict[str, float]]:
    """The rows, and the seconds that each model took to train; the models are under `work`."""
    rows = {name: read_rows(data / f"{name}.jsonl") for name in ("forget", "retain")}
    seconds_file = work / "seconds.json"
    if not seconds_file.exists():
        work.mkdir(parents=True, exist_ok=True)
        texts = [f"Question: {row['question']}\nAnswer: {row['answer']}" for part in rows.values() for row in part]
        tokenizer = train_tokenizer(texts, vocab_size=SIZE["vocabulary"])
        seconds = {}
        for seed, (name, known) in enumerate({"full": rows["forget"] + rows["retain"], "gold": rows["retain"]}.items()):
            print(f"training the {name} model on {len(known)} rows", flush=True)
            model = causal_lm(
                len(tokenizer), d_model=SIZE["d_model"], n_layers=SIZE["n_layers"], max_length=MAX_LENGTH, seed=seed
            )
            encoded = prepare(tokenizer, pairs(tokenizer, known), max_length=MAX_LENGTH).forget
            settings = {"lr": 1.5e-3, "schedule": "cosine", "warmup": 50, "clip": 1.0, "seed": seed}
            started = time.process_time()
            fine_tune(model, encoded, pad_id=tokenizer.pad_token_id, epochs=SIZE["epochs"], batch_size=16, **settings)
            seconds[name] = time.process_time() - started
            save(model, tokenizer, work / name, force=True)
        seconds_file.write_text(json.dumps(seconds))
    return rows, json.loads(seconds_file.read_text())


def run(
    method: Any, rows: dict, before: dict, data: ForgetData, folder: Path, lr: float, seed: int
) -> dict[str, float]:
    """Forgets with one method, rate and seed, and scores what is left."""
    model, tokenizer = load(folder)
    sample = data.forget.subset(range(0, len(data.forget), 4))
    looking = [0.0]

    def level(model: torch.nn.Module, step: int) -> dict[str, float]:
        started = time.process_time()
        found = float(np.exp(-score(model, sample, pad_id=data.pad_id).nll).mean())
        looking[0] += time.process_time() - started
        return {"P": found}

    options: dict[str, Any] = {"steps": STEPS, "lr": lr, "batch_size": 16, "seed": seed, "clip": 1.0}
    if hasattr(method, "loss"):
        options |= {"evaluate": level, "evaluate_every": EVERY, "stop": lambda e: e["P"] <= LEVEL, "progress": False}
    started = time.process_time()
    try:
        applied = apply(model, method, data, **options)
        model, history = applied.model, applied.history
    except NonFiniteLoss as error:
        history = error.history
    seconds = time.process_time() - started - looking[0]
    after = {name: tofu_score(model, part, tokenizer=tokenizer, max_rows=SCORED, seed=0) for name, part in rows.items()}
    return {
        "forgotten": 1 - left(before["forget"], after["forget"], MEASURES),
        "kept": left(before["retain"], after["retain"], MEASURES),
        "reached": float(level(model, 0)["P"] <= LEVEL),
        "steps": float(len(history.steps)) if history else 0.0,
        "seconds": seconds,
        **{f"{name} {m}": float(np.mean(getattr(after[name], m))) for name in after for m in MEASURES},
    }


def main(data: Path, work: Path, figure: Path | None, chosen: list[str]) -> None:
    torch.set_num_threads(1)
    rows, seconds = world(data, work)
    _, tokenizer = load(work / "full")
    forget_data = prepare(
        tokenizer, pairs(tokenizer, rows["forget"]), pairs(tokenizer, rows["retain"]), max_length=MAX_LENGTH
    )
    scored = {name: subsample(part, SCORED) for name, part in rows.items()}
    before, gold = (
        {name: tofu_score(work / model, part) for name, part in scored.items()} for model in ("full", "gold")
    )
    results_file = work / "results.json"
    results = json.loads(results_file.read_text()) if results_file.exists() else {}

    def once(name: str, lr: float, seed: int) -> dict[str, float]:
        key = f"{name} {lr} {seed}"
        if key not in results:
            method = type(METHODS[name])(**{**vars(METHODS[name]), **FIELDS.get(name, {})})
            try:
                results[key] = run(method, scored, before, forget_data, work / "full", lr, seed)
            except UserError as error:  # these rows do not suit the method
                results[key] = {"error": str(error)}
            results_file.write_text(json.dumps(results, indent=1))
            print(key, results[key], flush=True)
        return results[key]

    table: dict[str, list[dict[str, float]]] = {}
    for name in chosen or METHODS:
        tuned = {lr: once(name, lr, TUNING_SEED) for lr in RATES}
        if any("error" in found for found in tuned.values()):
            continue
        lr = max(tuned, key=lambda lr: worth(tuned[lr]))
        table[name] = [{**once(name, lr, seed), "lr": lr} for seed in SEEDS]
    gold_point = (
        1 - left(before["forget"], gold["forget"], MEASURES),
        left(before["retain"], gold["retain"], MEASURES),
    )
    print(markdown(table, gold_point, seconds["gold"]))
    if figure:
        figure.parent.mkdir(parents=True, exist_ok=True)
        figure.write_text(draw(table, gold_point), encoding="utf-8")


def worth(found: dict[str, float]) -> tuple[float, float]:
    """By what a learning rate is chosen: the level, and what is kept there; without the level, the balance of both."""
    return found["reached"], found["kept"] if found["reached"] else balance(found["forgotten"], found["kept"])


def markdown(table: dict[str, list[dict[str, float]]], gold: tuple[float, float], retraining: float) -> str:
    """A line a method: means over the seeds, by what is kept, best first; those that missed the level at the end."""

    def mean(name: str, key: str) -> float:
        return float(np.mean([found[key] for found in table[name]]))

    order = sorted(table, key=lambda name: (-(mean(name, "reached") == 1), -mean(name, "kept")))
    lines = [
        "| method | forgotten | kept | level reached | steps | learning rate | cost |",
        "|---|---|---|---|---|---|---|",
    ]
    lines.append(f"| *retrained* | {gold[0]:.2f} | {gold[1]:.2f} | | | | 1 |")
    for name in order:
        lines.append(
            f"| {name} | {mean(name, 'forgotten'):.2f} | {mean(name, 'kept'):.2f} | {mean(name, 'reached'):.0%} |"
            f" {mean(name, 'steps'):.0f} | {table[name][0]['lr']:g} | {mean(name, 'seconds') / retraining:.3f} |"
        )
    return "\n".join(lines)


@mpl.rc_context(STYLE)
def draw(table: dict[str, list[dict[str, float]]], gold: tuple[float, float]) -> str:
    """One point a method and seed: the upper right corner is where one wants to be."""
    drawing, axes = canvas(4.6)
    markers = "o^sDvP"
    for i, (name, found) in enumerate(table.items()):
        x, y = ([point[key] for point in found] for key in ("forgotten", "kept"))
        style = {"color": ARMS[i % len(ARMS)], "marker": markers[i // len(ARMS) % len(markers)]}
        axes.plot(x, y, linestyle="none", markersize=6, alpha=0.85, label=name, **style)
    axes.plot([gold[0]], [gold[1]], "*", color=INK, markersize=13, label="retrained")
    axes.set(xlabel="forgotten", ylabel="kept", xlim=(-0.03, 1.03), ylim=(-0.03, 1.05))
    axes.grid(True, color=FAINT, linewidth=0.6)
    axes.tick_params(labelcolor=MUTED, length=0)
    axes.legend(frameon=False, ncols=1, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    return svg(drawing, "methods")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with forget.jsonl and retain.jsonl")
    parser.add_argument("--work", type=Path, default=Path("runs/methods"), help="where everything is kept")
    parser.add_argument("--figure", type=Path, help="where to write the figure (SVG)")
    parser.add_argument("--method", dest="chosen", action="append", default=[], help="only this one (repeatable)")
    main(**vars(parser.parse_args()))
