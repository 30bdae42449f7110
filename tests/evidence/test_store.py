"""The store keeps what it is given, refuses to forget it, and notices who makes it."""

import math
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace

import pytest
from filelock import FileLock

from palimpsest.audit.hark import GENESIS, TamperedLedger, chain
from palimpsest.errors import UserError
from palimpsest.evidence import Job, Store
from palimpsest.evidence.chain import altered

KEY = ("npo", "claim", "code", "full")


def job(arm="npo", seed=100, **fields):
    return Job(*KEY, arm, seed, **{"metrics": {"m": 0.5}, "time": "2026-01-01T00:00:00+00:00", **fields})


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "folder" / "evidence.sqlite") as opened:
        yield opened


def test_what_is_kept_comes_back(store):
    metrics = {
        "plain": 0.1 + 0.2,
        "tiny": 5e-324,
        "huge": -1e308,
        "nan": math.nan,
        "inf": math.inf,
        "-inf": -math.inf,
        "-0": -0.0,
        "whole": 3,
        "yes": True,
        "größe, °C; \"quoted\" 'so'": 1.5,
        "curve": [(0, 1.0), (1, math.nan), (2.5, math.inf)],
        "empty curve": [],
    }
    kept = job(
        arm="naïve × 2",
        metrics=metrics,
        seconds=1.25,
        peak_bytes=2**40,
        versions={"torch": "2.13.0"},
        machine="here",
        error="Traceback\n  ü \udc80\nValueError: no",
    )
    store.add(kept)
    with Store(store.path) as again:
        (found,) = again.jobs(*KEY).values()
    assert list(found.metrics) == list(metrics), "in the order in which the arm reported them"
    assert repr(found.metrics) == repr({**kept.metrics, "-0": 0.0}), "SQLite knows one zero"
    assert found.metrics["curve"][:1] == [(0.0, 1.0)]
    assert isinstance(found.metrics["whole"], float)
    assert replace(found, metrics={}) == replace(kept, metrics={})
    assert "ü \\udc80" in found.error, "what is no text is quoted, not a reason to lose the traceback"
    assert found.content == kept.content
    store.verify_chain()


@pytest.mark.parametrize("metrics", [{"m": "high"}, {"m": None}, {"m": [1, 2]}, {"m": [(1, 2, 3)]}, {"m": {}}])
def test_what_is_no_number_or_curve_is_refused(metrics):
    with pytest.raises(TypeError, match=r"metric 'm' must be a number or a list of \(x, y\)"):
        job(metrics=metrics)


@pytest.mark.parametrize("metrics", [None, 0.5, [("m", 0.5)]])
def test_what_is_no_dict_is_refused(metrics):
    with pytest.raises(TypeError, match="an arm returns a dict of metrics"):
        job(metrics=metrics)


def test_the_last_attempt_counts_unless_it_failed(store):
    store.add(job(error="first"))
    store.add(job(error="second", metrics={}))
    assert store.jobs(*KEY)["npo", 100].error == "second"
    store.add(job(metrics={"m": 1.0}))
    store.add(job(metrics={"m": 2.0}))
    store.add(job(error="third", metrics={}))
    assert store.jobs(*KEY)["npo", 100].metrics == {"m": 2.0}
    assert len([body for body in store.ledger("npo") if body["kind"] == "job"]) == 5, "all attempts are on record"


def test_a_clock_that_goes_backwards_changes_no_order(store):
    """The last attempt is the one that was stored last, whatever the machine's clock said."""
    for value, time in ((0.1, "2030-01-01T00:00:00+00:00"), (0.2, "1970-01-01T00:00:00+00:00")):
        store.add(Job("npo", "d", "c", "full", "npo", 100, {"m": value}, time=time))
    assert store.jobs("npo", "d", "c", "full")["npo", 100].metrics == {"m": 0.2}
    assert store.verify_chain() == store.head()


def test_results_belong_to_one_claim_one_code_and_one_budget(store):
    store.add(job())
    for other in (("simnpo", *KEY[1:]), ("npo", "other", "code", "full"), ("npo", "claim", "other", "full")):
        assert store.jobs(*other) == {}
    assert store.jobs("npo", "claim", "code", "smoke") == {}
    assert set(store.jobs(*KEY)) == {("npo", 100)}


def test_both_or_neither(store):
    store.add(job())
    before = store.ledger()
    with pytest.raises(UnicodeEncodeError):
        store.add(job(arm="\udc80", seed=101))  # the ledger's row is ASCII and goes in, the job's does not
    assert store.ledger() == before
    store.add(job(seed=102))
    assert set(store.jobs(*KEY)) == {("npo", 100), ("npo", 102)}
    store.verify_chain()


# --- nothing is forgotten -------------------------------------------------------------------------------------------


