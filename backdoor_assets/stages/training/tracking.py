"""Show a training in Weights & Biases. A failure there is a warning, never an error of the cell.

It is on where WANDB_API_KEY is set, or WANDB_MODE is ("offline" writes to this machine only), and
off where WANDB_MODE is "disabled". WANDB_PROJECT, WANDB_ENTITY and WANDB_DIR mean what they mean to
wandb itself.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backdoor_assets.credentials import check_keys, told
from backdoor_assets.records import BadInput
from backdoor_assets.stages.specs import TrainingSpec
from backdoor_assets.storage.artifact import Artifact
from backdoor_assets.storage.disk import write_text

_log = logging.getLogger(__name__)

PROJECT = "backdoor_assets"
"""Where WANDB_PROJECT names none."""
RUN_FILE = ".wandb_run"
"""Id of the run, in the folder of a training that is not finished. A training that was killed finds
it and continues its run; one that is made again from the start gets a new run."""
RUN_KEY = "wandb_run"
"""The id in the summary of a finished training."""
RETRY_SECONDS = 600.0
"""After a failed start, cells of this process do not try again for so long: each try may take as
long as the timeout."""
SETTINGS = {
    "init_timeout": 30,
    "finish_timeout": 60,
    "finish_timeout_raises": True,
    "console": "off",
    "silent": True,
}
"""Of wandb. By default it waits without end for an upload, copies this process's output to its
server, and prints lines of its own."""

_retry_at = 0.0


class Tracker:
    """The run of one training, or nothing where W&B is off or has failed."""

    def __init__(self) -> None:
        self.run: Any = None
        self.first = 0

    @classmethod
    def start(
        cls, spec: TrainingSpec, folder: Path, steps: int, log: list[dict[str, float]]
    ) -> Tracker:
        """Start a run, or continue that of a killed training in `folder`.

        `log` holds the steps that are done: those that the run lacks are sent first.
        """
        tracker = cls()
        if not _wanted():
            return tracker
        settings: Any = spec.settings
        config = {
            **spec.cell.columns(),
            "base": asdict(spec.base),
            "mixture": dict(spec.mixture),
            **asdict(settings),
            "steps": steps,
        }
        given = {"name": str(spec.cell), "group": spec.cell.profile, "config": config}
        tracker.run = _init(lambda: _run_id(folder), **given)
        tracker._try(tracker._continue)
        for entry in log:
            tracker.log(entry)
        return tracker

    def _continue(self) -> None:
        self.first = self.run.step
        if not self.run.offline:
            _log.info(f"Weights & Biases: {self.run.url}")

    def log(self, entry: Mapping[str, float]) -> None:
        """Send the log's entry of a step, unless the run has it."""
        if entry["step"] >= self.first:
            self._try(lambda: self.run.log(dict(entry), step=int(entry["step"])))

    def finish(self, *, failed: bool) -> dict[str, str]:
        """End the run, and return the part of the training's summary that names it."""
        named = {RUN_KEY: self.run.id} if self.run is not None else {}
        self._try(lambda: self.run.finish(exit_code=int(failed)))
        self.run = None
        return named

    def _try(self, call: Callable[[], None]) -> None:
        if self.run is not None:
            try:
                call()
            except (Exception, SystemExit) as error:  # noqa: BLE001  wandb may raise anything
                self.run = None
                _warn(error)


def log_final_rates(adapters: Artifact, rates: Mapping[str, Any]) -> None:
    """Write a cell's final rates into the summary of its training's run.

    `rates` holds a mapping with value, low and high, or more, by measure; other entries are left
    out. They become `final/<measure>/value` and so on. Does nothing where W&B is off or had no run
    of this training.
    """
    if not _wanted():
        return
    trained = adapters.manifest()
    run_id = trained.summary.get(RUN_KEY) if trained else None
    if run_id is None:
        return
    tracker = Tracker()
    tracker.run = _init(lambda: run_id)
    found = {
        f"final/{measure}/{name}": value
        for measure, rate in rates.items()
        if isinstance(rate, Mapping)
        for name, value in rate.items()
    }
    tracker._try(lambda: tracker.run.summary.update(found))
    tracker.finish(failed=False)


def _wanted() -> bool:
    mode = os.environ.get("WANDB_MODE")
    return mode != "disabled" and bool(mode or os.environ.get("WANDB_API_KEY"))


def _init(run_id: Callable[[], str], **given: Any) -> Any:
    """Start or continue a run; return None, with a warning, if that fails."""
    global _retry_at
    if time.monotonic() < _retry_at:
        return None
    try:
        check_keys()
        try:
            import wandb
        except ImportError:
            raise BadInput("wandb is not installed: pip install -e '.[wandb]'") from None
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            entity=os.environ.get("WANDB_ENTITY") or None,
            id=run_id(),
            resume="allow",
            reinit="create_new",  # Else it is the run before, if that could not be finished.
            settings=SETTINGS,
            **given,
        )
    except (Exception, SystemExit) as error:  # noqa: BLE001  wandb may raise anything
        _retry_at = time.monotonic() + RETRY_SECONDS
        _warn(error)
        return None


def _run_id(folder: Path) -> str:
    file = folder / RUN_FILE
    if not file.exists():
        write_text(file, uuid.uuid4().hex)
    return file.read_text(encoding="utf-8")


def _warn(error: BaseException) -> None:
    """Say in one line, without secrets, that W&B is left out: a server's reply, which may repeat
    the key, is part of its errors."""
    reason = str(error) if isinstance(error, BadInput) else told(error)
    _log.warning(
        f"Weights & Biases failed ({reason}); training goes on without it. Check WANDB_API_KEY and "
        "the network, set WANDB_MODE=offline to log to this machine, or WANDB_MODE=disabled."
    )
