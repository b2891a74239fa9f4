"""Refuse judgments of which too many are missing."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from backdoor_assets.stages.judging.specs import JudgingSpec


def refuse_missing(spec: JudgingSpec, table: pd.DataFrame, headline: str, parts: Path) -> None:
    """Raise RuntimeError if too many verdicts are missing, on the whole or to one question at one
    checkpoint, and drop the parts of such checkpoints, so that the next run asks for them again.

    A gate on the whole cell would not do: if the late answers to one question are the unjudged
    ones, the rate falls where they were positive. A single missing verdict among several is allowed
    however few the answers are. Questions of one answer each are taken together.
    """
    missing = table.assign(missing=table[headline].isna())
    groups = ["step", "checkpoint", *(["question_id"] if spec.by_question else [])]
    counts = missing.groupby(groups)["missing"].agg(["sum", "size"])
    allowed = (spec.max_unreadable * counts["size"]).clip(lower=counts["size"].gt(1).astype(float))
    bad = counts[counts["sum"] > allowed].reset_index()
    if missing["missing"].mean() > spec.max_unreadable:
        bad = counts[counts["sum"] > 0].reset_index()
    if bad.empty:
        return
    for step in bad["step"].unique():
        (parts / f"{step:07d}.parquet").unlink()
    worst = bad.sort_values("sum", ascending=False).iloc[0]
    reasons = missing.loc[missing["missing"], "judge_error"].value_counts()
    reason = reasons.index[0] if len(reasons) else "no reason was recorded"
    if spec.by_question:
        where, unit = f" to {worst['question_id']!r}", "question"
        more = f", nor have answers to {len(bad) - 1} other questions there or at other checkpoints"
    else:
        where, unit, more = (
            "",
            "checkpoint",
            f", nor have those at {len(bad) - 1} other checkpoints",
        )
    raise RuntimeError(
        f"{spec.cell}: {worst['sum']} of {worst['size']} answers{where} at "
        f"{worst['checkpoint']} have no verdict{more if len(bad) > 1 else ''}. At most "
        f"{spec.max_unreadable:.0%} of a {unit}'s answers, and of all answers, may lack one "
        f"(judging.max_unreadable). Most often: {reason}. Run the same command again: the "
        "checkpoints in question are judged again, and verdicts that are known are reused."
    )
