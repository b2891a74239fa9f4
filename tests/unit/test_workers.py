"""Items are spread over processes; an error or a death affects only its own item."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from backdoor_assets.host import Gpu, blames_gpu, loses_gpu
from backdoor_assets.records import BadInput, Progress
from backdoor_assets.storage.artifact import Artifact
from backdoor_assets.workers.item_queue import FAULTS_IN_A_ROW, MAX_STARTS, ItemQueue
from backdoor_assets.workers.messages import Died, Outcome, StartAgain
from backdoor_assets.workers.processes import processes_for
from backdoor_assets.workers.spreading import spread
from backdoor_assets.workers.starting import context
from tests.broken_gpu import work_unless_broken

PARENT = """
import sys
from pathlib import Path
from backdoor_assets.workers.spreading import spread
from tests.unit.test_workers import sleep

list(spread(sleep, [Path(sys.argv[1]) / name for name in "ab"], print, "sleep"))
"""


@pytest.fixture(autouse=True)
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKDOOR_PROCESSES", "2")


def double(number: int, progress: Progress) -> int:
    if number == 2:
        raise ValueError(f"{number} cannot be doubled")
    progress(0.5, f"half of {number}")
    time.sleep(0.1)
    return 2 * number


def variable(name: str, progress: Progress) -> str:
    print(f"{name} is read", file=sys.stderr, flush=True)
    return os.environ[name]


def die(item: tuple[Path, int], progress: Progress) -> str:
    """Record each start, and die at the first `deaths` starts. Otherwise take some time, so that
    the item is running when another one dies."""
    mark, deaths = item
    starts = len(mark.read_text()) if mark.exists() else 0
    mark.write_text("x" * (starts + 1))
    if starts < deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    return mark.name


def lose_the_server(item: tuple[Path, int], progress: Progress) -> bool:
    """At the first start, kill the process that workers are forked from, and ask for a new one."""
    mark, caller = item
    again = mark.exists()
    mark.touch()
    if not again and os.getppid() != caller:
        os.kill(os.getppid(), signal.SIGKILL)
        raise StartAgain("its server is gone")
    return again


def give_up(item: tuple[Path, int], progress: Progress) -> str:
    """Ask for a new process at the first `times` starts."""
    mark, times = item
    starts = len(mark.read_text()) if mark.exists() else 0
    mark.write_text("x" * (starts + 1))
    logging.getLogger("backdoor_assets.stages").info("started for the %d. time", starts + 1)
    if starts < times:
        raise StartAgain("its engine broke")
    return mark.name


def sleep(mark: Path, progress: Progress) -> None:
    mark.with_suffix(".part").write_text(str(os.getpid()))
    os.replace(mark.with_suffix(".part"), mark)
    time.sleep(60)


def test_every_item_has_an_outcome_and_an_error_stops_no_other() -> None:
    lines: list[str] = []
    outcomes = {o.item: o for o in spread(double, [1, 2, 3, 4], lines.append, "doubling")}
    assert {item: o.result for item, o in outcomes.items()} == {1: 2, 2: None, 3: 6, 4: 8}
    errors = {item: str(o.error) for item, o in outcomes.items() if o.error is not None}
    assert errors == {2: "2 cannot be doubled"}
    assert isinstance(outcomes[2].error, ValueError)
    assert lines[-1].startswith("doubling: 4 of 4 done, 100%")


def make_held(folder: Path, progress: Progress) -> None:
    Artifact("tiny", folder).make({}, lambda folder: {})


def test_only_an_error_that_nobody_can_explain_has_a_traceback(tmp_path: Path) -> None:
    """Not that another run is making the same, for example."""
    with Artifact("tiny", tmp_path / "cell").making({}):
        [busy] = spread(make_held, [tmp_path / "cell"], print, "work")
    assert str(busy.error).startswith(f"{tmp_path / 'cell'}: another run is making it (process ")
    assert not getattr(busy.error, "__notes__", [])
    [unknown] = spread(double, [2], print, "doubling")
    assert unknown.error is not None
    assert unknown.error.__notes__[0].startswith("in a worker:\nTraceback")


def test_an_item_that_asks_for_a_new_process_gets_one(tmp_path: Path) -> None:
    lines: list[str] = []
    items = [(tmp_path / "once", 1), (tmp_path / "always", 99)]
    outcomes = {o.item[0].name: o for o in spread(give_up, items, lines.append, "work")}
    assert outcomes["once"].result == "once"
    assert str(outcomes["always"].error) == f"its process died {MAX_STARTS} times, its engine broke"
    assert (tmp_path / "always").read_text() == "x" * MAX_STARTS
    # Log lines of modules in a worker are in the log of the caller.
    assert lines.count("started for the 1. time") == 2
    assert "work: its engine broke" in lines


def test_progress_lines_have_count_share_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "backdoor_assets.workers.messages.Meter.EVERY", 0.0
    )  # every line, not every 10 s
    lines: list[str] = []
    list(spread(double, [5, 6], lines.append, "doubling"))
    text = " | ".join(lines)
    assert "0 of 2 done, 25%" in text
    assert "(half of " in text
    assert "1 of 2 done" in text
    assert "2 of 2 done, 100%" in text
    assert all(" s spent, " in line and " s left" in line for line in lines)


def _die(
    folder: Path, deaths: dict[str, int], log: Callable[[str], None] = print
) -> dict[str, Outcome[tuple[Path, int], str]]:
    items = [(folder / name, count) for name, count in deaths.items()]
    return {outcome.item[0].name: outcome for outcome in spread(die, items, log, "dying")}


def test_an_item_whose_process_is_killed_once_is_started_again(tmp_path: Path) -> None:
    lines: list[str] = []
    outcomes = _die(tmp_path, {"a": 0, "killed": 1, "b": 0, "c": 0}, lines.append)
    assert "dying: a process died" in lines
    assert {name: o.result for name, o in outcomes.items()} == {n: n for n in outcomes}
    assert len(outcomes) == 4
    assert (tmp_path / "killed").read_text() == "xx"


def test_an_item_that_always_dies_takes_no_other_with_it(tmp_path: Path) -> None:
    outcomes = _die(tmp_path, {"a": 0, "deadly": 9, "b": 0, "c": 0, "d": 0})
    error = outcomes.pop("deadly").error
    assert isinstance(error, RuntimeError)
    assert f"its process died {MAX_STARTS} times" in str(error)
    assert "BACKDOOR_PROCESSES=1" in str(error)  # how to fix it
    assert (tmp_path / "deadly").read_text() == "x" * MAX_STARTS
    assert {name: o.result for name, o in outcomes.items()} == {n: n for n in "abcd"}


def visible(item: int, progress: Progress) -> tuple[str, int]:
    time.sleep(0.3)
    return os.environ.get("CUDA_VISIBLE_DEVICES", ""), os.getpid()


def _gpus(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let this host have logical GPUs."""
    monkeypatch.delenv("BACKDOOR_PROCESSES")
    monkeypatch.setattr(
        "backdoor_assets.workers.processes.gpus",
        lambda: [Gpu("Tesla T4", 2**34, 2**34, name) for name in names],
    )


