"""The same call on a Ray cluster: one on this machine."""

import os
import subprocess
import sys
from collections import Counter

import pytest

from palimpsest.evidence import Claim, Job, Store, expect, run_claim
from palimpsest.evidence.runner import run_jobs

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow  # its workers are processes


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patched.setenv("RAY_AUTH_MODE", "disabled")
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
        yield
        ray.shutdown()


def arm(calls, failing):
    def run(seed, budget):
        import random

        import torch

        with open(calls, "a") as file:
            file.write(f"{failing}-{seed}-{os.getpid()}\n")
        if failing and seed == 101:
            raise ArithmeticError(f"went wrong on {seed}")
        return {
            "m": float(torch.rand(1)) + random.random(),
            "by step": [(step, float(seed)) for step in range(3)],
            "threads": torch.get_num_threads(),
            "on ray": float(ray.is_initialized()),
        }

    return run


def test_a_cluster_that_is_started_here_listens_to_this_machine_alone():
    show = "print([node['NodeManagerAddress'] for node in _joined(True).nodes()])"
    program = f"from palimpsest.evidence.runner import _joined; {show}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("['127.0.0.1']", "['::1']")


def test_the_same_call_on_ray(tmp_path):
    calls = tmp_path / "calls"
    claim = Claim(
        "zz",
        "Is it so?",
        {"a": arm(calls, failing=False), "b": arm(calls, failing=True)},
        [expect("a").at_least(0, on="m")],
    )
    path = tmp_path / "evidence.sqlite"
    outcome = run_claim(claim, store=path, ray=True, progress=False)
    assert [(job.arm, job.seed) for job in outcome.failures] == [("b", 101)]
    error = outcome.failures[0].error
    assert error.startswith("Traceback (most recent call last)")
    assert error.endswith("ArithmeticError: went wrong on 101\n")
    lines = [line.rsplit("-", 1) for line in calls.read_text().split()]
    assert set(Counter(job for job, _ in lines).values()) == {1}
    assert str(os.getpid()) not in {pid for _, pid in lines}, "not in this process"
    assert outcome.values["a"]["threads"] == dict.fromkeys(claim.seeds, 1.0)
    assert all(job.peak_bytes > 0 and job.versions and job.time for job in outcome.jobs)
    with Store(path) as store:
        store.verify_chain()
        assert len(store.jobs("zz", outcome.digest, outcome.jobs[0].code, "full")) == 10

    run_claim(claim, store=path, ray=True, progress=False)
    again = [line.rsplit("-", 1)[0] for line in calls.read_text().split()][10:]
    assert again == ["True-101"], "what is stored is not run again on a cluster either"

    alone = run_claim(claim, store=tmp_path / "alone.sqlite", workers=1, progress=False)
    assert alone.values["a"]["m"] == outcome.values["a"]["m"]
    assert alone.curves == outcome.curves
    assert [(v.word, v.interval) for v in alone.verdicts] == [(v.word, v.interval) for v in outcome.verdicts]


def test_a_lost_worker_takes_no_other_job_with_it(tmp_path):
    tries = tmp_path / "tries"

    def fatal(seed, budget):
        if seed == 100:
            with open(tries, "a") as file:
                file.write("x")
            os._exit(3)
        return {"m": float(seed)}

    jobs = [Job("zz", "d", "c", "full", "a", seed) for seed in (100, 101)]
    lost, found = run_jobs({"a": fatal}, jobs, ray=True, workers=1)
    assert (lost.seed, found.seed) == (100, 101), "one at a time with one worker"
    assert lost.error.startswith("the worker process died: ")
    assert found.metrics == {"m": 101.0}
    assert tries.read_text() == "xx", "a machine may have gone: it was tried a second time"
