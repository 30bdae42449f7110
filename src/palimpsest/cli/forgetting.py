"""What `palimpsest forget` does: every method trains a copy of the model, the best is saved, and what became of the
rows is told."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

from palimpsest.cli.family_run import table
from palimpsest.cli.model_report import MEASURES, answers, distribution, measures, page, trade_off
from palimpsest.cli.output import number
from palimpsest.cli.writing import read_text, settle
from palimpsest.errors import UserError
from palimpsest.family import Family, Writing
from palimpsest.forget import intervention
from palimpsest.forget.compare import Comparison, Result, compare
from palimpsest.forget.evaluation import subsample
from palimpsest.forget.forgotten_and_kept import FORGOTTEN_BY, LEAST, measurable
from palimpsest.forget.learning_rates import place
from palimpsest.forget.stop_at_level import LOOK_ROWS
from palimpsest.models.adapters import add_lora, sources
from palimpsest.models.files import copy, load, save
from palimpsest.models.output_folders import check_space, tidy
from palimpsest.models.template import Verbatim
from palimpsest.paths import home, resolved
from palimpsest.tasks.rows import Row, check_overlap, read_rows
from palimpsest.train import checkpoint
from palimpsest.train.method import is_objective
from palimpsest.train.rounding import in_float32
from palimpsest.train.settings import check_numbers

WRITING = tuple(each.name for each in fields(Writing))
TRAINING = ("steps", "lr", "optimizer", "schedule", "warmup", "clip", "accumulate", "precision", "checkpoint_every")
ASKED = ("max_length", "truncate", "max_rows", "batch_size", "seed", "until", "look_every", "tune")
TOLD = ("until", "look_every", "tune", "batch_size", "max_length", "dtype", "seed")
PLACED = "placed"  # in the folder of unfinished work: where its output was put
FIXED = {"weight_decay": 0.0, "momentum": 0.0}


class Forgetting:
    """Makes the model forget by every method, one copy in memory at a time; the best so far is kept on disk."""

    def __init__(self, family: Family, methods: Mapping[str, Any], args: Any) -> None:
        self.methods, self.args = methods, args
        if args.clip == "none":
            args.clip = None
        try:
            check_numbers({**{name: getattr(args, name) for name in TRAINING}, **FIXED, "seed": args.seed})
        except (TypeError, ValueError) as error:
            raise UserError(f"{error}") from None
        if args.seed >= 2**32:
            raise UserError(f"--seed {args.seed}: it must be below 2^32, which is what random generators take")
        self.forget = read_rows(args.forget)
        self.retain = read_rows(args.retain) if args.retain else []
        if not args.allow_overlap:
            check_overlap(self.forget, self.retain)
        self.text = read_text(args.text) if args.text else ""
        self.inputs = [args.forget, *filter(None, [args.retain, args.text]), *sources(args.model)]
        self.work = home() / "forget" / digest(args, self.forget, self.retain)
        self.best = self.work / "best"
        self.folders = {name: self.work / f"{name}-{fields_digest(method)}" for name, method in methods.items()}
        self.kept: tuple[Any, torch.device] | None = None
        for finished in self.work.parent.glob(".*"):
            shutil.rmtree(finished, ignore_errors=True)
        if (args.model / intervention.SETTINGS).is_file():
            raise UserError(
                f"{args.model} forgets by an intervention ({intervention.SETTINGS}), which training would leave behind:"
                " give the model it was made from, and all rows to forget"
            )
        # Killed after the output was put in place and before the report was, the same command goes on over its own.
        placed = self.work / PLACED
        args.force = args.force or (placed.is_file() and placed.read_text(encoding="utf-8") == str(resolved(args.out)))

    def compare(self) -> dict[str, Any]:
        args = self.args
        weights = sum(path.stat().st_size for path in args.model.glob("*.safetensors") if path.is_file())
        # There a checkpoint, the best rate's so far beside it, and the best so far of what has no checkpoint.
        copies = 1 + (args.tune is not None) + (not all(map(is_objective, self.methods.values())))
        check_space((resolved(args.out), weights), (home(), copies * weights))
        shutil.rmtree(self.best, ignore_errors=True)  # of an interrupted command: it is made again
        tidy(self.best)
        self.comparison = compare(
            lambda: opened(args),
            self.methods,
            self.forget,
            self.retain,
            text=self.text,
            keep=self.keep,
            checkpoint=self.folders.get,
            progress=lambda text: print(text, file=sys.stderr, flush=True),
            **{name: getattr(args, name) for name in (*TRAINING, *ASKED)},
        )
        self.tables, self.said = tables(self.comparison), [*said(self.comparison, args)]
        return as_json(self.comparison, self.methods, args)  # raises where all broke down: the checkpoints stay

    def keep(self, result: Result, model: Any, tokenizer: Any, learned: Any) -> None:
        """The best so far: an objective's weights are in its checkpoint already, and what another made is saved."""
        self.kept = tokenizer, next(model.parameters()).device
        shutil.rmtree(self.best, ignore_errors=True)
        if learned is not None:
            intervention.save(model, tokenizer, self.best, self.methods[result.method], learned)
        elif not is_objective(self.methods[result.method]):
            save(model, tokenizer, self.best)

    def save(self, out: Path, **how: Any) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        (self.work / PLACED).write_text(str(out), encoding="utf-8")
        if self.best.exists():
            copy(self.best, out, **how)
            return
        (tokenizer, device), best = self.kept, self.comparison.best
        save(restored(self.args, place(self.folders[best.method], best.lr), device), tokenizer, out, **how)

    def done(self) -> None:
        finished = self.work.with_name(f".{self.work.name}")  # no longer gone on from, also where this is interrupted
        self.work.rename(finished)
        shutil.rmtree(finished, ignore_errors=True)

    def page(self, summary: dict[str, Any]) -> str:
        return report(self.comparison, summary, self.forget, self.args)


