"""The store keeps everything, changes nothing, and notices who does."""

import math
import sqlite3
import subprocess
import sys

import pytest

from palimpsest.audit.hark import GENESIS, TamperedLedger, chain
from palimpsest.errors import UserError
from palimpsest.evidence.store import Job, Store, now

KEY = ("npo", "digest", "code", "full")


def job(arm="npo", seed=100, **fields):
    return Job(*KEY, arm, seed, **{"metrics": {"utility": 0.5}, "time": now(), **fields})


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "folder" / "evidence.sqlite") as opened:
        yield opened


def test_a_job_comes_back_as_it_went(store):
    kept = job(
        metrics={
            "b": 0.1 + 0.2,
            "a": math.nan,
            "up": math.inf,
            "down": -math.inf,
            "zero": -0.0,
            "whole": 1,
            "curve": [(0, 1.0), (1, math.nan)],
            "none": [],
        },
        seconds=3,
        peak_bytes=12345,
        versions={"torch": "2.6"},
        machine="host",
        error=None,
    )
    store.add(kept)
    found = store.jobs(*KEY)["npo", 100]
    assert list(found.metrics) == list(kept.metrics), "metrics keep the order in which an arm reports them"
    assert found.content == kept.content
    assert found.metrics["b"] == 0.1 + 0.2
    assert math.isnan(found.metrics["a"])
    assert (found.metrics["up"], found.metrics["down"]) == (math.inf, -math.inf)
    assert found.metrics["curve"][0] == (0.0, 1.0)
    assert math.isnan(found.metrics["curve"][1][1])
    assert found.metrics["none"] == []
    assert (found.seconds, found.peak_bytes, found.versions, found.machine) == (3, 12345, {"torch": "2.6"}, "host")
    assert store.verify_chain() != GENESIS


@pytest.mark.parametrize("metrics", [{"m": "high"}, {"m": [1, 2]}, {"m": None}, 0.5, {"m": [(1, 2, 3)]}])
def test_a_metric_is_a_number_or_a_curve(metrics):
    with pytest.raises(TypeError, match=r"number or a list of \(x, y\)|dict of metrics"):
        job(metrics=metrics)


def test_the_last_success_counts(store):
    for fields in ({"metrics": {}, "error": "first"}, {}, {"metrics": {"utility": 0.7}}, {"metrics": {}, "error": "x"}):
        store.add(job(**fields))
    assert store.jobs(*KEY)["npo", 100].metrics == {"utility": 0.7}
    assert store.jobs("npo", "digest", "other code", "full") == {}
    assert store.jobs("npo", "other digest", "code", "full") == {}
    assert len(store.ledger("npo")) == 4
    assert [entry["failed"] for entry in store.ledger()] == [True, False, False, True]


def test_nothing_can_be_changed_or_deleted(store):
    store.add(job())
    with sqlite3.connect(store.path) as other:
        for statement in (
            "UPDATE ledger SET body = '{}'",
            "DELETE FROM ledger",
            "UPDATE jobs SET seed = 7",
            "DELETE FROM jobs",
            "UPDATE results SET value = 1.0",
            "DELETE FROM results",
        ):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                other.execute(statement)


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE results SET value = 0.9 WHERE job = 2",
        "UPDATE jobs SET seed = 109 WHERE id = 2",
        "UPDATE jobs SET error = 'it failed' WHERE id = 2",
        "DELETE FROM jobs WHERE id = 2",
        "DELETE FROM results WHERE job = 3",
        "UPDATE ledger SET body = replace(body, '\"seed\":101', '\"seed\":109') WHERE position = 2",
        "DELETE FROM ledger WHERE position = 2",
        "INSERT INTO jobs SELECT 9, 9, paper, digest, code, budget, arm, 109, seconds, peak_bytes, versions, machine,"
        " time, error FROM jobs WHERE id = 1",
    ],
)
def test_who_goes_around_the_triggers_is_noticed(store, tampering):
    for seed in (100, 101, 102):
        store.add(job(seed=seed))
    head = store.verify_chain()
    with sqlite3.connect(store.path) as other:
        for table in ("ledger", "jobs", "results"):
            for verb in ("UPDATE", "DELETE"):
                other.execute(f"DROP TRIGGER {table}_no_{verb}")
        other.execute(tampering)
    with pytest.raises(TamperedLedger):
        store.verify_chain()
    assert head


def test_rows_chain_from_the_start(store):
    first = store.append({"kind": "verdict", "paper": "npo"})
    second = store.append({"kind": "verdict", "paper": "simnpo"})
    assert first == chain(GENESIS, {"kind": "verdict", "paper": "npo"})
    assert second.previous == first.hash == chain(GENESIS, {"paper": "npo", "kind": "verdict"}).hash
    assert store.verify_chain() == second.hash
    assert store.ledger("simnpo") == [{"kind": "verdict", "paper": "simnpo"}]


def test_a_job_and_its_ledger_row_are_kept_together(store, monkeypatch):
    monkeypatch.setattr("palimpsest.evidence.store._columns", lambda value: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store.add(job())
    assert store.ledger() == []
    assert store.jobs(*KEY) == {}


def test_processes_that_write_at_once_make_one_chain(tmp_path):
    code = (
        "import sys\n"
        "from palimpsest.evidence.store import Job, Store\n"
        "with Store(sys.argv[1]) as store:\n"
        "    for seed in range(100, 140):\n"
        "        store.add(Job('npo', 'd', 'c', 'full', sys.argv[2], seed, {'m': seed}))\n"
    )
    path = tmp_path / "evidence.sqlite"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in ("one", "two", "three")]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    with Store(path) as store:
        store.verify_chain()
        assert len(store.jobs("npo", "d", "c", "full")) == 120


def test_a_store_that_cannot_be_used(tmp_path):
    (tmp_path / "text").write_text("this is not a database, it is a text that is long enough to be taken for one")
    with pytest.raises(UserError, match="cannot use .* as the store"):
        Store(tmp_path / "text")
    with pytest.raises(UserError, match="cannot use"):
        Store(tmp_path / "text" / "evidence.sqlite")
