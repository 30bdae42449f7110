"""Outcomes made from numbers, without running anything."""

from dataclasses import replace

import pytest

from palimpsest.evidence import Job, Outcome, judge
from palimpsest.evidence.registration import preregister

TRACEBACK = 'Traceback (most recent call last):\n  File "/home/someone/arm.py", line 3, in arm\n'


@pytest.fixture
def make_outcome():
    """`make_outcome(claim, {arm: {metric: [value or curve per seed]}})`; where a row is a string the arm failed so."""

    def made(claim, table, *, seeds=None, standing="of record", budget="full", **fields):
        seeds = tuple(claim.seeds if seeds is None else seeds)
        jobs = []
        for arm in claim.arms:
            for i, seed in enumerate(seeds):
                row = table[arm]
                failed = {"error": f"{TRACEBACK}{row}\n"} if isinstance(row, str) else {}
                metrics = {} if failed else {metric: column[i] for metric, column in row.items()}
                job = Job(
                    claim.paper,
                    "digest",
                    "code",
                    budget,
                    arm,
                    seed,
                    metrics,
                    seconds=1.5,
                    peak_bytes=3 * 2**20,
                    versions={"torch": "2.13.0"},
                    machine="a-machine-name",
                    time="2026-01-02T03:04:05+00:00",
                    **failed,
                )
                jobs.append(job)
        blank = Outcome(claim, preregister(claim), standing, seeds, tuple(jobs), (), **fields)
        return replace(blank, verdicts=judge(claim, blank.values, seeds))

    return made