def restored(args: Any, folder: Path, device: torch.device) -> Any:
    """The model as its training left it, of which the finished checkpoint is the only copy; rounded where it was."""
    model = opened(args)[0].to(device)
    point = checkpoint.latest(folder)
    with in_float32(model):
        checkpoint.fill(model, checkpoint.load(point)[0], point)
    return model


def opened(args: Any) -> tuple[Any, Any]:
    """The model and its tokenizer, with fresh adapters where --lora asks for them."""
    model, tokenizer = load(args.model, dtype=args.dtype, merge_adapter=args.merge_adapter)
    settle(args, tokenizer)
    if args.lora is None:
        return model, tokenizer
    if args.merge_adapter:
        raise UserError("--lora saves its adapters beside the model on disk, which --merge-adapter changes: give one")
    return add_lora(model, args.lora, args.model, args.seed), tokenizer


def digest(args: Any, forget: list[Row], retain: list[Row]) -> str:
    """Names the unfinished work of a command: only the same one goes on from it, or one with other methods."""
    files = [file for folder in sources(args.model) for file in sorted(folder.iterdir()) if file.is_file()]
    model = [(str(resolved(file)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    names = (*TRAINING, "batch_size", "max_length", "truncate", "seed", "dtype", "merge_adapter", "lora", *WRITING)
    settings = {name: getattr(args, name) for name in names}
    settings["held out"] = args.tune is not None  # which rows are trained on; how many rates are tried does not matter
    settings["looks"] = args.until and {name: getattr(args, name) for name in ("until", "look_every", "max_rows")}
    parts = [str(resolved(args.model)), model, settings, forget, retain]
    parts.append([isinstance(row["question"], Verbatim) for row in (*forget, *retain)])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def fields_digest(method: Any) -> str:
    """Names a method's fields: with others its checkpoints are of no use."""
    return hashlib.sha256(json.dumps(asdict(method), sort_keys=True).encode()).hexdigest()[:8]


def as_json(comparison: Comparison, methods: dict[str, Any], args: Any) -> dict[str, Any]:
    """Everything that the command found, without the rows."""

    def of(result: Result) -> dict[str, Any]:
        tuned = {"lr": result.lr, "trials": [asdict(trial) for trial in result.trials]} if result.trials else {}
        if result.error:
            return {"error": result.error, "seconds": result.seconds, **tuned}
        stopped = {} if result.reached is None else {"reached": result.reached, "looking seconds": result.looking}
        return {
            **tuned,
            **stopped,
            "steps": len(result.loss),
            "forget": measures(result.forget),
            "retain": measures(result.retain),
            "text perplexity": result.perplexity,
            **{name: getattr(result, name) for name in ("forgotten", "kept", "balance", "seconds")},
        }

    return {
        "model": resolved(args.model).name,
        "best": comparison.best.method,
        "rule": comparison.rule,
        "before": {
            "forget": measures(comparison.before_forget),
            "retain": measures(comparison.before_retain),
            "text perplexity": comparison.before_perplexity,
        },
        "notes": notes(comparison, args),
        "nothing to lose": comparison.left_out,
        "methods": {r.method: {"fields": asdict(methods[r.method]), **of(r)} for r in comparison.results},
        "settings": {name: getattr(args, name) for name in (*TRAINING, *TOLD, *WRITING)},
    }


PERPLEXITY = "text perplexity"
COLUMNS = (
    *("forget P", "forget ROUGE-L", "forget extraction", "retain P", "retain ROUGE-L"),
    *("forgotten", "kept", "balance", "seconds"),
)


def lines(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """A line for the model as it was, and one a method, under `columns`."""
    spoken = not math.isnan(comparison.before_perplexity)

    def cells(forget: Any, retain: Any, perplexity: float) -> list[str]:
        names = ("probability", "rouge", "extraction_strength")
        found = [(measures(forget), names), (measures(retain), names[:2])]
        scores = [number(values[name]) if values else "–" for values, shown in found for name in shown]
        return [*scores, number(perplexity)] if spoken else scores

    before = cells(comparison.before_forget, comparison.before_retain, comparison.before_perplexity)
    stopped, tuned = comparison.until is not None, any(r.trials for r in comparison.results)
    shown = [("before", [*before, *["–"] * (4 + stopped + tuned)])]
    for r in comparison.results:
        scores = [number(value) for value in (r.forgotten, r.kept, r.balance, r.seconds)]
        more = [reached_at(r)] * stopped + ["–" if r.lr is None else f"{r.lr:.2g}"] * tuned
        shown.append((r.method, [*cells(r.forget, r.retain, r.perplexity), *scores, *more]))
    return shown


def reached_at(result: Result) -> str:
    """When a method reached the level of forgetting; one that does not train in steps is looked at when it is done."""
    if result.reached is None:
        return "–"
    return "never" if not result.reached else f"step {len(result.loss)}" if result.loss else "at its end"


def notes(comparison: Comparison, args: Any) -> list[str]:
    """What must be known to read the numbers."""
    found = [f"not counted: {name} was below {LEAST} before, and had nothing to lose" for name in comparison.left_out]
    if not measurable(comparison.before_forget, FORGOTTEN_BY):
        found.insert(0, "the model did not know the rows to forget before: there was nothing to forget")
    if args.until is not None:
        asked = min(LOOK_ROWS, len(comparison.before_forget))
        found.append(
            f"forgotten is set by --until {args.until:g}, and is no result: compare what is kept, of the methods that"
            f" reached it ({asked} forget rows asked every {args.look_every} steps)"
        )
    if args.tune is not None:
        held = f"{comparison.held_out} retain rows" if comparison.held_out else ""
        end = "the last fifth of the text" if args.text else ""
        found.append(
            f"lr is the best of {args.tune} by {comparison.rule}: kept by {' and '.join(filter(None, (held, end)))},"
            " held out of training and of the table, and forgotten by rows that are forgotten"
        )
        for r in comparison.results:
            ends = {"smallest": r.trials[0].lr, "largest": r.trials[-1].lr} if r.trials else {}
            found += [
                f"{r.method}: the best lr is the {end} tried, and one beyond may be better"
                for end, lr in ends.items()
                if lr == r.lr
            ]
        once = [r.method for r in comparison.results if not r.trials]
        if once:
            found.append(f"tried once, for they train at no rate that is given: {', '.join(once)}")
    return found


def ledger(result: Result) -> str:
    """The learning rates that were tried for a method, and what each came to."""
    tried = [
        trial.error or f"forgotten {number(trial.forgotten)}, kept {number(trial.kept)} in {trial.steps} steps"
        for trial in result.trials
    ]
    rates = [f"lr {trial.lr:.2g}: {found}" for trial, found in zip(result.trials, tried, strict=True)]
    return f"{result.method} was tried at {'; '.join(rates)}."


def columns(comparison: Comparison) -> tuple[str, ...]:
    """Those of `COLUMNS`, what is kept of general text before the sums, where there is some, when the level of
    forgetting was reached, where there is one, and the learning rate, where it was chosen."""
    place = COLUMNS.index("forgotten")
    more = () if math.isnan(comparison.before_perplexity) else (PERPLEXITY,)
    level = () if comparison.until is None else (f"reached {comparison.until:g}",)
    rate = ("lr",) if any(r.trials for r in comparison.results) else ()
    return (*COLUMNS[:place], *more, *COLUMNS[place:], *level, *rate)


def tables(comparison: Comparison) -> list[Table]:
    """How each method was trained stands below, where it would not fit beside."""
    names, shown = columns(comparison), lines(comparison)
    if names[-1] == "seconds":
        return [table(names, shown, narrow=True)]
    at = names.index("seconds")
    parts = [(name, cells[:at]) for name, cells in shown], [(name, cells[at:]) for name, cells in shown[1:]]
    return [table(names[:at], parts[0], narrow=True), table(names[at:], parts[1], narrow=True)]


def said(comparison: Comparison, args: Any) -> Iterator[str | Text]:
    """The lines below the table."""
    for result in comparison.results:
        if result.error:
            yield Text(f"{result.method}: {result.error}", style="red")
    yield from notes(comparison, args)
    if len(comparison.results) > 1:
        yield f"best: {comparison.best.method} ({comparison.rule})"


def report(comparison: Comparison, summary: dict[str, Any], forget: list[Row], args: Any) -> str:
    done = [r for r in comparison.results if not r.error]
    scores = {"before": comparison.before_forget, **{r.method: r.forget for r in done}}
    figures = {
        "probability of the answers to forget": distribution(
            "probability", {name: s.probability for name, s in scores.items()}
        )
    }
    if comparison.before_retain is not None:
        figures = {"forgotten and kept": trade_off({r.method: (r.forgotten, r.kept) for r in done}), **figures}
    best = comparison.best
    lead = (
        f"{best.method}: the probability of the answers to forget went from "
        f"{number(summary['before']['forget']['probability'])} to {number(measures(best.forget)['probability'])}."
    )
    if best.reached and not math.isnan(best.kept):  # how much was forgotten was asked for
        lead = f"{best.method}: where {args.until:g} is forgotten, {number(best.kept)} of the rest is kept."
    return page(
        title=f"forgetting in {summary['model']}",
        lead=lead,
        table=lines(comparison),
        columns=columns(comparison),
        figures=figures,
        rows=answers(subsample(forget, args.max_rows, args.seed), scores),
        notes=[
            f"Best by: {comparison.rule}.",
            *(f"{MEASURES[name]}." for name in FORGOTTEN_BY),
            *summary["notes"],
            *(ledger(r) for r in comparison.results if r.trials),
            *(f"{r.method}: {r.error}" for r in comparison.results if r.error),
        ],
        settings={**summary["settings"], **{name: method["fields"] for name, method in summary["methods"].items()}},
    )
