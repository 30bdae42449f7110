"""Run a claim and judge it: `run_claim` and the `Outcome` it returns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from palimpsest.audit.hark import TUNING_SEEDS, Prereg, TamperedLedger, canonical_json, digest
from palimpsest.audit.verdict_words import WORDS
from palimpsest.errors import UserError
from palimpsest.evidence.claim import Budget, Claim, Curve, load_claim
from palimpsest.evidence.decision import LOOKS
from palimpsest.evidence.looks import judge, next_look
from palimpsest.evidence.registration import Standing, code_of, enter, history, keep_verdict, preregister
from palimpsest.evidence.runner import alone, run_jobs
from palimpsest.evidence.store import Job, Store
from palimpsest.evidence.verdict import Cell, Verdict, cell, omnibus
from palimpsest.locks import held

MOST_SEEDS = 1000
"""of a run: each is a run of every arm"""


@dataclass(frozen=True)
class Outcome:
    """What came of a claim: its jobs, its verdicts and what they count as."""

    claim: Claim
    prereg: Prereg
    standing: Standing
    """of record, preliminary, exploratory, pilot or smoke: see `STANDINGS`"""
    seeds: tuple[int, ...]
    jobs: tuple[Job, ...]
    """in the order of the claim's arms and the seeds"""
    verdicts: tuple[Verdict, ...]
    """in the order of the claim's expectations"""
    history: tuple[Mapping[str, Any], ...] = ()
    """registrations, amendments and verdicts of the paper, oldest first"""
    chain: str = ""
    """the hash of the ledger's last row when this was judged; empty where nothing was kept"""

    @cached_property
    def values(self) -> dict[str, dict[str, dict[int, float]]]:
        """arm -> metric -> seed -> value; every arm is there, also one whose jobs all failed."""
        found: dict[str, dict[str, dict[int, float]]] = {arm: {} for arm in self.claim.arms}
        for job in self.jobs:
            for metric, value in job.metrics.items():
                if isinstance(value, float):
                    found[job.arm].setdefault(metric, {})[job.seed] = value
        return found

    @cached_property
    def curves(self) -> dict[str, dict[str, dict[int, Curve]]]:
        """metric -> arm -> seed -> [(x, y), ...]"""
        found: dict[str, dict[str, dict[int, Curve]]] = {}
        for job in self.jobs:
            for metric, value in job.metrics.items():
                if isinstance(value, list):
                    found.setdefault(metric, {}).setdefault(job.arm, {})[job.seed] = value
        return found

    @cached_property
    def table(self) -> dict[str, dict[str, Cell]]:
        """arm -> metric -> values, mean and 95% interval"""
        return {arm: {metric: cell(v) for metric, v in row.items()} for arm, row in self.values.items()}

    @cached_property
    def metrics(self) -> list[str]:
        """Every metric: the primary one, those of the other expectations, then the exploratory ones as reported."""
        expected = [self.claim.primary.on, *(expectation.on for expectation in self.claim.expects)]
        return list(dict.fromkeys([*expected, *(metric for row in self.values.values() for metric in row)]))

    @property
    def exploratory(self) -> list[str]:
        """The metrics that no expectation is about."""
        expected = {expectation.on for expectation in self.claim.expects}
        return [metric for metric in self.metrics if metric not in expected]

    @property
    def failures(self) -> list[Job]:
        return [job for job in self.jobs if job.error is not None]

    @property
    def counts(self) -> dict[str, int]:
        """How many expectations (not preconditions) got each of the four words; all four are always named."""
        words = [verdict.word for verdict in self.verdicts if not verdict.expectation.precondition]
        return {word: words.count(word) for word in WORDS}

    @property
    def budget(self) -> str:
        return self.jobs[0].budget

    @property
    def digest(self) -> str:
        return digest(self.prereg)

    @property
    def seconds(self) -> float:
        """Processor time of all jobs, in seconds, as far as one thread each is that."""
        return sum(job.seconds for job in self.jobs)

    @property
    def environment(self) -> dict[str, str]:
        """Versions of Python, platform and libraries; several where jobs ran on different ones."""
        found: dict[str, set[str]] = {}
        for job in self.jobs:
            for name, version in job.versions.items():
                found.setdefault(name, set()).add(version)
        return {name: ", ".join(sorted(versions)) for name, versions in sorted(found.items())}

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON data, without machine names or paths; non-finite numbers are strings."""
        shown = {
            "schema": 1,
            "paper": self.claim.paper,
            "family": self.claim.family,
            "question": self.claim.question,
            "notes": self.claim.notes,
            "settings": self.prereg.plan["settings"],
            "standing": self.standing,
            "seeds": self.seeds,
            "budget": self.budget,
            "registration": {"digest": self.digest, "code": self.jobs[0].code, **asdict(self.prereg)},
            "counts": self.counts,
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
            "arms": {arm: {name: asdict(c) for name, c in row.items()} for arm, row in self.table.items()},
            "curves": self.curves,
            "exploratory": self.exploratory,
            "friedman": {metric: omnibus(self.values, metric) for metric in self.metrics},
            "failures": [{"arm": j.arm, "seed": j.seed, "error": last_line(j.error or "")} for j in self.failures],
            "history": self.history,
            "environment": self.environment,
            "seconds": self.seconds,
            "peak bytes": max(job.peak_bytes for job in self.jobs),
            "time": max(job.time for job in self.jobs),
        }
        return json.loads(canonical_json(shown))


def run_claim(
    claim: Claim | str,
    *,
    seeds: int | Sequence[int] | None = None,
    workers: int | None = None,
    ray: bool | str = False,
    budget: Budget = "full",
    store: Store | Path | str | None = None,
    progress: bool = True,
    amend: str = "",
    fresh: bool = False,
) -> Outcome:
    """Run what is missing of a claim, keep every job as it finishes, and judge the whole.

    Args:
        claim: a claim, or the name of a paper.
        seeds: how many of the verdict's seeds, or which; by default the claim's own, of a claim on a bench as many as
            its looks ask for: 5, then 10, then 20, until its central sentence is decided. Seeds under 100 make a pilot.
        workers: processes; by default one for every processor, 1 runs in this process.
        ray: run on a Ray cluster: True, or its address.
        budget: "smoke" runs every arm for a few steps on one seed in this process, stores nothing and lets errors out.
        store: where results are kept, `home()/evidence.sqlite` by default.
        progress: show a live bar on stderr.
        amend: the reason why the claim differs from the one that is registered.
        fresh: run everything again, also jobs that are stored already.

    Raises:
        UserError: for an unknown paper, seeds that mix pilots and verdict, an amendment that changes nothing, a store
            that was changed from outside, a claim that another process runs with the same store.
        KeyboardInterrupt: as it comes; finished jobs are kept and the next run goes on from there.
    """
    claim = load_claim(claim) if isinstance(claim, str) else claim
    if budget not in ("full", "smoke"):
        raise ValueError(f"budget must be full or smoke, got {budget!r}")
    if workers is not None and workers < 1:
        raise UserError(f"workers must be at least 1, got {workers}")
    if budget == "smoke":
        return _smoke(claim, 0 if seeds is None or isinstance(seeds, int) else _chosen(claim, seeds)[0])
    chosen = _chosen(claim, seeds)
    with (
        nullcontext(store) if isinstance(store, Store) else Store(store) as kept,
        # Two at once would run every job twice, and the second is not told what the first has done already.
        held(kept.path / claim.paper, f"runs the claim {claim.paper} with {kept.path}"),
    ):
        _check(kept)
        outcome = _run(claim, chosen, kept, workers, ray, progress, amend, fresh)
        while seeds is None and claim.sequential and (more := next_look(outcome.verdicts, len(chosen))):
            chosen = claim.seeds[:more]
            outcome = _run(claim, chosen, kept, workers, ray, progress, "", False)
        return outcome


def _run(
    claim: Claim,
    seeds: tuple[int, ...],
    store: Store,
    workers: int | None,
    ray: bool | str,
    progress: bool,
    reason: str,
    fresh: bool,
) -> Outcome:
    for arm in claim.arms.values():
        getattr(arm, "point", dict)()  # one that is not tuned says so before anything runs or is registered
    prereg, standing = enter(store, claim, seeds, reason)
    own = (claim.paper, digest(prereg), code_of(claim))
    places = {name: getattr(arm, "stored", (*own, name)) for name, arm in claim.arms.items()}
    if apart := claim.kept_apart:
        places = {name: (f"{paper}, rows {apart}", *key) for name, (paper, *key) in places.items()}
    kept = {}
    for name, (*key, title) in places.items():
        for (arm, seed), job in ({} if fresh else store.jobs(*key, "full")).items():
            if arm == title and job.error is None:
                kept[name, seed] = replace(job, paper=own[0], digest=own[1], code=own[2], arm=name)
    # The first arm of every seed, then seed by seed: what the arms of a seed share (its worlds) is prepared by the
    # first of them, and no worker waits for another's while there are seeds that are ready.
    pairs = [(arm, seed) for arm in claim.arms for seed in seeds]
    first = next(iter(claim.arms))
    order = sorted(pairs, key=lambda pair: (pair[0] != first, pair[1] if pair[0] != first else 0))
    todo = [Job(*own, "full", arm, seed) for arm, seed in order if (arm, seed) not in kept]
    # Closed at once where a key is pressed or the store fails: else the exit of Python waits for the jobs under way.
    with closing(run_jobs(claim.arms, todo, workers=workers, ray=ray)) as finished:
        for job in watched(finished, claim.paper, len(pairs), len(todo), progress):
            paper, promised, code, title = places[job.arm]
            store.add(replace(job, paper=paper, digest=promised, code=code, arm=title))
            kept[job.arm, job.seed] = job
    jobs = tuple(kept[pair] for pair in pairs)
    outcome = Outcome(claim, prereg, standing, seeds, jobs, ())
    outcome = replace(outcome, verdicts=judge(claim, outcome.values, seeds))
    if standing != "pilot":
        keep_verdict(store, claim.paper, _for_history(outcome))
    return replace(outcome, history=tuple(history(store, claim.paper)), chain=store.head())


def _check(store: Store) -> None:
    try:
        store.verify_chain()
    except TamperedLedger as error:
        raise UserError(
            f"{store.path} was changed from outside: {error}; put a copy of it in its place, or move it away"
        ) from None


def _smoke(claim: Claim, seed: int) -> Outcome:
    """Every arm for a few steps; an error or a metric that an expectation lacks is raised."""
    prereg = preregister(claim)
    jobs = []
    for arm, run in claim.arms.items():
        with alone(seed):
            jobs.append(Job(claim.paper, digest(prereg), "", "smoke", arm, seed, run(seed, "smoke")))
    outcome = Outcome(claim, prereg, "smoke", (seed,), tuple(jobs), ())
    for expectation in claim.expects:
        for arm in expectation.arms:
            if expectation.on not in outcome.values[arm]:
                reported = ", ".join(outcome.values[arm]) or "nothing"
                raise ValueError(f"claim {claim.paper}: {expectation}: {arm!r} has no such metric, only {reported}")
    return replace(outcome, verdicts=judge(claim, outcome.values, (seed,)))


def _chosen(claim: Claim, seeds: int | Sequence[int] | None) -> tuple[int, ...]:
    if seeds is None:
        return claim.seeds[: min(LOOKS)] if claim.sequential else tuple(claim.seeds)
    if isinstance(seeds, int):
        if not 1 <= seeds <= MOST_SEEDS:
            raise UserError(f"seeds must be at least 1 and at most {MOST_SEEDS}, got {seeds}")
        beyond = range(max(claim.seeds) + 1, max(claim.seeds) + 1 + max(0, seeds - len(claim.seeds)))
        return (*claim.seeds[:seeds], *beyond)
    chosen = tuple(int(seed) for seed in seeds)
    if not chosen or len(set(chosen)) != len(chosen) or min(chosen) < 0:
        raise UserError(f"seeds must be distinct and not negative, got {list(chosen)}")
    pilots = [seed for seed in chosen if seed in TUNING_SEEDS]
    if pilots and len(pilots) < len(chosen):
        raise UserError(f"seeds under 100 are for pilots and cannot be mixed with a verdict's: {list(chosen)}")
    return chosen


def watched(finished: Iterable[Job], paper: str, total: int, todo: int, progress: bool) -> Iterator[Job]:
    """Pass jobs on, with a bar on stderr and a line for each."""
    if not progress or not todo:
        yield from finished
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    columns += (TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(paper, total=total, completed=total - todo)
        if todo < total:
            bar.console.print(f"{total - todo} of {total} jobs are stored already", style="dim", highlight=False)
        for job in finished:
            yield job
            fate = f"failed: {last_line(job.error)}" if job.error else f"{job.seconds:.1f} s"
            bar.console.print(f"{job.arm} · seed {job.seed} · {fate}", markup=False, highlight=False)
            bar.advance(task)


def _for_history(outcome: Outcome) -> dict[str, Any]:
    kept = ("expectation", "word", "estimate", "interval", "n", "p", "adjusted")
    return {
        "digest": outcome.digest,
        "code": outcome.jobs[0].code,
        "standing": outcome.standing,
        "seeds": outcome.seeds,
        "verdicts": [{name: shown[name] for name in kept} for shown in map(Verdict.to_dict, outcome.verdicts)],
    }


def last_line(error: str) -> str:
    """What went wrong, without the folders of this machine."""
    lines = [line for line in error.strip().splitlines() if line.strip()]
    return re.sub(r"(?:[A-Za-z]:)?[/\\][^\s'\":]*[/\\]", "", lines[-1].strip()) if lines else ""
