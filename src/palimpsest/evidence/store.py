"""The store: one SQLite file with every job ever run, and a ledger beside them whose rows chain by hash.

Tables: `jobs` (a row for every attempt of an arm on a seed: claim digest, code digest, budget, seconds, peak memory,
versions, machine, time, the traceback if it failed), `results` (its metrics and curves) and `ledger` (registrations,
amendments, jobs, verdicts; each row holds the hash of the one before). Nothing can be changed, replaced or deleted:
triggers refuse it, and `verify_chain` notices who goes around them. The write-ahead log lets several processes read
and write at once.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock

from palimpsest.audit.ledger import GENESIS, Row, TamperedLedger, canonical_json, chain, verify_chain
from palimpsest.errors import UserError
from palimpsest.paths import home

_VERSION = 1  # of the tables, kept as SQLite's user_version; 0 is a store from before it was written
_SCHEMA = """
CREATE TABLE IF NOT EXISTS ledger (
    position INTEGER PRIMARY KEY, body TEXT NOT NULL, previous TEXT NOT NULL UNIQUE, hash TEXT NOT NULL UNIQUE
);
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY, entry INTEGER NOT NULL UNIQUE REFERENCES ledger (position), paper TEXT NOT NULL,
    digest TEXT NOT NULL, code TEXT NOT NULL, budget TEXT NOT NULL, arm TEXT NOT NULL, seed INTEGER NOT NULL,
    seconds REAL NOT NULL, peak_bytes INTEGER NOT NULL, versions TEXT NOT NULL, machine TEXT NOT NULL,
    time TEXT NOT NULL, error TEXT
);
CREATE TABLE IF NOT EXISTS results (
    job INTEGER NOT NULL REFERENCES jobs (id), metric TEXT NOT NULL, value REAL, curve TEXT, PRIMARY KEY (job, metric)
);
CREATE INDEX IF NOT EXISTS jobs_of_a_claim ON jobs (paper, digest, code, budget);
"""
_TRIGGER = """
CREATE TRIGGER IF NOT EXISTS {table}_no_{name} BEFORE {event} ON {table} {condition}
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END;
"""
# INSERT OR REPLACE deletes the row in its way without the trigger for DELETE: what makes a row unique, by table.
_SAME = {
    "ledger": "position = NEW.position OR previous = NEW.previous OR hash = NEW.hash",
    "jobs": "id = NEW.id OR entry = NEW.entry",
    "results": "job = NEW.job AND metric = NEW.metric",
}

_COLUMNS = ("paper", "digest", "code", "budget", "arm", "seed", "seconds", "peak_bytes")
_COLUMNS += ("versions", "machine", "time", "error")


@dataclass(frozen=True)
class Job:
    """One arm on one seed, run once.

    Raises:
        TypeError: where a metric is neither a number nor a list of (x, y).
    """

    paper: str
    digest: str
    code: str
    budget: str
    arm: str
    seed: int
    metrics: Mapping[str, float | list[tuple[float, float]]] = field(default_factory=dict)
    """a float, or a curve of (x, y)"""
    seconds: float = 0.0
    peak_bytes: int = 0
    """the most resident memory that the worker held during the job"""
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: str = ""
    time: str = ""
    error: str | None = None
    """the traceback of a job that failed"""

    def __post_init__(self) -> None:
        if not isinstance(self.metrics, Mapping):
            raise TypeError(f"an arm returns a dict of metrics, got {self.metrics!r:.60}")
        object.__setattr__(self, "metrics", {str(name): _measured(name, m) for name, m in self.metrics.items()})
        object.__setattr__(self, "seconds", float(self.seconds))
        if self.error is not None:  # a message may quote bytes that are no text, which SQLite would refuse
            object.__setattr__(self, "error", self.error.encode(errors="backslashreplace").decode())

    @property
    def content(self) -> str:
        """SHA-256 of all that the ledger vouches for."""
        outcome = [self.metrics, self.error, self.seconds, self.peak_bytes, self.versions, self.machine, self.time]
        return sha256(canonical_json(outcome).encode()).hexdigest()

    def entry(self) -> dict[str, Any]:
        """The job's row in the ledger."""
        named = {name: getattr(self, name) for name in ("paper", "digest", "code", "budget", "arm", "seed")}
        return {"kind": "job", **named, "failed": self.error is not None, "content": self.content}


