"""Is the ledger of a store what was written? Answered by reading it, without what a run needs (NumPy, locks)."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from palimpsest.audit.ledger import Row, TamperedLedger, verify_chain
from palimpsest.paths import home


def altered(path: Path | str | None = None) -> str:
    """What is wrong with the ledger of a store, in one line.

    Empty where every row follows from the one before it, and where there is no store yet.

    Args:
        path: the store's file, `home()/evidence.sqlite` by default; it is read and never written.
    """
    path = Path(path) if path is not None else home() / "evidence.sqlite"
    if not path.is_file():
        return ""
    import sqlite3  # late: most who ask have no store

    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as database:
            rows = database.execute("SELECT body, previous, hash FROM ledger ORDER BY position")
            verify_chain(Row(*row) for row in rows)
    except TamperedLedger as error:
        return f"{path} was changed from outside: {error}"
    except sqlite3.Error as error:
        return f"the ledger in {path} cannot be checked: {error}"
    return ""
