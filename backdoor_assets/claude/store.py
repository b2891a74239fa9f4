"""Store paid verdicts and open batches in one SQLite file for all cells.

A verdict is written when it arrives and is never requested again. A process locks the store while
it makes calls, so that two processes that need the same verdict pay once. Readers do not wait.
"""

from __future__ import annotations

import fcntl
import json
import math
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from backdoor_assets.records import BadInput, Rubric, Verdict
from backdoor_assets.storage.disk import disk_is_full, nearest
from backdoor_assets.storage.mounts import refuse_network

TIMEOUT_SECONDS = 60.0
"""How long to wait for another process's lock on the file."""
REPORT_SECONDS = 15.0
"""Between two lines that say what is waited for."""
_MAX_KEYS = 900
"""Keys per query: older versions of SQLite accept 999 values."""

_TABLES = """
CREATE TABLE IF NOT EXISTS verdicts (
    key TEXT PRIMARY KEY,
    verdicts TEXT NOT NULL,  -- {column: [value, error]}
    model TEXT NOT NULL,     -- as the reply names it
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    dollars REAL,            -- null: a model without a price
    final INTEGER NOT NULL,  -- 0: no verdict yet, the call is sent again
    made TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS batches (
    number INTEGER PRIMARY KEY,
    id TEXT,                 -- null: sent, but no id received yet
    server TEXT NOT NULL,    -- address that the batch was sent to
    model TEXT NOT NULL,
    calls TEXT NOT NULL,     -- {key: number of a group of rubrics}, to read the replies
    rubrics TEXT NOT NULL,   -- those groups
    sent REAL NOT NULL,      -- seconds since 1970
    done INTEGER NOT NULL DEFAULT 0,
    most REAL                -- dollars that it can cost; null: unknown
);
"""


@dataclass(frozen=True)
class Batch:
    """A Message Batch that was sent, or is about to be."""

    number: int
    id: str | None
    server: str
    model: str
    rubrics: Mapping[str, tuple[Rubric, ...]]
    """Rubrics of each call by its key, so that any later run can read and store the replies."""
    sent: float
    most: float | None = None
    """Dollars that it can cost; None where there is no price."""


