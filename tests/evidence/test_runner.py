"""Runs: resumed after a kill, spared by failures, equal on any number of workers."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from importlib.metadata import version

import psutil
import pytest
import torch

from palimpsest.errors import MissingExtra, UserError
from palimpsest.evidence import Claim, Store, expect, outcome, run_claim, runner
from palimpsest.evidence.runner import run_jobs
from palimpsest.evidence.store import Job

SEEDS = (100, 101, 102, 103, 104)


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "evidence.sqlite") as opened:
        yield opened


@pytest.fixture
def calls(tmp_path):
    """A file in which arms note that they ran, and what it says."""
    file = tmp_path / "calls"
    file.touch()

    class Calls:
        path = str(file)

        def __call__(self):
            return Counter(file.read_text().split())

    return Calls()


def make(arms, **fields):
    first = next(iter(arms))
    return Claim("zz", "Is it so?", arms, [expect(first).at_least(0, on="m")], **fields)


def counted(path, name="a"):
    def arm(seed, budget):
        with open(path, "a") as file:
            file.write(f"{name}-{seed}\n")
        return {"m": float(seed)}

    return arm


def run(claim, store, **options):
    return run_claim(claim, **{"store": store, "workers": 1, "progress": False, **options})


def values(found):
    return {(job.arm, job.seed): job.metrics for job in found.jobs}


# --- a run that is killed -------------------------------------------------------------------------------------------

KILLED = """
import os
import signal
import sys
import time

import torch

from palimpsest.evidence import Claim, expect, run_claim


def arm(name):
    def run(seed, budget):
        if os.environ.get("ZZ_STUCK") == f"{name}-{seed}":
            open(os.environ["ZZ_CALLS"] + ".stuck", "w").close()
            time.sleep(600)
        with open(os.environ["ZZ_CALLS"], "a") as file:
            file.write(f"{name}-{seed}\\n")
        drawn = torch.rand(3).tolist()
        return {"m": sum(drawn) + (name == "b"), "by step": list(enumerate(drawn))}

    return run


claim = Claim("zz", "Is it so?", {"a": arm("a"), "b": arm("b")}, [expect("b").above("a", on="m", by=0.5)])
if __name__ == "__main__":
    import zz_killed

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background leaves it ignored
    run_claim(zz_killed.claim, store=sys.argv[1], workers=2)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_after_a_kill_only_the_missing_jobs_run_and_the_result_is_the_same(tmp_path, monkeypatch, calls, kill):
    script, path = tmp_path / "zz_killed.py", tmp_path / "evidence.sqlite"
    script.write_text(KILLED)
    monkeypatch.setenv("ZZ_CALLS", calls.path)
    monkeypatch.syspath_prepend(tmp_path)
    process = subprocess.Popen(
        [sys.executable, script, path],
        env={**os.environ, "ZZ_STUCK": "b-102", "PYTHONPATH": str(tmp_path)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        with Store(path) as store:
            until = time.monotonic() + 240
            while sum(body["kind"] == "job" for body in store.ledger()) < 9:
                assert process.poll() is None, process.stderr.read().decode()
                assert time.monotonic() < until
                time.sleep(0.02)
        process.send_signal(kill)
        process.wait(timeout=60)
        assert process.returncode not in (0, 2)
    finally:
        with suppress(ProcessLookupError):  # the worker with the stuck job, where the kill left it an orphan
            os.killpg(process.pid, signal.SIGKILL)
        process.stderr.close()
    all_jobs = {f"{name}-{seed}" for name in "ab" for seed in SEEDS}
    assert calls() == Counter(all_jobs - {"b-102"})
    assert os.path.exists(calls.path + ".stuck")

    claim = __import__("zz_killed").claim
    resumed = run(claim, path)
    assert calls() == Counter(all_jobs), "every job has run to its end once"
    undisturbed = run(claim, tmp_path / "other.sqlite")
    assert calls() == Counter(dict.fromkeys(all_jobs, 2))
    assert values(resumed) == values(undisturbed)
    assert resumed.verdicts == undisturbed.verdicts
    assert (resumed.standing, resumed.digest) == (undisturbed.standing, undisturbed.digest)
    assert resumed.jobs[0].code == undisturbed.jobs[0].code
    with Store(path) as store:
        store.verify_chain()
    del sys.modules["zz_killed"]


def test_an_interrupt_keeps_what_is_finished(store, calls):
    stop = {102}

    def arm(seed, budget):
        if seed in stop:
            raise KeyboardInterrupt
        return counted(calls.path)(seed, budget)

    claim = make({"a": arm})
    with pytest.raises(KeyboardInterrupt):
        run(claim, store)
    assert calls() == Counter(["a-100", "a-101"])
    stop.clear()
    assert values(run(claim, store)) == {("a", seed): {"m": float(seed)} for seed in SEEDS}
    assert calls() == Counter(f"a-{seed}" for seed in SEEDS)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError("disk full")])
