"""Where a study's artifacts lie: <data>/<profile>/<study>/<artifact>/<key>/<key>."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backdoor_assets.storage.artifact import Artifact, data_root


@dataclass(frozen=True)
class StudyFolder:
    """The folder of one study under one profile."""

    profile: str
    study: str

    @property
    def path(self) -> Path:
        return data_root() / self.profile / self.study

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
