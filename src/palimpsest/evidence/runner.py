"""Run every arm on every seed: worker processes on this machine, or a Ray cluster, one thread a job.

One (arm, seed) is one job. Its numbers depend on neither the worker nor what ran there before: one thread, and the
global random generators seeded with the job's seed. A job that raises becomes a job with a traceback; a worker that
dies (out of memory, a crash in native code) takes no other job with it.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
import traceback
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.backend.reduction import dumps
from joblib.externals.loky.process_executor import BrokenProcessPool
from threadpoolctl import threadpool_limits
from transformers.utils import logging

from palimpsest.errors import MissingExtra, UserError
from palimpsest.evidence.claim import Arm
from palimpsest.evidence.store import Job, now
from palimpsest.train import randomness

_LIBRARIES = ("accelerate", "numpy", "palimpsest", "scikit-learn", "scipy", "torch", "transformers")


def run_job(run: Arm, job: Job) -> Job:
    """Run one arm on one seed in this process, on one thread, and fill in what came of it."""
    started = time.perf_counter()
    _forget_peak()
    with alone(job.seed):
        try:
            job = replace(job, metrics=run(job.seed, job.budget))
        except (Exception, SystemExit):
            job = replace(job, error=traceback.format_exc())
    return replace(
        job,
        seconds=time.perf_counter() - started,
        peak_bytes=_peak_bytes(),
        versions=versions(),
        machine=platform.node(),
        time=now(),
    )


def run_jobs(
    arms: Mapping[str, Arm], jobs: Sequence[Job], *, workers: int | None = None, ray: bool | str = False
) -> Generator[Job]:
    """Yield every job as soon as it is finished, in any order. Closing the generator ends the jobs under way.

    Args:
        arms: the functions by name.
        jobs: what to run, in the order in which they should start.
        workers: processes; by default one for every processor. 1 runs in this process.
        ray: run on a Ray cluster: True for that of RAY_ADDRESS or one started on this machine, or an address.

    Raises:
        MissingExtra: for `ray` where it is not installed.
        UserError: for an arm that cannot be sent to another process, a Ray cluster that cannot be reached.
    """
    if ray or workers != 1:
        for name in {job.arm for job in jobs}:
            try:
                dumps(arms[name])
            except Exception as error:
                raise UserError(f"arm {name!r} cannot be sent to a worker process: {error}") from None
    return _on_ray(arms, jobs, workers, ray) if ray and jobs else _here(arms, jobs, workers)


def _here(arms: Mapping[str, Arm], jobs: Sequence[Job], workers: int | None) -> Generator[Job]:
    """After a worker has died, the jobs without a result are run one by one until the culprit is found."""
    left, together = list(jobs), True
    while left:
        batch = left if together else left[:1]
        # With 1, joblib would run a job in this process; and loky starts as many processes as it may, jobs or none.
        count = min(workers or -1, max(2, len(batch))) if together else 2
        with parallel_config(backend="loky", inner_max_num_threads=1):
            pool = Parallel(n_jobs=count, batch_size=1, pre_dispatch="n_jobs", return_as="generator_unordered")
        try:
            finished = pool(delayed(run_job)(arms[job.arm], job) for job in batch)
            try:
                for job in finished:
                    left = [other for other in left if (other.arm, other.seed) != (job.arm, job.seed)]
                    yield job
            finally:
                with warnings.catch_warnings(action="ignore"):  # that jobs under way are cancelled, which is asked
                    finished.close()
        except BrokenProcessPool as error:
            if not together:
                yield _died(left.pop(0), error)
            together = not together


def _on_ray(arms: Mapping[str, Arm], jobs: Sequence[Job], workers: int | None, address: bool | str) -> Generator[Job]:
    """A task of one processor for every job. Ray starts a task again once where its worker or its machine is lost."""
    ray = _joined(address)
    task = ray.remote(num_cpus=1, max_retries=1)(run_job)
    waiting, running = list(jobs), {}
    try:
        while waiting or running:
            while waiting and len(running) < (workers or len(jobs)):
                job = waiting.pop(0)
                running[task.remote(arms[job.arm], job)] = job
            (reference,), _ = ray.wait(list(running))
            job = running.pop(reference)
            try:
                job = ray.get(reference)
            except ray.exceptions.RayError as error:
                job = _died(job, error)
            yield job
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _joined(address: bool | str) -> Any:
    """The ray module, connected to the cluster of an address, or to one of this machine's own that is started here."""
    where = address if isinstance(address, str) else os.environ.get("RAY_ADDRESS", "local")
    if where == "local":  # read when ray is imported: it then listens on the loopback interface only
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        import ray
    except ImportError:
        raise MissingExtra("ray", "ray") from None
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves the machine unasked
        try:
            ray.init(where, include_dashboard=False, log_to_driver=False, logging_level="warning")
        except (ConnectionError, ValueError) as error:
            raise UserError(f"cannot use the Ray cluster {where}: {error}") from None
    return ray


def _died(job: Job, error: Exception) -> Job:
    return replace(job, error=f"the worker process died: {' '.join(str(error).split())}", time=now())


_USE_CPU = "ACCELERATE_USE_CPU"  # where `fit` trains


@contextmanager
def alone(seed: int) -> Iterator[None]:
    """One thread and no GPU, so that numbers do not depend on what a machine has, nor workers fight for it; the global
    random generators seeded, for an arm that draws from them; all as it was afterwards."""
    logging.disable_progress_bar()  # of transformers' loading and saving: the run has a bar of its own
    before, device = torch.get_num_threads(), os.environ.get(_USE_CPU)
    torch.set_num_threads(1)
    os.environ[_USE_CPU] = "true"
    try:
        with threadpool_limits(1), randomness.preserved():
            randomness.seed_all(seed)
            yield
    finally:
        torch.set_num_threads(before)
        if device is None:
            del os.environ[_USE_CPU]
        else:
            os.environ[_USE_CPU] = device


def _forget_peak() -> None:
    """Linux keeps a process's highest resident memory; writing 5 there starts it anew, so that a job has its own."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass


def _peak_bytes() -> int:
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@cache
def versions() -> dict[str, str]:
    """Versions of Python, the platform and the libraries that results may depend on."""
    found = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    for library in _LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