class Store:
    """The results of one user, `home()/evidence.sqlite` unless another file is named.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "evidence.sqlite") as store:
    ...     store.add(Job("npo", "d", "c", "full", "npo", 100, {"utility": 0.5}, time=now()))
    ...     store.jobs("npo", "d", "c", "full")["npo", 100].metrics
    {'utility': 0.5}
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = Path(path) if path is not None else home() / "evidence.sqlite"
        self.lock = FileLock(f"{self.path}.lock")
        """held by who reads the ledger to decide what to append"""
        with self._said():
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                # Two processes that create the file at once would meet a lock that SQLite does not wait for.
                with self.lock:
                    self._open()
            except OSError as error:
                raise UserError(f"cannot use {self.path} as the store of results: {error}") from None

    def _open(self) -> None:
        self._database = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        try:
            self._check_version()
            self._database.execute("PRAGMA journal_mode = WAL")
            with self._transaction():
                self._create()
        except BaseException:
            self._database.close()
            raise

    def _check_version(self) -> None:
        """Refuse, before anything is written, a store that another version of the toolkit has made."""
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        found = _columns_of(self._database)
        with closing(sqlite3.connect(":memory:")) as plain:
            plain.executescript(_SCHEMA)
            wanted = _columns_of(plain)
        other = [table for table in found if table in wanted and found[table] != wanted[table]]
        if version > _VERSION or other:
            why = f"its tables have version {version}" if version > _VERSION else f"its table {other[0]} is another"
            raise UserError(
                f"{self.path} is a store of another version of palimpsest ({why}, this one has {_VERSION}): use that "
                "version, move the file away, or set PALIMPSEST_HOME to another folder"
            )

    def _create(self) -> None:
        for statement in _SCHEMA.split(";\n"):
            self._database.execute(statement)
        for table, same in _SAME.items():
            there = f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {same})"
            for name, event, condition in (
                ("update", "UPDATE", ""),
                ("delete", "DELETE", ""),
                ("replace", "INSERT", there),
            ):
                self._database.execute(_TRIGGER.format(table=table, name=name, event=event, condition=condition))
        self._database.execute(f"PRAGMA user_version = {_VERSION}")

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._database.close()

    def append(self, body: Mapping[str, Any]) -> Row:
        """Add a row to the ledger."""
        with self._said(), self._transaction():
            return self._append(body)[1]

    def add(self, job: Job) -> None:
        """Keep a job and its row in the ledger, both or neither."""
        with self._said(), self._transaction():
            position, _ = self._append(job.entry())
            row = {name: getattr(job, name) for name in _COLUMNS} | {"versions": canonical_json(job.versions)}
            cursor = self._database.execute(
                f"INSERT INTO jobs (entry, {', '.join(row)}) VALUES (?{', ?' * len(row)})", (position, *row.values())
            )
            self._database.executemany(
                "INSERT INTO results VALUES (?, ?, ?, ?)",
                [(cursor.lastrowid, metric, *_columns(value)) for metric, value in job.metrics.items()],
            )

    def jobs(self, paper: str, digest: str, code: str, budget: str) -> dict[tuple[str, int], Job]:
        """The last attempt of every (arm, seed); one that failed does not replace an earlier one that succeeded."""
        found: dict[tuple[str, int], Job] = {}
        where = "paper = ? AND digest = ? AND code = ? AND budget = ?"
        with self._said():
            rows = list(self._jobs(where, (paper, digest, code, budget)))
        for _, job in rows:
            earlier = found.get((job.arm, job.seed))
            if earlier is None or earlier.error is not None or job.error is None:
                found[job.arm, job.seed] = job
        return found

    def ledger(self, paper: str | None = None) -> list[dict[str, Any]]:
        """The ledger's rows in order, of one paper where it is named."""
        with self._said():
            bodies = [json.loads(row.body) for row in self._rows()]
        return [body for body in bodies if paper in (None, body.get("paper"))]

    def head(self) -> str:
        """The hash of the ledger's last row, unchecked."""
        with self._said():
            last = self._database.execute("SELECT hash FROM ledger ORDER BY position DESC LIMIT 1").fetchone()
        return last[0] if last else GENESIS

    def verify_chain(self) -> str:
        """Check every link of the ledger and every job against its row; returns the hash of the last row.

        Raises:
            TamperedLedger: naming the first row that does not fit.
        """
        with self._said(), self._transaction("DEFERRED"):
            head = verify_chain(self._rows())
            entries = dict(self._database.execute("SELECT position, body FROM ledger"))
            promised = {position for position, body in entries.items() if json.loads(body)["kind"] == "job"}
            for position, job in self._jobs():
                if entries.get(position) != canonical_json(job.entry()):
                    raise TamperedLedger(f"the results of {job.arm}, seed {job.seed} differ from row {position}")
                promised.discard(position)
        if promised:
            raise TamperedLedger(f"the results of ledger row {min(promised)} are gone")
        return head

    def _append(self, body: Mapping[str, Any]) -> tuple[int, Row]:
        last = self._database.execute("SELECT position, hash FROM ledger ORDER BY position DESC LIMIT 1").fetchone()
        position, previous = (last[0] + 1, last[1]) if last else (1, GENESIS)
        row = chain(previous, body)
        self._database.execute("INSERT INTO ledger VALUES (?, ?, ?, ?)", (position, row.body, row.previous, row.hash))
        return position, row

    def _rows(self) -> Iterator[Row]:
        rows = self._database.execute("SELECT body, previous, hash FROM ledger ORDER BY position")
        yield from (Row(*row) for row in rows)

    def _jobs(self, where: str = "1", values: tuple[str, ...] = ()) -> Iterator[tuple[int, Job]]:
        query = f"SELECT id, entry, {', '.join(_COLUMNS)} FROM jobs WHERE {where} ORDER BY id"
        for number, entry, *columns in self._database.execute(query, values).fetchall():
            row = dict(zip(_COLUMNS, columns, strict=True))
            row["versions"] = json.loads(row["versions"])
            query = "SELECT metric, value, curve FROM results WHERE job = ? ORDER BY rowid"
            results = self._database.execute(query, (number,))
            yield entry, Job(**row, metrics={metric: _value(value, curve) for metric, value, curve in results})

    @contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        # IMMEDIATE takes the write lock before the ledger's head is read, so that two processes cannot both follow it.
        self._database.execute(f"BEGIN {kind}")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:  # SQLite has rolled back by itself where the disk failed
                with suppress(sqlite3.Error):
                    self._database.execute("ROLLBACK")
            raise

    @contextmanager
    def _said(self) -> Iterator[None]:
        """What SQLite cannot do, and rows that are no rows any more, as one line that names the file."""
        try:
            yield
        except (sqlite3.Error, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"cannot use {self.path} as the store of results: {error}{_advice(error)}") from None


