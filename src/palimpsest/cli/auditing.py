"""What `palimpsest audit` does once its flags are read: it asks, attacks, and reports."""

from __future__ import annotations

import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from palimpsest.cli.model_report import MEASURES, answers, distribution, measures, page
from palimpsest.cli.output import number, print_json, print_tables, terminal
from palimpsest.cli.writing import read_text, settle
from palimpsest.errors import UserError
from palimpsest.evidence.report import check_report
from palimpsest.forget.evaluation import settle_end, subsample
from palimpsest.forget.intervention import SETTINGS, load
from palimpsest.forget.robustness import ATTACKS, KNOWN, Robustness, attack, fluency, own_control
from palimpsest.forget.tofu_measures import RowScores, tofu_score
from palimpsest.metrics.text import unprompted_recall
from palimpsest.models.adapters import sources
from palimpsest.models.files import load as load_plain
from palimpsest.models.output_folders import written
from palimpsest.paths import resolved
from palimpsest.tasks.rows import Row, read_rows


def main(args: Any) -> None:
    for name in ("max_rows", "max_length", "batch_size", "relearn_steps"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    if args.relearn_lr is not None and not args.relearn_lr > 0:
        raise UserError(f"--relearn-lr must be above 0, got {args.relearn_lr}")
    if not 0 <= args.seed < 2**32:
        raise UserError(f"--seed {args.seed}: it must be from 0 to below 2^32, which is what random generators take")
    attacks = chosen(args)
    folders = {"model": args.model, "reference": args.reference, "before": args.before}
    if args.report:
        read = [args.data, args.retain, args.neighbours, args.heldout, args.text]
        models = [source for folder in folders.values() if folder for source in sources(folder)]
        html = check_report(args.report, [*filter(None, read), *models])
    rows = subsample(read_rows(args.data), args.max_rows, args.seed)
    other = {name: rows_of(getattr(args, name), args) for name in ("retain", "neighbours", "heldout")}
    text = read_text(args.text) if args.text else ""
    audited: dict[str, tuple[RowScores, dict[str, float], Robustness | None]] = {}
    control, whose = None, ""
    end = ends(args, [folders[name] for name in ("before", "model", "reference") if folders[name]], rows, other)
    # A model that knows the rows comes first, and is the control of the attacks on the others.
    for name in ("before", "reference", "model"):
        if folders[name] is None:
            continue
        alone = name == "model" and control is None
        scores, more, robust, own = audit(folders[name], rows, other, text, attacks, args, control, alone, end)
        audited[name] = scores, more, robust
        if alone and own:
            control, whose = own, "rows that the model kept"
        elif control is None and robust and robust.recall["plain"] >= KNOWN and name != "model":
            control, whose = robust, name
    audited = {name: audited[name] for name in folders if name in audited}
    found = {name: {**measures(scores), **more} for name, (scores, more, _) in audited.items()}
    if control is not None and whose not in found:
        found["control"] = numbers(control)
    robust = audited["model"][2]
    left_out = robust.left_out if robust else {}
    void = robust.void if robust else {}
    if robust:
        none = "none: give --before, or --retain with rows that the model knows; no attack can be found void"
        control_said = whose or none

    if args.report:
        with written(html, report(args, rows, audited, found, left_out)):
            pass
    if args.json:
        shown = {name: {**found[name], "rows": scores.records()} for name, (scores, *_) in audited.items()}
        if "control" in found:
            shown["control"] = found["control"]
        more = {"control of the attacks": control_said, "void": void, "left out": left_out} if robust else {}
        print_json({**shown, **more})
        return
    console = terminal()
    print_tables(console, table(found))
    if robust:
        console.print(f"control of the attacks: {control_said}", soft_wrap=True, markup=False)
    for what, reasons in {"void": void, "left out": left_out}.items():
        for name, reason in reasons.items():
            console.print(f"{what}: {name} ({reason})", soft_wrap=True, markup=False)
    if args.report:
        console.print(f"report: {args.report}", soft_wrap=True, markup=False)


def chosen(args: Any) -> tuple[str, ...]:
    """The attacks asked for; held-out rows alone ask for the membership attacks.

    Raises:
        UserError: for an unknown one.
    """
    if args.attacks == "all":
        return ATTACKS
    if args.attacks == "none":
        return ("membership",) if args.heldout else ()
    names = tuple(name.strip() for name in args.attacks.split(",") if name.strip())
    for name in names:
        if name not in ATTACKS:
            near = get_close_matches(name, ATTACKS, n=1, cutoff=0.4)
            meant = f"did you mean {near[0]}? " if near else ""
            raise UserError(f"unknown attack {name!r}: {meant}there are all, none, {', '.join(ATTACKS)}")
    return names


def rows_of(path: Path | None, args: Any) -> list[Row]:
    return subsample(read_rows(path), args.max_rows, args.seed) if path else []


def ends(args: Any, folders: list[Path], rows: list[Row], other: dict[str, list[Row]]) -> bool | None:
    """Whether the end token counts, so that all models are scored alike: where one of them ends, for a reference may
    know nothing. None is where that is said already, or the only model will say it."""
    if args.end_token != "auto" or len(folders) < 2:
        return None
    for folder in folders:
        model, tokenizer = load(folder)
        settle(args, tokenizer)
        end = settle_end(model, tokenizer, [*rows, *other["retain"]], batch_size=args.batch_size).end
        if end is not False:
            return end
    return False


def audit(
    folder: Path,
    rows: list[Row],
    other: dict[str, list[Row]],
    text: str,
    attacks: tuple[str, ...],
    args: Any,
    control: Robustness | None,
    alone: bool,
    end: bool | None,
) -> tuple[RowScores, dict[str, float], Robustness | None, Robustness | None]:
    """The scores of every row; what is kept, what the attacks leave and how it speaks; the attacks in full; and, of a
    model that is `alone`, without another for a control, those on rows that it kept."""
    model, tokenizer = load(folder)
    settle(args, tokenizer, end)
    settle_end(model, tokenizer, [*rows, *other["retain"]], batch_size=args.batch_size)
    scores = tofu_score(model, rows, tokenizer=tokenizer, batch_size=args.batch_size)
    told = [
        unprompted_recall(said, row["answer"], row["question"])
        for said, row in zip(scores.output, rows, strict=True)
        if row["question"]
    ]
    more = {"unprompted recall": float(np.nanmean(told))} if not np.isnan(told).all() else {}
    robust = own = None
    if attacks:
        print(f"attacking {folder}", file=sys.stderr)
        given = {
            "heldout": other["heldout"],
            "without": load_plain(folder)[0] if (folder / SETTINGS).is_file() else None,
            "attacks": attacks,
            "steps": args.relearn_steps,
            "lr": args.relearn_lr,
            "max_length": args.max_length,
            "batch_size": args.batch_size,
            "seed": args.seed,
        }

        def said(what: str) -> Callable[[str], None]:
            return lambda name: print(f"{what}: {name}", file=sys.stderr, flush=True)

        if alone:
            own = own_control(model, tokenizer, other["retain"], progress=said(f"control of {folder}"), **given)
            control = own
        robust = attack(
            model, tokenizer, rows, retain=other["retain"], control=control, progress=said(str(folder)), **given
        )
        more |= numbers(robust)
        if set(attacks) - {"membership", "probe"}:
            more |= {"forgotten": robust.forgotten, "robustly forgotten": robust.robustly_forgotten}
    for name, kept in {"kept": other["retain"], "kept of neighbours": other["neighbours"]}.items():
        if kept:
            spared = tofu_score(model, kept, tokenizer=tokenizer, batch_size=args.batch_size)
            more |= {name: float(spared.rouge.mean()), f"{name}, probability": float(spared.probability.mean())}
    if text or attacks:
        more |= fluency(model, tokenizer, scores.output, text)
    return scores, more, robust, own


def numbers(robust: Robustness) -> dict[str, float]:
    """What the attacks left, by the names that the table has."""
    recalls = {f"left after {name}": value for name, value in robust.recall.items() if name != "plain"}
    return recalls | {"probe AUC" if name == "probe" else name: value for name, value in robust.area.items()}


def lines(found: dict[str, dict[str, float]]) -> list[tuple[str, list[str]]]:
    """A line a measure: its value for the model, for the reference, and the change."""
    shown = []
    for name in found["model"]:
        values = [model.get(name, float("nan")) for model in found.values()]
        cells = [number(value) for value in values]
        if len(values) == 2 and "control" not in found:
            cells.append(number(values[0] - values[1]))
        shown.append((name.replace("_", " "), cells))
    return shown


def columns(found: dict[str, Any]) -> list[str]:
    return [*found, "change"] if len(found) == 2 and "control" not in found else [*found]


def table(found: dict[str, dict[str, float]]) -> Table:
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("")
    for column in columns(found):
        shown.add_column(column, justify="right")
    for name, cells in lines(found):
        shown.add_row(name, *cells)
    return shown


def report(
    args: Any,
    rows: list[Row],
    audited: dict[str, tuple[RowScores, Any, Robustness | None]],
    found: dict[str, dict[str, float]],
    left_out: dict[str, str],
) -> str:
    scores = {name: row_scores for name, (row_scores, *_) in audited.items()}
    n = len(scores["model"])
    figures = {
        MEASURES[name]: distribution(name.replace("_", " "), {group: getattr(s, name) for group, s in scores.items()})
        for name in ("probability", "rouge", "extraction_strength")
    }
    notes = [f"{meaning}." for name, meaning in MEASURES.items() if name in found["model"]]
    if "unprompted recall" in found["model"]:
        notes.append(
            "unprompted recall: share of the answer's words that the question does not hold and the model says;"
            " ROUGE-L also counts what a question says itself."
        )
    if robust := audited["model"][2]:
        notes += [f"left after {name}: {how}." for name, how in robust.how.items() if name in robust.recall]
        notes += [f"void: {name} ({reason})." for name, reason in robust.void.items()]
        notes += [f"left out: {name} ({reason})." for name, reason in left_out.items()]
    if args.heldout:
        notes.append("membership: how often an attack ranks one of these rows above an unseen one; 0.5 is chance.")
    return page(
        title=f"audit of {resolved(args.model).name}",
        lead=f"The model reproduces {found['model']['rouge']:.0%} of the answers’ words, over {n} rows.",
        table=lines(found),
        columns=columns(found),
        figures=figures,
        rows=answers(rows, scores),
        notes=notes,
        settings={
            "data": args.data.name,
            "rows": n,
            "max rows": args.max_rows,
            "attacks": args.attacks,
            "seed": args.seed,
        },
    )