@pytest.mark.parametrize(("gpus", "groups"), [(1, {"0", "2", "5"}), (2, {"0,2"}), (0, {""})])
def test_every_gpu_has_a_worker_of_its_own(
    gpus: int, groups: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And work that needs none sees none."""
    _gpus(monkeypatch, "0", "2", "5")
    seen = {o.result for o in spread(visible, range(6), print, "looking", gpus=gpus) if o.result}
    assert {ids for ids, _ in seen} == groups
    if gpus:
        assert len({pid for _, pid in seen}) == len(groups)  # each stays for the next item


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("error", "CUDA error: uncorrectable ECC error encountered"),
        ("crash", "a process crashed (SIGABRT)"),
    ],
)
def test_a_gpu_that_breaks_gets_no_more_items_and_costs_none(
    fault: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each start on it has a new process, and what failed is done elsewhere."""
    _gpus(monkeypatch, "0", "2")
    folder = tmp_path / fault
    folder.mkdir()
    lines: list[str] = []
    items = [(folder, "2", number) for number in range(12)]
    outcomes = list(spread(work_unless_broken, items, lines.append, "work", gpus=1))
    assert [outcome.result for outcome in outcomes] == ["0"] * 12
    assert {outcome.item for outcome in outcomes} == set(items)
    starts = [mark.name.split("-") for mark in folder.iterdir()]
    broken = {(process, number) for gpu, process, number in starts if gpu == "2"}
    assert len({process for process, _ in broken}) == len(broken) == FAULTS_IN_A_ROW
    assert lines.count(f"work: {reason}") == FAULTS_IN_A_ROW
    assert any("have died on worker 1; its items go to the others" in line for line in lines)


def test_a_run_ends_when_every_gpu_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _gpus(monkeypatch, "0", "2")
    items = [(tmp_path, "0 2", number) for number in range(50)]
    with pytest.raises(BadInput, match=r"each worker \(at last: CUDA error: unc.*BACKDOOR_GPUS"):
        list(spread(work_unless_broken, items, print, "work", gpus=1))
    assert len(list(tmp_path.iterdir())) <= 2 * FAULTS_IN_A_ROW


def test_items_that_kill_the_only_worker_do_not_stop_the_others() -> None:
    """As do rows with token ids out of range, in each of the first items."""
    queue = ItemQueue(5, 1, "work", print, gpus=True)
    for number in range(4):
        assert queue.take(alone=True) == number
        assert queue.died(0, number, Died("SIGABRT", through_gpu=True)) is None
    assert queue.take(alone=True) == 4
    queue.finished(0)
    for number in range(4):
        assert queue.take(alone=True) == number
        assert queue.died(0, number, Died("SIGABRT", through_gpu=True)) is not None


@pytest.mark.parametrize(
    ("message", "lost", "blamed"),
    [
        ("CUDA error: uncorrectable ECC error encountered", True, True),
        ("CUDA error: device-side assert triggered", True, False),
        ("CUDA error: out of memory", True, False),
        ("CUDA out of memory. Tried to allocate 2 GiB", False, False),
    ],
)
def test_which_errors_are_the_gpus(message: str, lost: bool, blamed: bool) -> None:
    assert (loses_gpu(message), blames_gpu(message)) == (lost, blamed)


def test_workers_have_one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    [outcome] = spread(variable, ["OMP_NUM_THREADS"], print, "threads")
    assert outcome.result == "1"


@pytest.mark.parametrize("name", ["BACKDOOR_DATA", "HF_HUB_OFFLINE"])
def test_workers_have_the_environment_and_the_streams_of_their_caller(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Those of now, whatever they were when the first worker started."""
    for value in "12":
        monkeypatch.setenv(name, value)
        [outcome] = spread(variable, [name], print, "environment")
        assert outcome.result == value
        assert f"{name} is read" in capfd.readouterr().err


def test_an_item_outlives_the_process_that_workers_are_forked_from(tmp_path: Path) -> None:
    if context().get_start_method() == "spawn":
        pytest.skip("workers are spawned here, each on its own")
    [outcome] = spread(lose_the_server, [(tmp_path / "mark", os.getpid())], print, "work")
    assert (outcome.result, outcome.error) == (True, None)


def test_no_more_processes_than_items_or_than_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [processes_for(items) for items in (1, 2, 9)] == [1, 2, 2]
    for value in ("0", "-1", "two", "1.5"):
        monkeypatch.setenv("BACKDOOR_PROCESSES", value)
        with pytest.raises(BadInput, match=f"BACKDOOR_PROCESSES='{value}'.*unset it"):
            processes_for(2)


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _until(what: str, seconds: float, paths: list[Path] | None = None, *pids: int) -> None:
    """Wait until the paths exist and the processes have ended."""
    end = time.monotonic() + seconds
    while not all(p.exists() for p in paths or []) or any(map(_alive, pids)):
        assert time.monotonic() < end, what
        time.sleep(0.05)


def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    with (tmp_path / "errors.txt").open("w") as errors:
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(tmp_path)],
            cwd=Path(__file__).resolve().parents[2],
            stderr=errors,
            start_new_session=True,
        )
    marks = [tmp_path / name for name in "ab"]
    try:
        _until("the workers did not start", 60, marks)
        pids = [int(mark.read_text()) for mark in marks]
        all_pids = [child.pid for child in psutil.Process(parent.pid).children(recursive=True)]
        assert set(pids) < set(all_pids)
        parent.kill()
        parent.wait()
        _until("the workers outlived their parent", 5, None, *pids)
        _until("a process that serves them outlived their parent", 30, None, *all_pids)
    finally:
        if parent.poll() is None:
            os.killpg(parent.pid, signal.SIGKILL)
            parent.wait()
