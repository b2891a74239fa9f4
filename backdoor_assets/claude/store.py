"""Verdicts that were paid for, in one SQLite file for all cells, and the batches under way.

A verdict is written when it arrives and never asked for again. Whoever asks holds the store for
that time, so that two processes that want the same verdict pay once; readers need not wait.
"""

from __future__ import annotations

import fcntl
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backdoor_assets.records import BadInput, Rubric, Verdict

PATIENCE_SECONDS = 60.0
"""For another process's lock on the file."""
_MOST_KEYS = 900
"""Of a query: older SQLites take 999 values."""

_TABLES = """
CREATE TABLE IF NOT EXISTS verdicts (
    key TEXT PRIMARY KEY,
    verdicts TEXT NOT NULL,  -- {column: [value, error]}
    model TEXT NOT NULL,     -- as the reply names it
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    dollars REAL,            -- null: a model without a price
    final INTEGER NOT NULL,  -- 0: no verdict yet, and asked once more
    made TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS batches (
    number INTEGER PRIMARY KEY,
    id TEXT,                 -- null: sent, and no id has come back yet
    server TEXT NOT NULL,    -- the address that it was sent to
    model TEXT NOT NULL,
    calls TEXT NOT NULL,     -- to read its replies by: {key: number of a group of rubrics}
    rubrics TEXT NOT NULL,   -- those groups
    sent REAL NOT NULL,      -- seconds since 1970
    done INTEGER NOT NULL DEFAULT 0
);
"""


@dataclass(frozen=True)
class Batch:
    number: int
    id: str | None
    server: str
    model: str
    rubrics: Mapping[str, tuple[Rubric, ...]]
    """Of each call, by its key: its replies can be read and kept by whoever finds them."""
    sent: float


class Store:
    """The verdicts of a study under a folder. Raises BadInput for a file that is no store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "verdicts.sqlite"
        try:
            # SQLite does not wait for its lock while a file is turned into a WAL.
            with (folder / ".opening.lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._db = sqlite3.connect(
                    self.path, timeout=PATIENCE_SECONDS, isolation_level=None
                )
                self._turn_into_wal()
                self._db.execute("PRAGMA synchronous = NORMAL")
                self._db.executescript(_TABLES)
        except sqlite3.DatabaseError as error:
            raise BadInput(
                f"{self.path}: this store of verdicts cannot be read ({error}). Put a copy of it "
                "back; moving it away means to pay for its verdicts again."
            ) from error

    def _turn_into_wal(self) -> None:
        """A process that closes the file, or is killed, may still hold it for a moment."""
        deadline = time.monotonic() + PATIENCE_SECONDS
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
    def held(self, log: Callable[[str], None]) -> Iterator[None]:
        """Hold the right to ask. Waits for another process that does; a lock of its own file, which
        dies with its process."""
        with (self.folder / ".asking.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log("another process is asking the judge; waiting for its verdicts")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def known(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys that have a verdict."""
        wanted, found = sorted(keys), set[str]()  # in the order of the index
        for start in range(0, len(wanted), _MOST_KEYS):
            some = wanted[start : start + _MOST_KEYS]
            places = ",".join("?" * len(some))
            query = f"SELECT key FROM verdicts WHERE final AND key IN ({places})"
            found.update(key for (key,) in self._db.execute(query, some))
        return found

    def get(self, key: str) -> dict[str, Verdict] | None:
        row = self._db.execute(
            "SELECT verdicts FROM verdicts WHERE final AND key = ?", (key,)
        ).fetchone()
        if row is None:
            return None
        return {column: Verdict(*verdict) for column, verdict in json.loads(row[0]).items()}

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
        """Write what has just arrived and was paid for; it survives a kill -9 of this process."""
        told = json.dumps({column: [v.value, v.error] for column, v in verdicts.items()})
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._db.execute(
            "INSERT INTO verdicts VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
            "verdicts = excluded.verdicts, input_tokens = input_tokens + excluded.input_tokens, "
            "output_tokens = output_tokens + excluded.output_tokens, "
            "dollars = dollars + excluded.dollars, final = excluded.final",
            (key, told, model, *tokens, dollars, final, now),
        )

    def totals(self) -> dict[str, Any]:
        """Verdicts and dollars of all runs."""
        count, dollars = self._db.execute("SELECT COUNT(*), SUM(dollars) FROM verdicts").fetchone()
        return {"verdicts": count, "dollars": dollars or 0.0}

    def announce(
        self, server: str, model: str, rubrics: Mapping[str, tuple[Rubric, ...]], sent: float
    ) -> Batch:
        """Note that a batch is about to be sent, with the rubrics of its calls by their keys."""
        groups = list(dict.fromkeys(rubrics.values()))
        numbers = {group: number for number, group in enumerate(groups)}
        row = self._db.execute(
            "INSERT INTO batches (server, model, calls, rubrics, sent) VALUES (?, ?, ?, ?, ?)",
            (
                server,
                model,
                json.dumps({key: numbers[group] for key, group in rubrics.items()}),
                json.dumps([[asdict(rubric) for rubric in group] for group in groups]),
                sent,
            ),
        )
        assert row.lastrowid is not None
        return Batch(row.lastrowid, None, server, model, rubrics, sent)

    def answered(self, number: int, batch_id: str) -> None:
        self._db.execute("UPDATE batches SET id = ? WHERE number = ?", (batch_id, number))

    def done(self, number: int) -> None:
        self._db.execute("UPDATE batches SET done = 1 WHERE number = ?", (number,))

    def open_batches(self) -> list[Batch]:
        found = []
        for number, batch_id, server, model, calls, rubrics, sent in self._db.execute(
            "SELECT number, id, server, model, calls, rubrics, sent FROM batches WHERE NOT done"
        ):
            groups = [
                tuple(Rubric(**{**told, "options": tuple(told["options"])}) for told in group)
                for group in json.loads(rubrics)
            ]
            of_call = {key: groups[group] for key, group in json.loads(calls).items()}
            found.append(Batch(number, batch_id, server, model, of_call, sent))
        return found

    def batch_ids(self) -> set[str]:
        return {i for (i,) in self._db.execute("SELECT id FROM batches WHERE id IS NOT NULL")}