@pytest.fixture
def filled(store):
    """Three rows in the ledger: a note and two jobs."""
    store.append({"kind": "verdict", "paper": "npo", "word": "refuted"})
    store.add(job())
    store.add(job(seed=101, metrics={"m": 0.6, "c": [(0.0, 1.0)]}))
    return store


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger SET body = '{}' WHERE position = 1",
        "UPDATE jobs SET seed = 7",
        "UPDATE results SET value = 0.9 WHERE metric = 'm'",
        "DELETE FROM ledger WHERE position = 3",
        "DELETE FROM jobs",
        "DELETE FROM results",
        "INSERT OR REPLACE INTO ledger VALUES (1, '{}', 'x', 'y')",
        "INSERT OR REPLACE INTO ledger SELECT 9, '{}', previous, 'y' FROM ledger WHERE position = 2",
        "INSERT OR REPLACE INTO ledger SELECT 9, '{}', 'x', hash FROM ledger WHERE position = 2",
        "REPLACE INTO jobs SELECT * FROM jobs WHERE id = 1",
        "REPLACE INTO jobs SELECT 9, entry, paper, digest, code, budget, arm, 7, 0, 0, '','','','' FROM jobs LIMIT 1",
        "REPLACE INTO results VALUES (1, 'm', 0.9, NULL)",
    ],
)
def test_rows_cannot_be_changed_replaced_or_deleted(filled, statement):
    head = filled.verify_chain()
    with sqlite3.connect(filled.path) as other, pytest.raises(sqlite3.IntegrityError, match="is append-only"):
        other.execute(statement)
    assert filled.verify_chain() == head
    assert len(filled.ledger()) == 3


@pytest.mark.parametrize(
    ("statement", "match"),
    [
        ("UPDATE ledger SET body = replace(body, 'refuted', 'held') WHERE position = 1", "row 1 of the ledger"),
        ("DELETE FROM ledger WHERE position = 1", "row 1 of the ledger"),
        ("DELETE FROM ledger WHERE position = 2", "row 2 of the ledger"),
        ("UPDATE ledger SET position = position + 10 WHERE position = 1", "row 1 of the ledger"),
        ("UPDATE results SET value = 0.9 WHERE metric = 'm' AND job = 1", "results of npo, seed 100 differ from row 2"),
        ("UPDATE results SET curve = '[[0.0,2.0]]' WHERE metric = 'c'", "results of npo, seed 101 differ from row 3"),
        ("DELETE FROM results WHERE job = 2 AND metric = 'c'", "results of npo, seed 101 differ from row 3"),
        ("INSERT INTO results VALUES (1, 'n', 1.0, NULL)", "results of npo, seed 100 differ from row 2"),
        ("UPDATE jobs SET seed = 103 WHERE id = 1", "results of npo, seed 103 differ from row 2"),
        ("UPDATE jobs SET error = 'no' WHERE id = 1", "results of npo, seed 100 differ from row 2"),
        ("UPDATE jobs SET code = 'newer' WHERE id = 1", "results of npo, seed 100 differ from row 2"),
        ("UPDATE jobs SET seconds = 0.1 WHERE id = 1", "results of npo, seed 100 differ from row 2"),
        ("UPDATE jobs SET peak_bytes = 7 WHERE id = 1", "results of npo, seed 100 differ from row 2"),
        ("UPDATE jobs SET machine = 'other' WHERE id = 1", "results of npo, seed 100 differ from row 2"),
        ("UPDATE jobs SET time = '2030-01-01' WHERE id = 1", "results of npo, seed 100 differ from row 2"),
        ('UPDATE jobs SET versions = \'{"torch":"1"}\' WHERE id = 1', "results of npo, seed 100 differ from row 2"),
        ("DELETE FROM jobs WHERE id = 1", "the results of ledger row 2 are gone"),
        ("DELETE FROM ledger WHERE position = 3", "results of npo, seed 101 differ from row 3"),
        (
            "INSERT INTO jobs SELECT 9, 9, paper, digest, code, budget, arm, 104, 0, 0, '{}', '', '', NULL FROM jobs"
            " WHERE id = 1",
            "results of npo, seed 104 differ from row 9",
        ),
    ],
)
def test_tampering_is_noticed(filled, statement, match):
    filled.verify_chain()
    with sqlite3.connect(filled.path) as other:
        for table in ("ledger", "jobs", "results"):
            for name in ("update", "delete", "replace"):
                other.execute(f"DROP TRIGGER {table}_no_{name}")
        other.execute(statement)
    with pytest.raises(TamperedLedger, match=match):
        filled.verify_chain()


def test_the_head_tells_of_rows_cut_from_the_end(store):
    assert store.verify_chain() == GENESIS
    store.append({"kind": "verdict", "word": "open"})
    shorter = store.verify_chain()
    row = store.append({"kind": "verdict", "word": "refuted"})
    assert row == chain(shorter, {"kind": "verdict", "word": "refuted"})
    assert store.verify_chain() == row.hash != shorter
    with sqlite3.connect(store.path) as other:
        other.execute("DROP TRIGGER ledger_no_delete")
        other.execute("DELETE FROM ledger WHERE position = 2")
    assert store.verify_chain() == shorter


# --- files ----------------------------------------------------------------------------------------------------------