def _columns_of(database: sqlite3.Connection) -> dict[str, list[str]]:
    """The columns of every table."""
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {table: [row[1] for row in database.execute(f"PRAGMA table_info({table})")] for table in tables}


def _advice(error: Exception) -> str:
    """What to do about an error, after it."""
    text = str(error)
    if isinstance(error, ValueError) or "malformed" in text or "not a database" in text or "decode" in text:
        return ": the file is damaged; move it away, or put a copy of it in its place"
    if "I/O" in text or "locking" in text or "full" in text:
        return ": is the disk full, or a network drive? PALIMPSEST_HOME=FOLDER keeps it elsewhere"
    return ""


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _measured(name: str, value: Any) -> float | list[tuple[float, float]]:
    try:
        return [(float(x), float(y)) for x, y in value] if isinstance(value, (list, tuple)) else float(value)
    except (TypeError, ValueError):
        raise TypeError(f"metric {name!r} must be a number or a list of (x, y), got {value!r:.60}") from None


def _columns(value: float | list[tuple[float, float]]) -> tuple[float | None, str | None]:
    """SQLite stores NaN as NULL; a curve goes to its own column as JSON."""
    return (value, None) if isinstance(value, float) else (None, canonical_json(value))


def _value(value: float | None, curve: str | None) -> float | list[tuple[float, float]]:
    if curve is not None:
        return [(float(x), float(y)) for x, y in json.loads(curve)]
    return math.nan if value is None else value