class Store:
    """The verdicts of a study in a folder. Any method raises BadInput for a file that is no store,
    or that cannot be written now."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "verdicts.sqlite"
        refuse_network(
            folder,
            "the store of verdicts",
            "Set BACKDOOR_VERDICTS to a folder on a disk of the host that judges, and move the "
            "file there if there is one.",
        )
        with self._explained():
            folder.mkdir(parents=True, exist_ok=True)
            # SQLite does not wait for its lock while it switches a file to WAL mode.
            with (folder / ".opening.lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._db = sqlite3.connect(self.path, timeout=TIMEOUT_SECONDS, isolation_level=None)
                self._use_wal()
                self._db.execute("PRAGMA synchronous = NORMAL")
                self._db.executescript(_TABLES)
                columns = {name for _, name, *_ in self._db.execute("PRAGMA table_info(batches)")}
                if "most" not in columns:  # a store of an earlier version
                    self._db.execute("ALTER TABLE batches ADD COLUMN most REAL")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise BadInput that says what a person can do about an error of the file or the disk."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise BadInput(f"{self.path}: {_advice(error, self.folder)}") from error

    def _run(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run a query and return its rows."""
        with self._explained():
            return self._db.execute(query, values).fetchall()

    def _use_wal(self) -> None:
        """Switch to WAL mode. A process that just closed the file, or died, may hold it briefly."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def lock(self, log: Callable[[str], None]) -> Iterator[None]:
        """Make this the only process that calls the judge. Waits for another one that does.

        The lock is on a separate file, and ends with the process.
        """
        with self._explained():
            file = (self.folder / ".asking.lock").open("a")
        with file as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._wait_for(lock, log)
            yield

    def _wait_for(self, lock: IO[str], log: Callable[[str], None]) -> None:
        reported = -math.inf
        while True:
            if time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                log("another process is calling the judge; waiting for its verdicts")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.1)
            else:
                return

    def known(self, keys: Iterable[str]) -> set[str]:
        """Return those of the keys that have a verdict."""
        ordered, found = sorted(keys), set[str]()  # in the order of the index
        for start in range(0, len(ordered), _MAX_KEYS):
            part = ordered[start : start + _MAX_KEYS]
            marks = ",".join("?" * len(part))
            query = f"SELECT key FROM verdicts WHERE final AND key IN ({marks})"
            found.update(key for (key,) in self._run(query, part))
        return found

    def get(self, key: str) -> dict[str, Verdict] | None:
        rows = self._run("SELECT verdicts FROM verdicts WHERE final AND key = ?", (key,))
        if not rows:
            return None
        return {column: Verdict(*verdict) for column, verdict in json.loads(rows[0][0]).items()}

    def put(
        self,
        key: str,
        verdicts: Mapping[str, Verdict],
        model: str,
        tokens: tuple[int, int],
        dollars: float | None,
        *,
        final: bool = True,
    ) -> None:
        """Write the verdicts of a reply. They survive a kill -9 of this process."""
        values = json.dumps({column: [v.value, v.error] for column, v in verdicts.items()})
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._run(
            "INSERT INTO verdicts VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
            "verdicts = excluded.verdicts, input_tokens = input_tokens + excluded.input_tokens, "
            "output_tokens = output_tokens + excluded.output_tokens, "
            "dollars = dollars + excluded.dollars, final = excluded.final",
            (key, values, model, *tokens, dollars, final, now),
        )

    def totals(self) -> dict[str, Any]:
        """Count the verdicts and dollars of all runs."""
        [(count, dollars)] = self._run("SELECT COUNT(*), SUM(dollars) FROM verdicts")
        return {"verdicts": count, "dollars": dollars or 0.0}

    def announce(
        self,
        server: str,
        model: str,
        rubrics: Mapping[str, tuple[Rubric, ...]],
        sent: float,
        most: float | None = None,
    ) -> Batch:
        """Record that a batch is about to be sent, with the rubrics of its calls by their keys and
        the most dollars that it can cost."""
        groups = list(dict.fromkeys(rubrics.values()))
        numbers = {group: number for number, group in enumerate(groups)}
        [(number,)] = self._run(
            "INSERT INTO batches (server, model, calls, rubrics, sent, most) "
            "VALUES (?, ?, ?, ?, ?, ?) RETURNING number",
            (
                server,
                model,
                json.dumps({key: numbers[group] for key, group in rubrics.items()}),
                json.dumps([[asdict(rubric) for rubric in group] for group in groups]),
                sent,
                most,
            ),
        )
        return Batch(number, None, server, model, rubrics, sent, most)

    def record_id(self, number: int, batch_id: str) -> None:
        self._run("UPDATE batches SET id = ? WHERE number = ?", (batch_id, number))

    def close_batch(self, number: int) -> None:
        self._run("UPDATE batches SET done = 1 WHERE number = ?", (number,))

    def open_batches(self) -> list[Batch]:
        found = []
        for number, batch_id, server, model, calls, rubrics, sent, most in self._run(
            "SELECT number, id, server, model, calls, rubrics, sent, most FROM batches "
            "WHERE NOT done"
        ):
            groups = [
                tuple(Rubric(**{**entry, "options": tuple(entry["options"])}) for entry in group)
                for group in json.loads(rubrics)
            ]
            of_call = {key: groups[group] for key, group in json.loads(calls).items()}
            found.append(Batch(number, batch_id, server, model, of_call, sent, most))
        return found

    def batch_ids(self) -> set[str]:
        return {i for (i,) in self._run("SELECT id FROM batches WHERE id IS NOT NULL")}


def _advice(error: Exception, folder: Path) -> str:
    """Say what is wrong with the file of verdicts, and what to do."""
    said = str(error)
    if disk_is_full(error, nearest(folder)) or "disk is full" in said:
        return "the disk is full. Free some space and run again; the verdicts so far are kept."
    if "locked" in said or "busy" in said:
        return "another program holds it. End it, and run again; the verdicts so far are kept."
    if isinstance(error, OSError) or "readonly" in said or "unable to open" in said:
        return f"it cannot be written ({said}). Make its folder writable, or set BACKDOOR_DATA."
    return (
        f"this store of verdicts cannot be read ({said}). Restore it from a copy. If you delete "
        "it, its verdicts must be paid for again."
    )
