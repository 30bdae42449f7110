"""From published question-answer pairs to an audited, unlearned model, with the command line alone.

    python examples/tofu.py --data FOLDER [--work FOLDER] [--budget small]

FOLDER holds forget.jsonl and retain.jsonl (question, answer), as TOFU publishes them (Maini et al. 2024). The script

1. trains a tokenizer and a small Llama-architecture model until it knows both files, and a second model, the gold
   standard, on the retain rows alone;
2. runs `palimpsest forget` on the first model's folder, once with each of three methods;
3. runs `palimpsest audit` on all five folders.

It takes about seven minutes; `--budget small` (a twentieth of the rows) under one.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from contextlib import redirect_stdout
from pathlib import Path

from palimpsest.cli import main as command_line
from palimpsest.models import causal_lm, encode, prompt_template, save, train_tokenizer
from palimpsest.tasks.rows import read_rows
from palimpsest.train.language import fine_tune

METHODS = {
    "grad_diff": [],
    "npo": [],
    "simnpo": ["--simnpo.forget-weight", "1.0", "--simnpo.beta", "2.5"],
}
SIZES = {
    "full": {"rows": None, "d_model": 192, "n_layers": 2, "epochs": 20, "steps": 75, "lr": 1e-4, "vocabulary": 2048},
    "small": {"rows": 24, "d_model": 96, "n_layers": 2, "epochs": 90, "steps": 12, "lr": 2e-3, "vocabulary": 600},
}
MAX_LENGTH = 256
MEASURES = {"probability": "P", "rouge": "ROUGE-L", "extraction_strength": "extraction"}


def train(rows, tokenizer, size, seed):
    """A model that knows `rows`."""
    template = prompt_template(tokenizer)
    encoded = encode(
        tokenizer,
        [template.prompt(row["question"]) for row in rows],
        [template.answer(row["answer"]) for row in rows],
        max_length=MAX_LENGTH,
    )
    model = causal_lm(
        len(tokenizer), d_model=size["d_model"], n_layers=size["n_layers"], max_length=MAX_LENGTH, seed=seed
    )
    fine_tune(
        model,
        encoded,
        pad_id=tokenizer.pad_token_id,
        epochs=size["epochs"],
        batch_size=16,
        lr=1.5e-3 if size["rows"] is None else 3e-3,
        schedule="cosine",
        warmup=50 if size["rows"] is None else 10,
        clip=1.0,
        seed=seed,
    )
    return model


def palimpsest(*arguments):
    """What the command line answers to these arguments, as JSON; it runs in this process, to spare its start."""
    print("\n$ palimpsest", *arguments, flush=True)
    with redirect_stdout(io.StringIO()) as answer:
        code = command_line([*map(str, arguments), "--json"])
    if code:
        raise SystemExit(code)
    return json.loads(answer.getvalue())


def main(data: Path, work: Path, budget: str = "full") -> dict[str, dict[str, float]]:
    size, started = SIZES[budget], time.perf_counter()
    work.mkdir(parents=True, exist_ok=True)
    files = {}
    for name in ("forget", "retain"):
        rows = read_rows(data / f"{name}.jsonl")[: size["rows"]]
        files[name] = work / f"{name}.jsonl"
        lines = (json.dumps({"question": row["question"], "answer": row["answer"]}) for row in rows)
        files[name].write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = {name: read_rows(file) for name, file in files.items()}

    texts = [f"Question: {row['question']}\nAnswer: {row['answer']}" for part in rows.values() for row in part]
    tokenizer = train_tokenizer(texts, vocab_size=size["vocabulary"])
    for name, known in {"full": rows["forget"] + rows["retain"], "gold": rows["retain"]}.items():
        print(f"training the {name} model on {len(known)} rows", flush=True)
        save(train(known, tokenizer, size, seed=len(name)), tokenizer, work / name, force=True)

    folders = {"full": work / "full"}
    for method, flags in METHODS.items():
        folders[method] = work / method
        palimpsest(
            *("forget", work / "full", "--method", method, *flags, "--out", work / method, "--force"),
            *("--forget", files["forget"], "--retain", files["retain"], "--steps", size["steps"]),
            *("--lr", size["lr"], "--max-length", MAX_LENGTH, "--max-rows", 100),
        )
    folders["gold"] = work / "gold"

    table = {}
    for name, folder in folders.items():
        table[name] = {}
        for part, file in files.items():
            report = work / f"{name}-{part}.html"
            found = palimpsest("audit", folder, "--data", file, "--max-rows", 100, "--report", report)["model"]
            table[name] |= {f"{part} {MEASURES[key]}": found[key] for key in MEASURES}

    print(f"\n{'':12}" + "".join(f"{column:>20}" for column in table["full"]))
    for name, measured in table.items():
        print(f"{name:12}" + "".join(f"{value:>20.3f}" for value in measured.values()))
    print(f"\n{time.perf_counter() - started:.0f} s in all; reports in {work}")
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with forget.jsonl and retain.jsonl")
    parser.add_argument("--work", type=Path, default=Path("runs/tofu"), help="where everything is written")
    parser.add_argument("--budget", choices=SIZES, default="full")
    main(**vars(parser.parse_args()))
