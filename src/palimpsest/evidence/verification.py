"""Does the code of today give the numbers on record? One seed of every arm runs again, and every value is compared."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from joblib.externals.loky import get_reusable_executor

from palimpsest.errors import UserError
from palimpsest.evidence.claim import Claim
from palimpsest.evidence.outcome import last_line, watched
from palimpsest.evidence.registration import arm_modules, code_of
from palimpsest.evidence.runner import run_jobs
from palimpsest.evidence.store import Job, now
from palimpsest.paths import home
from palimpsest.record_files import numbers

RELATIVE, ABSOLUTE = 1e-6, 1e-12
"""two values are the same where they differ by at most this: a record holds seven significant digits"""
CLOCK = re.compile(r"\b(seconds?|CPU time)\b")
"""a metric named so is a clock's reading, which no second run gives again"""


@dataclass(frozen=True)
class Difference:
    """A value of the record and what came out now: nothing where the arm failed or reports other metrics."""

    arm: str
    metric: str
    recorded: float
    again: float | None
    spread: float = 0.0
    """the standard deviation of the recorded values over the seeds: training multiplies a rounding until it is as large
    as another seed would be, so that a difference of this size need not be another result"""

    @property
    def relative(self) -> float:
        """The difference as a share of the larger value; infinite where there is none, or one that is not finite."""
        if self.again is None:
            return math.inf
        gap, size = abs(self.recorded - self.again), max(abs(self.recorded), abs(self.again))
        return gap / size if math.isfinite(gap) and size else math.inf

    @property
    def spreads(self) -> float:
        """The difference in standard deviations of the seeds; infinite where it has none."""
        gap = math.inf if self.again is None else abs(self.recorded - self.again)
        return gap / self.spread if self.spread > 0 else math.inf

    @property
    def same(self) -> bool:
        """Whether there is no difference, within what a record keeps of a number."""
        if self.again is None:
            return False
        alike = math.isclose(self.recorded, self.again, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
        return alike or (math.isnan(self.recorded) and math.isnan(self.again))


@dataclass(frozen=True)
class Rerun:
    """What one seed of every arm gave beside what is on record."""

    paper: str
    code: str
    """the digest of the code that was run"""
    seed: int
    time: str
    compared: int
    """how many values were compared; a clock's readings are not"""
    differences: tuple[Difference, ...]
    """the largest first"""
    failures: tuple[str, ...]
    """arms that failed, each with its error"""
    modules: tuple[str, ...] = ()
    """those whose code was run, where a record names them: rooms may have been divided since it was made"""

    def mark(self) -> dict[str, Any]:
        """What the record keeps of it; `spreads` is of the farthest difference, none where that is infinite."""
        farthest = max((each.spreads for each in self.differences), default=0.0)
        return {
            "code": self.code,
            "seed": self.seed,
            "time": self.time,
            "values": self.compared,
            "differ": len(self.differences),
            "spreads": round(farthest, 2) if math.isfinite(farthest) else None,
            **({"modules": list(self.modules)} if self.modules else {}),
        }


def verify(claim: Claim, record: Mapping[str, Any], *, workers: int | None = None, progress: bool = True) -> Rerun:
    """Run the first seed of every arm of a claim again, and compare its values with those on record.

    Nothing is taken from the store and nothing is put into it; the worlds, and whatever else arms keep on disk, are
    made anew.

    Args:
        claim: the claim as it is now.
        record: its results of record.
        workers: processes; by default one for every processor, 1 runs in this process.
        progress: show a live bar on stderr.

    Raises:
        UserError: the rows of the claim's world are others here, so that there is nothing to compare.
    """
    if claim.other_world:
        raise UserError(claim.other_world)
    seed, code = record["seeds"][0], code_of(claim)
    jobs = [Job(claim.paper, record["registration"]["digest"], code, "full", arm, seed) for arm in claim.arms]
    again: dict[str, Job] = {}
    with made_anew(), closing(run_jobs(claim.arms, jobs, workers=workers)) as finished:
        for job in watched(finished, claim.paper, len(jobs), len(jobs), progress):
            again[job.arm] = job
    compared = []
    for arm, row in numbers(record).items():
        found = again[arm].metrics if arm in again else {}
        for metric, by_seed in row.items():
            if seed in by_seed and not CLOCK.search(metric):
                spread = float(np.std(list(by_seed.values()), ddof=1)) if len(by_seed) > 1 else 0.0
                compared.append(Difference(arm, metric, by_seed[seed], found.get(metric), spread))
    return Rerun(
        claim.paper,
        code,
        seed,
        now(),
        len(compared),
        tuple(sorted((d for d in compared if not d.same), key=lambda d: -d.relative)),
        tuple(f"{job.arm}: {last_line(job.error)}" for job in again.values() if job.error),
        tuple(arm_modules(claim)),
    )


_MADE_ANEW: ContextVar[bool] = ContextVar("made anew", default=False)


@contextmanager
def made_anew() -> Iterator[None]:
    """A home in which nothing is found that earlier code has made; taken away afterwards.

    Claims that are verified within one such block share the worlds that they make.
    """
    if _MADE_ANEW.get():
        yield
        return
    kept = os.environ.get("PALIMPSEST_HOME")
    home().mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=home(), prefix="verify-") as folder:
        os.environ["PALIMPSEST_HOME"] = folder
        inside = _MADE_ANEW.set(True)
        get_reusable_executor().shutdown()  # workers that wait for jobs would keep to the home they were started with
        try:
            yield
        finally:
            get_reusable_executor().shutdown()
            _MADE_ANEW.reset(inside)
            os.environ.pop("PALIMPSEST_HOME")
            os.environ.update({} if kept is None else {"PALIMPSEST_HOME": kept})