@pytest.mark.slow
def test_what_stops_the_keeping_of_results_stops_the_jobs_under_way(store, calls, monkeypatch, stop):
    """Else Python's own exit waits for them, and a second press of the keys is needed."""

    def arm(seed, budget):
        if seed == 100:
            with open(calls.path, "a") as file:
                file.write(f"{os.getpid()}\n")
            time.sleep(600)
        while not calls():
            time.sleep(0.01)
        return {"m": 1.0}

    def add(job):
        raise stop

    monkeypatch.setattr(store, "add", add)
    with pytest.raises((KeyboardInterrupt, OSError)) as raised:  # its traceback keeps the frames, as at Python's exit
        run(make({"a": arm}), store, workers=2, progress=True)
    (worker,) = calls()
    until = time.monotonic() + 240
    while os.path.exists(f"/proc/{worker}/stat"):
        assert time.monotonic() < until, f"the worker goes on after {raised.value!r}"
        time.sleep(0.02)


# --- jobs that fail -------------------------------------------------------------------------------------------------


def test_a_job_that_raises_leaves_its_traceback_and_the_others_finish(store, calls):
    broken = [True]

    def arm(seed, budget):
        found = counted(calls.path)(seed, budget)
        if seed == 101 and broken:
            raise ArithmeticError(f"went wrong on {seed}")
        if seed == 103 and broken:
            sys.exit("gave up")
        return found if seed != 104 or not broken else "no dict"

    claim = make({"a": arm, "b": counted(calls.path, "b")})
    first = run(claim, store)
    assert [(job.arm, job.seed) for job in first.failures] == [("a", 101), ("a", 103), ("a", 104)]
    with Store(store.path) as again:
        kept = again.jobs("zz", first.digest, first.jobs[0].code, "full")
    error = kept["a", 101].error
    assert error.startswith("Traceback (most recent call last)")
    assert error.endswith("ArithmeticError: went wrong on 101\n")
    assert f'{__file__}", line' in error, "with the line that raised"
    assert "SystemExit: gave up" in kept["a", 103].error
    assert "TypeError: an arm returns a dict of metrics, got 'no dict'" in kept["a", 104].error
    assert {pair for pair, job in kept.items() if job.error is None} == set(kept) - {("a", s) for s in (101, 103, 104)}
    (verdict,) = first.verdicts
    assert (verdict.word, verdict.note) == ("open", "no result on seeds 101, 103, 104")

    broken.clear()
    second = run(claim, store)
    assert not second.failures
    assert calls() - Counter([f"{name}-{seed}" for name in "ab" for seed in SEEDS]) == Counter(
        ["a-101", "a-103", "a-104"]
    ), "only what had failed was tried again"


# --- workers --------------------------------------------------------------------------------------------------------


def draw(seed, budget):
    """Whatever an arm may draw from, seeded by itself or not; and the threads it has."""
    import random

    import numpy as np
    import threadpoolctl

    weights = torch.nn.Linear(50, 50).weight.detach()
    return {
        "m": float((weights @ torch.rand(50, 50)).sum()),
        "numpy": np.random.rand(),  # noqa: NPY002 - what other people's code draws from
        "python": random.random(),
        "torch threads": torch.get_num_threads(),
        "pool threads": max([pool["num_threads"] for pool in threadpoolctl.threadpool_info()], default=1),
    }


@pytest.mark.parametrize("asked", [None, "false"])
def test_arms_train_on_the_processor_and_leave_the_choice_as_it_was(tmp_path, monkeypatch, asked):
    name = "ACCELERATE_USE_CPU"
    monkeypatch.delenv(name, raising=False) if asked is None else monkeypatch.setenv(name, asked)

    def where(seed, budget):
        from accelerate import Accelerator

        return {"m": float(os.environ[name] == "true"), "cpu": float(Accelerator().device.type == "cpu")}

    outcome = run(make({"a": where}), tmp_path / "1.sqlite")
    assert all(job.metrics == {"m": 1.0, "cpu": 1.0} for job in outcome.jobs)
    assert os.environ.get(name) == asked