# Each waits for the other's first rows before it goes on, so that they do write at the same time on any machine.
WRITER = """
import sys
import time
from palimpsest.evidence.store import Job, Store
path, arm = sys.argv[1:]
print("ready", flush=True)
input()
with Store(path) as store:
    for seed in range(100, 140):
        store.add(Job("npo", "claim", "code", "full", arm, seed, {"m": float(seed), "c": [(0.0, 1.0)]}))
        store.append({"kind": "verdict", "paper": "npo", "arm": arm})
        while seed == 101 and all(body["arm"] == arm for body in store.ledger()):
            time.sleep(0.01)
"""


@pytest.mark.slow
def test_two_processes_create_and_write_one_store_at_once(tmp_path):
    path = tmp_path / "evidence.sqlite"
    pipe = subprocess.PIPE
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), arm], stdin=pipe, stdout=pipe, text=True)
        for arm in ("a", "b")
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    assert not path.exists()
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    with Store(path) as store:
        store.verify_chain()
        assert set(store.jobs(*KEY)) == {(arm, seed) for arm in "ab" for seed in range(100, 140)}
        arms = [body["arm"] for body in store.ledger()]
        assert len(arms) == 160
        assert arms != sorted(arms), "they did write at the same time"


def test_who_opens_a_store_waits_for_who_creates_it(tmp_path):
    path, opened = tmp_path / "evidence.sqlite", threading.Event()
    waiting = threading.Thread(target=lambda: (Store(path).close(), opened.set()))
    with FileLock(f"{path}.lock"):
        waiting.start()
        assert not opened.wait(0.2)
        assert not path.exists()
    waiting.join(timeout=10)
    assert opened.is_set()


def test_the_default_place_is_home(tmp_path, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path / "home"))
    with Store() as store:
        assert store.path == tmp_path / "home" / "evidence.sqlite"


def test_what_is_no_store_is_said_in_one_line(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("no database, " * 100)
    (tmp_path / "folder.sqlite").mkdir()
    for path in (text, tmp_path / "folder.sqlite", text / "below.sqlite"):
        with pytest.raises(UserError, match=r"cannot use .* as the store of results"):
            Store(path)
    assert text.read_text().startswith("no database"), "and left as it was"


def put(path, *statements):
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("PRAGMA user_version = 2", "its tables have version 2"),
        ("ALTER TABLE jobs RENAME COLUMN code TO code_digest", "its table jobs is another"),
        ("ALTER TABLE results ADD COLUMN unit TEXT", "its table results is another"),
    ],
)
def test_a_store_of_another_version_is_refused_and_left_as_it_is(filled, statement, why):
    path = filled.path
    filled.close()
    put(path, statement, "PRAGMA journal_mode = DELETE")
    before = path.read_bytes()
    with pytest.raises(
        UserError, match=f"{path.name} is a store of another version of palimpsest .{why}, this one has 1"
    ):
        Store(path)
    assert path.read_bytes() == before
    assert {file.name for file in path.parent.iterdir()} <= {path.name, f"{path.name}.lock"}


def test_a_store_from_before_versions_were_written_goes_on(filled):
    path = filled.path
    filled.close()
    put(path, "PRAGMA user_version = 0")
    with Store(path) as store:
        assert set(store.jobs(*KEY)) == {("npo", 100), ("npo", 101)}
        assert store._database.execute("PRAGMA user_version").fetchone() == (1,)


def test_corrupt_pages_are_one_line(filled):
    for seed in range(102, 140):
        filled.add(job(seed=seed, metrics={"c": [(float(i), float(i)) for i in range(50)]}))
    path = filled.path
    filled.close()
    put(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    with pytest.raises(
        UserError, match=r"cannot use .*evidence.sqlite as the store of results: .*: the file is damaged"
    ):
        Store(path).verify_chain()


def test_text_that_is_no_json_any_more_is_one_line(filled):
    put(filled.path, "DROP TRIGGER ledger_no_update", "UPDATE ledger SET body = substr(body, 4) WHERE position = 2")
    with pytest.raises(UserError, match="the file is damaged"):
        filled.ledger()


def test_a_disk_that_fails_is_one_line_and_keeps_what_was_there(filled, monkeypatch):
    before = filled.ledger()

    class Failing:
        in_transaction = True

        def execute(self, statement, *values):
            raise sqlite3.OperationalError("disk I/O error")

    whole = filled._database
    monkeypatch.setattr(filled, "_database", Failing())
    for call in (lambda: filled.add(job(seed=102)), lambda: filled.append({"kind": "x"}), filled.ledger, filled.head):
        with pytest.raises(UserError, match=r"cannot use .*: disk I/O error: is the disk full, or a network drive"):
            call()
    monkeypatch.setattr(filled, "_database", whole)
    assert filled.ledger() == before


def test_the_ledger_is_read_without_being_written(store):
    assert altered(store.path.with_name("none.sqlite")) == ""
    assert not store.path.with_name("none.sqlite").exists()
    store.append({"kind": "registration", "paper": "npo"})
    assert altered(store.path) == ""
    broken = store.path.with_name("broken.sqlite")
    broken.write_bytes(b"no database at all, but long enough to be read as one" * 40)
    assert altered(broken) == f"the ledger in {broken} cannot be checked: file is not a database"
