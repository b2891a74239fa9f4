"""Where a study's artifacts lie: <data>/<profile>/<study>/<artifact>/<key>/<key>."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from backdoor_assets.storage.artifact import Artifact, data_root
from backdoor_assets.storage.disk import given_folder

VERDICTS = "BACKDOOR_VERDICTS"


@dataclass(frozen=True)
class StudyFolder:
    """The folder of one study under one profile."""

    profile: str
    study: str

    @property
    def path(self) -> Path:
        return data_root() / self.profile / self.study

    @property
    def verdicts(self) -> Path:
        """Where verdicts that were paid for are kept, for all cells: in BACKDOOR_VERDICTS, if it is
        set."""
        if local := os.environ.get(VERDICTS):
            return given_folder(local, VERDICTS) / self.profile / self.study
        return self.path / "verdicts"

    def artifact(
        self,
        name: str,
        *keys: str | int,
        volatile: frozenset[str] = frozenset(),
        scratch: tuple[str, ...] = (),
    ) -> Artifact:
        """Return an artifact by its name and the keys of its cell, if it has one."""
        folder = self.path.joinpath(name, *map(str, keys))
        return Artifact(self.profile, folder, volatile, scratch)