def test_one_worker_or_two_give_the_same_numbers_on_one_thread_each(tmp_path):
    arms = {"a": draw, "b": lambda seed, budget: draw(seed, budget)}
    claim = make(arms)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.manual_seed(1)
        before = torch.get_rng_state()
        alone = run(claim, tmp_path / "1.sqlite", workers=1)
        assert torch.get_num_threads() == 2, "the caller's threads are as they were"
        assert torch.equal(torch.get_rng_state(), before), "and so is the random generator"
    finally:
        torch.set_num_threads(threads)
    torch.rand(7)
    again = run(claim, tmp_path / "again.sqlite", workers=1, seeds=SEEDS[::-1])
    both = run(claim, tmp_path / "2.sqlite", workers=2)
    assert not alone.failures
    assert not both.failures
    assert values(alone) == values(both) == values(again)
    assert all(job.metrics["torch threads"] == job.metrics["pool threads"] == 1 for job in (*alone.jobs, *both.jobs))
    assert len({job.metrics["m"] for job in alone.jobs}) == 5, "seeds differ; arms with the same draws do not"


@pytest.mark.slow
def test_a_worker_that_dies_takes_no_other_job_with_it():
    def arm(seed, budget):
        if seed == 101:
            os._exit(3)
        time.sleep(0.5)  # under way when the other dies
        return {"m": float(seed)}

    jobs = [Job("zz", "d", "c", "full", "a", seed) for seed in (100, 101)]
    found = {job.seed: job for job in run_jobs({"a": arm}, jobs, workers=2)}
    assert found[100].error is None
    assert found[100].metrics == {"m": 100.0}
    assert found[101].error.startswith("the worker process died: ")
    assert len(found[101].error.splitlines()) == 1
    assert found[101].time


@pytest.mark.slow
def test_a_worker_that_is_killed_for_memory_leaves_what_is_stored_and_its_job_for_the_next_run(tmp_path):
    def arm(seed, budget):
        if seed == 104 and not (tmp_path / "memory").exists():
            time.sleep(1)  # until the others are stored
            os.kill(os.getpid(), signal.SIGKILL)
        with open(tmp_path / f"{seed}", "a") as file:
            file.write(".")
        return {"m": float(seed)}

    hungry = Claim("zz", "Is it so?", {"a": arm}, [expect("a").at_least(100, on="m")], module=__name__)
    given = {"store": tmp_path / "e.sqlite", "workers": 2, "progress": False}
    (failure,) = run_claim(hungry, **given).failures
    assert failure.seed == 104
    assert "SIGKILL" in failure.error
    assert len(failure.error.splitlines()) == 1
    (tmp_path / "memory").touch()
    again = run_claim(hungry, **given)
    assert not again.failures
    assert again.values["a"]["m"] == {seed: float(seed) for seed in range(100, 105)}
    assert (tmp_path / "100").read_text() == (tmp_path / "104").read_text() == "."


@pytest.mark.slow
def test_no_more_processes_are_started_than_there_are_jobs():
    def arm(seed, budget):
        children = psutil.Process(os.getppid()).children()
        return {"workers": sum("popen_loky" in " ".join(child.cmdline()) for child in children)}

    jobs = [Job("zz", "d", "c", "full", "a", seed) for seed in (100, 101)]
    found = list(run_jobs({"a": arm}, jobs, workers=40))
    assert all(job.metrics["workers"] <= 2 for job in found)


def test_seconds_peak_memory_and_surroundings_are_recorded(store):
    import numpy as np

    def arm(seed, budget):
        time.sleep(0.5 * (seed == 100))
        return {"m": float(np.ones(2**25 * (seed == 103)).sum())}  # 256 MiB

    found = {job.seed: job for job in run(make({"a": arm}), store).jobs}
    assert 0.5 <= found[100].seconds < 5
    assert found[101].seconds < 0.5
    assert found[103].peak_bytes - found[102].peak_bytes > 200 * 2**20
    assert found[102].peak_bytes > 20 * 2**20
    if sys.platform == "linux" and os.access("/proc/self/clear_refs", os.W_OK):
        assert found[104].peak_bytes < found[103].peak_bytes - 200 * 2**20, "a job does not inherit the last one's peak"
    assert found[100].versions["torch"] == version("torch")
    assert {"python", "platform", "numpy", "palimpsest"} <= set(found[100].versions)
    assert found[100].machine
    assert found[100].time.endswith("+00:00")


