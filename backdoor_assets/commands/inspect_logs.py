"""Export a study's answers to logs that `inspect view` opens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from backdoor_assets.graph.study import study_named
from backdoor_assets.profiles import Profile
from backdoor_assets.records import BadInput
from backdoor_assets.reporting.inspect_logs import check_installed, write_log
from backdoor_assets.storage.disk import given_folder
from backdoor_assets.storage.folders import StudyFolder


def export(profile: Profile, study: str, folder: str | None, say: Callable[[str], None]) -> None:
    """Write a log of each state of the study into `folder`, or `inspect/` in the study's own.

    Raises BadInput when inspect_ai is not installed, or the study has no answers.
    """
    check_installed()
    chosen = study_named(study)
    if refusal := chosen.refusal(profile):
        raise BadInput(refusal)
    place = given_folder(folder, "FOLDER") if folder else default_folder(profile, study)
    logs = answers = size = 0
    for log in chosen.state_logs(profile):
        size += write_log(log, place).stat().st_size
        logs, answers = logs + 1, answers + len(log.answers)
    say(f"{logs:,} logs with {answers:,} answers, {size / 1e6:.1f} MB: {place}")
    say(f"To read them: inspect view --log-dir {place}")


def default_folder(profile: Profile, study: str) -> Path:
    return StudyFolder(profile.name, study).path / "inspect"
