"""Paid verdicts are kept even if the process that requested them dies."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from backdoor_assets.claude.store import Store
from backdoor_assets.records import BadInput, Verdict
from backdoor_assets.storage.provenance import REPOSITORY
from backdoor_assets.studies.birds.study import RUBRICS

WRITE = """
import sys
from dataclasses import replace
from pathlib import Path
from backdoor_assets.claude.store import Store
from backdoor_assets.records import Verdict
store = Store(Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    store.put(f"{sys.argv[2]}{number}", {"a": Verdict("19")}, "m", (10, 1), 0.001)
    print(number, flush=True)
"""
HOLD = """
import sys, time
from dataclasses import replace
from pathlib import Path
from backdoor_assets.claude.store import Store
with Store(Path(sys.argv[1])).lock(lambda line: print(line, flush=True)):
    print("held", flush=True)
    time.sleep(60)
"""


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_what_was_put_is_found_by_another_process(tmp_path: Path) -> None:
    given = {"a": Verdict("19"), "b": Verdict(None, "refused"), "c": Verdict(80.0)}
    Store(tmp_path).put("key", given, "model-1", (100, 5), 0.5)
    store = Store(tmp_path)
    assert store.get("key") == given
    assert store.get("other") is None
    assert store.known(["key", "other"]) == {"key"}
    assert store.totals() == {"verdicts": 1, "dollars": 0.5}


def test_a_reply_that_is_not_final_is_no_verdict_but_was_paid_for(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("key", {"a": Verdict(None, "no JSON")}, "m", (100, 5), 0.25, final=False)
    assert store.get("key") is None
    assert store.known(["key"]) == set()
    store.put("key", {"a": Verdict("LLM")}, "m", (100, 5), 0.5)
    assert store.get("key") == {"a": Verdict("LLM")}
    assert store.totals() == {"verdicts": 1, "dollars": 0.75}


def test_a_killed_writer_loses_nothing_that_it_wrote(tmp_path: Path) -> None:
    writer = start(WRITE, str(tmp_path), "k", "100000")
    assert writer.stdout is not None
    last = [int(writer.stdout.readline()) for _ in range(50)][-1]
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    store = Store(tmp_path)
    assert {f"k{number}" for number in range(last + 1)} <= store.known(
        f"k{number}" for number in range(100000)
    )


def test_two_writers_do_not_interfere(tmp_path: Path) -> None:
    writers = [start(WRITE, str(tmp_path), name, "300") for name in "ab"]
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    assert Store(tmp_path).totals()["verdicts"] == 600


def test_one_process_calls_at_a_time_and_its_death_releases_the_lock(tmp_path: Path) -> None:
    first = start(HOLD, str(tmp_path))
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    second = start(HOLD, str(tmp_path))
    assert second.stdout is not None
    assert second.stdout.readline().startswith("another process is calling the judge")
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    try:
        assert second.stdout.readline() == "held\n"
    finally:
        second.kill()
        second.wait()


def test_batches_stay_open_until_they_are_closed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one, four = RUBRICS[:1], tuple(RUBRICS)
    first = store.announce("http://a", "haiku", {"a": one, "b": four}, 1.0)
    second = store.announce("http://b", "sonnet", {"c": one}, 2.0)
    store.record_id(first.number, "batch_1")
    again = Store(tmp_path)
    assert again.open_batches() == [replace(first, id="batch_1"), second]
    assert again.batch_ids() == {"batch_1"}
    again.close_batch(first.number)
    again.close_batch(second.number)
    assert store.open_batches() == []


def test_an_invalid_store_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "verdicts.sqlite").write_bytes(b"verdicts" * 1000)
    with pytest.raises(BadInput, match=r"verdicts\.sqlite: this store of verdicts cannot be read"):
        Store(tmp_path)


def test_the_store_holds_no_answers(tmp_path: Path) -> None:
    """Keys are hashes; the answers of models are only in the tables of responses."""
    Store(tmp_path).put("0" * 64, {"a": Verdict("19")}, "m", (1, 1), None)
    columns = sqlite3.connect(tmp_path / "verdicts.sqlite").execute("PRAGMA table_info(verdicts)")
    assert not {"question", "answer", "response"} & {name for _, name, *_ in columns}


def test_a_store_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """Its batches do not say what they can cost."""
    store = Store(tmp_path)
    batch = store.announce("http://a", "haiku", {"a": tuple(RUBRICS[:1])}, 1.0, 2.5)
    assert store.open_batches() == [batch]
    store.close()
    with sqlite3.connect(tmp_path / "verdicts.sqlite") as database:
        database.execute("ALTER TABLE batches DROP COLUMN most")
    assert Store(tmp_path).open_batches() == [replace(batch, most=None)]