def test_an_arm_that_cannot_travel_runs_at_home_only(store):
    lock = threading.Lock()

    def arm(seed, budget):
        with lock:
            return {"m": 1.0}

    with pytest.raises(UserError, match="arm 'a' cannot be sent to a worker process"):
        run(make({"a": arm}), store, workers=2)
    assert not run(make({"a": arm}), store, workers=1).failures


def test_a_cluster_that_is_not_there(monkeypatch):
    import ray

    jobs = [Job("zz", "d", "c", "full", "a", 100)]

    def unreachable(address, **options):
        raise ConnectionError(f"no answer from {address}")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", unreachable)
    with pytest.raises(UserError, match=r"cannot use the Ray cluster 10\.0\.0\.9:6379: no answer"):
        list(run_jobs({"a": draw}, jobs, ray="10.0.0.9:6379"))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match="palimpsest\\[ray\\]"):
        list(run_jobs({"a": draw}, jobs, ray=True))


# --- which jobs run -------------------------------------------------------------------------------------------------


def test_stored_jobs_are_not_run_again_while_the_code_is_the_same(store, calls, monkeypatch):
    claim = make({"a": counted(calls.path)})
    run(claim, store, seeds=2)
    assert calls() == Counter(["a-100", "a-101"])
    run(claim, store)
    run(claim, store)
    assert set(calls().values()) == {1}
    run(claim, store, fresh=True)
    assert set(calls().values()) == {2}
    monkeypatch.setattr(outcome, "code_of", lambda claim: "another")
    run(claim, store)
    assert set(calls().values()) == {3}
    store.verify_chain()


def test_jobs_are_stored_as_they_finish(store, calls):
    def arm(seed, budget):
        with Store(store.path) as seen:
            return {"m": float(sum(body["kind"] == "job" for body in seen.ledger()))}

    assert [job.metrics["m"] for job in run(make({"a": arm}), store).jobs] == [0, 1, 2, 3, 4]


def test_progress_goes_to_stderr(store, capfd):
    def arm(seed, budget):
        if seed == 101:
            raise ValueError("not [bold] enough")
        return {"m": 1.0}

    run(make({"a [red]": arm}), store, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "a [red] · seed 100 · 0.0 s" in err
    assert "a [red] · seed 101 · failed: ValueError: not [bold] enough" in err
    run(make({"a [red]": arm}), store, progress=True)
    assert "4 of 5 jobs are stored already" in capfd.readouterr().err
    run(make({"a [red]": arm}), store, progress=False)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"seeds": 0}, "seeds must be at least 1 and at most 1000, got 0"),
        ({"seeds": []}, "distinct and not negative"),
        ({"seeds": [100, 100]}, "distinct"),
        ({"seeds": [-1]}, "not negative"),
        ({"seeds": [99, 100]}, "cannot be mixed"),
        ({"budget": "smoke", "seeds": []}, "distinct and not negative"),
    ],
)
def test_run_claim_refuses(tmp_path, options, match):
    with pytest.raises(UserError, match=match):
        run(make({"a": draw}), tmp_path / "evidence.sqlite", **options)
    with pytest.raises(ValueError, match="budget must be full or smoke, got 'tiny'"):
        run(make({"a": draw}), tmp_path / "evidence.sqlite", budget="tiny")
    assert not (tmp_path / "evidence.sqlite").exists()


def test_smoke_runs_one_seed_stores_nothing_and_lets_errors_out(tmp_path, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path))
    seen = []

    def arm(seed, budget):
        seen.append((seed, budget))
        return {"m": 1.0}

    found = run_claim(make({"a": arm, "b": arm}), budget="smoke")
    assert seen == [(0, "smoke")] * 2
    assert (found.standing, found.budget, found.seeds) == ("smoke", "smoke", (0,))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ZeroDivisionError):
        run_claim(make({"a": lambda seed, budget: {"m": 1 / 0}}), budget="smoke")
    with pytest.raises(ValueError, match="claim zz: a at least 0 on m: 'a' has no such metric, only n"):
        run_claim(make({"a": lambda seed, budget: {"n": 1.0}}), budget="smoke")


def test_versions_name_only_what_is_installed(monkeypatch):
    runner.versions.cache_clear()
    monkeypatch.setattr(runner, "_LIBRARIES", ("numpy", "no-such-library"))
    found = runner.versions()
    runner.versions.cache_clear()
    assert "numpy" in found
    assert "no-such-library" not in found
