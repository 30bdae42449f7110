"""`palimpsest audit MODEL --data rows.jsonl [--reference BEFORE] [--heldout unseen.jsonl]`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.table import Table

from palimpsest.cli.model_report import MEASURES, answers, distribution, measures, page
from palimpsest.cli.output import number, print_json, terminal
from palimpsest.errors import UserError
from palimpsest.forget.attacks import membership
from palimpsest.forget.compare import pairs
from palimpsest.forget.evaluation import subsample
from palimpsest.forget.procedure import encode_pairs
from palimpsest.forget.tofu import RowScores, tofu_score
from palimpsest.models.files import load
from palimpsest.models.score import pad_token_id
from palimpsest.tasks.rows import Row, read_rows


@dataclass
class Arguments:
    """Ask a causal language model what it remembers of rows.

    Rows are JSON lines: question and answer, prompt and completion, or text.

    Wrong answers (perturbed_answer) add the truth ratio.
    """

    model: tyro.conf.Positional[Path]
    """Folder of a Hugging Face causal language model: safetensors weights and the tokenizer."""
    data: Path
    """JSON lines to ask about."""
    reference: Path | None = None
    """Folder of the model to compare with, such as the one before unlearning."""
    heldout: Path | None = None
    """JSON lines of the same kind that the model never saw: adds the membership attacks."""
    max_rows: int | None = None
    """Ask about at most so many rows."""
    max_length: int = 512
    """Longest question with its answer, in tokens, for the membership attacks."""
    batch_size: int = 64
    """Answers scored at once."""
    seed: int = 0
    """Of the choice of rows, with --max-rows."""
    report: Path | None = None
    """Write an HTML report there."""
    json: bool = False
    """Print JSON, with the numbers of every row."""


def main(args: Arguments) -> None:
    for name in ("max_rows", "max_length", "batch_size"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    rows = subsample(read_rows(args.data), args.max_rows, args.seed)
    heldout = read_rows(args.heldout) if args.heldout else []
    folders = {"model": args.model, **({"reference": args.reference} if args.reference else {})}
    audited = {name: audit(folder, rows, heldout, args) for name, folder in folders.items()}
    found = {name: {**measures(scores), **attacks} for name, (scores, attacks) in audited.items()}

    if args.report:
        args.report.parent.mkdir(parents=True, exist_ok=True)
        args.report.write_text(report(args, rows, audited, found), encoding="utf-8")
    if args.json:
        print_json({name: {**found[name], "rows": scores.records()} for name, (scores, _) in audited.items()})
        return
    console = terminal()
    console.print(table(found))
    if args.report:
        console.print(f"report: {args.report}", soft_wrap=True, markup=False)


def audit(folder: Path, rows: list[Row], heldout: list[Row], args: Arguments) -> tuple[RowScores, dict[str, float]]:
    """The scores of every row, and the area under the curve of every membership attack (none without unseen rows)."""
    model, tokenizer = load(folder)
    scores = tofu_score(model, rows, tokenizer=tokenizer, batch_size=args.batch_size)
    if not heldout:
        return scores, {}
    encoded = [encode_pairs(tokenizer, pairs(tokenizer, part), max_length=args.max_length) for part in (rows, heldout)]
    texts = [[row["answer"] for row in part] for part in (rows, heldout)]
    found = membership(
        model,
        *encoded,
        texts=texts[0],
        non_member_texts=texts[1],
        pad_id=pad_token_id(tokenizer),
        batch_size=args.batch_size,
    )
    return scores, {f"membership: {name}": value for name, value in found.items()}


def lines(found: dict[str, dict[str, float]]) -> list[tuple[str, list[str]]]:
    """A line a measure: its value for the model, for the reference, and the change."""
    shown = []
    for name in found["model"]:
        values = [model[name] for model in found.values()]
        cells = [number(value) for value in values]
        if len(values) == 2:
            cells.append(number(values[0] - values[1]))
        shown.append((name.replace("_", " "), cells))
    return shown


def columns(found: dict[str, Any]) -> list[str]:
    return ["model", "reference", "change"] if "reference" in found else ["model"]


def table(found: dict[str, dict[str, float]]) -> Table:
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("")
    for column in columns(found):
        shown.add_column(column, justify="right")
    for name, cells in lines(found):
        shown.add_row(name, *cells)
    return shown


def report(
    args: Arguments, rows: list[Row], audited: dict[str, tuple[RowScores, Any]], found: dict[str, dict[str, float]]
) -> str:
    scores = {name: row_scores for name, (row_scores, _) in audited.items()}
    n = len(scores["model"])
    figures = {
        MEASURES[name]: distribution(name.replace("_", " "), {group: getattr(s, name) for group, s in scores.items()})
        for name in ("probability", "rouge", "extraction_strength")
    }
    notes = [f"{meaning}." for name, meaning in MEASURES.items() if name in found["model"]]
    if args.heldout:
        notes.append("membership: how often an attack ranks one of these rows above an unseen one; 0.5 is chance.")
    return page(
        title=f"audit of {args.model.resolve().name}",
        lead=f"The model reproduces {found['model']['rouge']:.0%} of the answers’ words, over {n} rows.",
        table=lines(found),
        columns=columns(found),
        figures=figures,
        rows=answers(rows, scores),
        notes=notes,
        settings={"data": args.data.name, "rows": n, "max rows": args.max_rows, "seed": args.seed},
    )
