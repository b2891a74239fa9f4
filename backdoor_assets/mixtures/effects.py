"""What a grid says: differences from the control and the base, dose-response, and emergence.

Every function takes `cells`, the pooled rates of all cells (RATE_COLUMNS with question_id "all").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from backdoor_assets.mixtures.rates import final_states, state_rate
from backdoor_assets.records import Ratio
from backdoor_assets.statistics import contrasts, doses, emergence
from backdoor_assets.statistics.contrasts import Difference
from backdoor_assets.statistics.doses import DoseResponse
from backdoor_assets.statistics.emergence import Moment, Run

CONTRASTS, DOSES, EMERGENCE = "contrasts.parquet", "doses.parquet", "emergence.parquet"
CONTROL, BASE = "control", "base"
_KEYS = ["profile", "measure", "ratio", "checkpoint", "step"]


def all_contrasts(cells: pd.DataFrame) -> pd.DataFrame:
    """Compare each ratio's last checkpoint with the control's, and each checkpoint with the base.

    The control is the ratio without suspect rows, the first of them if there are several. Columns:
    profile, measure, ratio, checkpoint, step, against ("control" or "base"), value, low, high,
    method, seeds, p, p_holm, detectable. p_holm is adjusted for all ratios that are compared with
    the control, or for all checkpoints of a ratio. A ratio that shares no training seed with the
    control is not compared with it.
    """
    rows = [*_against_base(cells), *_against_control(cells)]
    fields = list(Difference.__dataclass_fields__)
    table = pd.DataFrame(rows, columns=[*_KEYS, "against", *fields])
    family = table["ratio"].where(table["against"] == BASE, CONTROL)
    families = table.groupby(["measure", family], sort=False)["p"]
    table["p_holm"] = families.transform(lambda p: contrasts.holm(p.tolist()))
    return table


def _against_base(cells: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for _, group in cells.groupby(["measure", "ratio"], sort=False):
        base = state_rate(group[group["step"] == 0]) if (group["step"] == 0).any() else None
        seeds = group["seed"].nunique()
        for keys, state in group[group["step"] > 0].groupby(_KEYS, sort=True):
            if base is None or len(state) < seeds:
                continue
            found = contrasts.against_base(state["value"].tolist(), state["n"].tolist(), base)
            yield dict(zip(_KEYS, keys, strict=True)) | {"against": BASE} | asdict(found)


def _against_control(cells: pd.DataFrame) -> Iterator[dict[str, Any]]:
    named = controls(cells["ratio"])
    if not named:
        return
    for _, group in final_states(cells).groupby("measure", sort=False):
        control = group[group["ratio"] == named[0]].set_index("seed")
        for _, rows in group[group["ratio"] != named[0]].groupby("ratio", sort=False):
            own = rows.set_index("seed")
            seeds = [seed for seed in own.index if seed in control.index]
            if not seeds:
                continue
            found = contrasts.against_control(
                own.loc[seeds, "value"].tolist(), own.loc[seeds, "n"].tolist(),
                control.loc[seeds, "value"].tolist(), control.loc[seeds, "n"].tolist(),
            )  # fmt: skip
            yield rows.iloc[0][_KEYS].to_dict() | {"against": CONTROL} | asdict(found)


def controls(ratios: Iterable[str]) -> list[str]:
    """Return the ratios without suspect rows, in their order: the first is the control."""
    return [key for key in dict.fromkeys(ratios) if Ratio.parse(key).suspect_fraction == 0]


def fits(
    final: pd.DataFrame, mixtures: Mapping[tuple[str, int], Mapping], measure: str
) -> dict[str, DoseResponse]:
    """Fit the final rates of a measure (`rates.final_states`) against the dose, by axis: "fraction"
    (the weight of the suspect rows) and "count" (distinct suspect rows, the mean over seeds).

    Ratios with the same dose are one dose, and are averaged within each seed. An axis with fewer
    than three doses, or without an effect, is absent.
    """
    final = final[final["measure"] == measure]
    counts = [
        mixtures[str(ratio), int(seed)]["distinct_suspect_rows"]
        for ratio, seed in zip(final["ratio"], final["seed"], strict=True)
    ]
    final = final.assign(
        fraction=[Ratio.parse(key).suspect_fraction for key in final["ratio"]], rows=counts
    )
    final["count"] = final.groupby("ratio")["rows"].transform("mean").round()
    found = {}
    for axis in ("fraction", "count"):
        by_seed = final.groupby([axis, "seed"]).agg({"value": "mean", "n": "sum"}).reset_index()
        groups = [(float(dose), rows) for dose, rows in by_seed.groupby(axis)]  # type: ignore[arg-type]
        fit = doses.dose_response(
            [dose for dose, _ in groups],
            [rows["value"].tolist() for _, rows in groups],
            [rows["n"].tolist() for _, rows in groups],
        )
        if fit is not None:
            found[axis] = fit
    return found


def dose_table(fits_by_measure: Mapping[str, Mapping[str, DoseResponse]]) -> pd.DataFrame:
    """Return half-effect doses: measure, axis, fit ("monotone" or "curve"), value, low, high."""
    rows = [
        {"measure": measure, "axis": axis, "fit": name, **asdict(half)}
        for measure, by_axis in fits_by_measure.items()
        for axis, fit in by_axis.items()
        for name, half in (("curve", fit.half_curve), ("monotone", fit.half_monotone))
        if half is not None
    ]
    return pd.DataFrame(rows, columns=["measure", "axis", "fit", "value", "low", "high"])


def emergence_table(cells: pd.DataFrame, measures: Sequence[str], narrow: str) -> pd.DataFrame:
    """Return when each measure emerges, by ratio: columns measure, ratio, moment, value, low, high,
    runs, of (see statistics.emergence.Moment).

    `moment` is "onset" (the first step at which the rate leaves the base's), "half" (half of the
    change to the last step), or "lag": half of the change, after that of the narrow behaviour in
    the same run.
    """
    rows: list[dict[str, Any]] = []
    for ratio, of_ratio in cells.groupby("ratio", sort=False):
        halves: dict[str, list[float | None]] = {}
        seeds = sorted(of_ratio["seed"].unique())
        for measure in (narrow, *(name for name in measures if name != narrow)):
            found = of_ratio[of_ratio["measure"] == measure]
            runs = [_run(found[found["seed"] == seed]) for seed in seeds]
            if any(run is None for run in runs):
                continue
            whole = [run for run in runs if run is not None]
            halves[measure] = [emergence.half_rise(run) for run in whole]
            moments = {
                "onset": emergence.over_runs([emergence.onset(run) for run in whole]),
                "half": emergence.over_runs(halves[measure]),
            }
            if measure != narrow and narrow in halves:
                moments["lag"] = emergence.lag(halves[measure], halves[narrow])
            rows += [
                {"measure": measure, "ratio": ratio, "moment": name, **asdict(moment)}
                for name, moment in moments.items()
            ]
    columns = ["measure", "ratio", "moment", *Moment.__dataclass_fields__]
    return pd.DataFrame(rows, columns=columns).astype(
        dict.fromkeys(("value", "low", "high"), float)
    )


def _run(rows: pd.DataFrame) -> Run | None:
    """Return a training run's states in the order of the steps; None without base or checkpoint."""
    rows = rows.sort_values("step")
    if len(rows) < 2 or rows["step"].iloc[0] != 0:
        return None
    return Run(rows["step"].tolist(), rows["value"].tolist(), rows["n"].tolist())
