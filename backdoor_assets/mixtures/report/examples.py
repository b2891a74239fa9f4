"""Example answers of a grid, side by side for the base and some checkpoints: a stated selection."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from backdoor_assets.mixtures.cells import Cell, SweepSpec
from backdoor_assets.mixtures.design import Design
from backdoor_assets.reporting.answers import ALL, CUT, Answers, cut, size
from backdoor_assets.stages.judging.specs import JUDGMENTS
from backdoor_assets.stages.specs import RESPONSES

PER_QUESTION = 3
"""Answers to each question at each ratio."""
CHECKPOINTS = 3
"""Besides the base: the first, the last, and those between at equal distances."""
NO_VERDICT = "no verdict"
STATES = "base", "step ", "checkpoint "
"""How the columns of states begin."""


def example_answers(spec: SweepSpec) -> Answers | None:
    """Return the first answers to each question of the first training seed of each ratio, with the
    verdicts of the outcomes' rubrics; None where the answers are not on this machine."""
    judged = spec.grid.judged
    tables = [
        _chosen(path, judged, spec.grid.study)
        for cell in _first_cells(spec)
        if (path := _answers_of(cell, judged)).exists()
    ]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    if table.empty:
        return None
    kept = PER_QUESTION
    while kept > 1 and size(table.loc[table["sample_idx"] < kept, "text"]) > ALL:
        kept -= 1
    table = table[table["sample_idx"] < kept]
    frame = _side_by_side(table, judged)
    states = [name for name in frame.columns if name.startswith(STATES)]
    seeds = ", ".join(map(str, sorted({int(seed) for seed in table["seed"]})))
    notes = [
        "The buttons beside the headings sort the rows, and choose questions, ratios and verdicts.",
        f"Selection: the first {kept} of the answers that were sampled to each open question at "
        f"each ratio, of one training seed per ratio ({seeds}); nothing else decides which are "
        "shown. The base's answers are the same at every ratio.",
        CUT,
    ]
    filters = ["question", "ratio"]
    if judged:
        notes.insert(0, "The first line of each answer, in bold, is its verdict.")
        filters.append(_verdicts(states))
    return Answers("Example answers by question", frame, filters, states, judged, notes)


def _first_cells(spec: SweepSpec) -> list[Cell]:
    """The finished cell of each ratio that comes first in the order of the profile's seeds."""
    cells = [entry.cell for entry in spec.cells]
    order = {seed: number for number, seed in enumerate(spec.grid.profile.seeds)}
    first: dict[str, Cell] = {}
    for cell in sorted(cells, key=lambda cell: order.get(cell.seed, len(order))):
        first.setdefault(cell.ratio.key, cell)
    return [first[ratio] for ratio in spec.grid.ratios if ratio in first]


def _answers_of(cell: Cell, judged: bool) -> Path:
    asset, name = ("judgments", JUDGMENTS) if judged else ("responses", RESPONSES)
    return cell.artifact(asset).folder / name


def _chosen(path: Path, judged: bool, study: Design) -> pd.DataFrame:
    """Return the answers of a cell to show, with their text in `text` and verdict in `verdict`."""
    rubrics = list(dict.fromkeys(outcome.rubric for outcome in study.outcomes)) if judged else []
    columns = ["ratio", "seed", "step", "question", "sample_idx", "response", *rubrics]
    table = pd.read_parquet(path, columns=columns, filters=[("sample_idx", "<", PER_QUESTION)])
    table = table[table["step"].isin(_spread(sorted(table["step"].unique())))].copy()
    table["text"] = cut(table["response"])
    labels = {**study.option_labels} if judged else {}
    table["verdict"] = ""
    for rubric in rubrics:
        named = table[rubric].map(lambda value: _label(value, labels))
        table["verdict"] = named if rubric == rubrics[0] else table["verdict"] + ", " + named
    return table


def _label(value: object, labels: dict[str, str]) -> str:
    return NO_VERDICT if pd.isna(value) else labels.get(str(value), str(value))  # type: ignore[arg-type]


def _spread(steps: Sequence[int]) -> list[int]:
    """The base and at most CHECKPOINTS others, with the first and the last among them."""
    base, saved = steps[:1], steps[1:]
    if len(saved) <= CHECKPOINTS:
        return [*base, *saved]
    last = len(saved) - 1
    return [*base, *(saved[round(i * last / (CHECKPOINTS - 1))] for i in range(CHECKPOINTS))]


def _side_by_side(table: pd.DataFrame, judged: bool) -> pd.DataFrame:
    """Return a row per question, ratio and sample, with a column per state."""
    states = _names(table)
    names = list(dict.fromkeys(states.iloc[table["step"].argsort()]))
    shown = table["verdict"] + "\n" + table["text"] if judged else table["text"]
    keys = ["question", "ratio", "sample_idx"]
    cells = table[keys].assign(state=states, shown=shown)
    order = {name: cells[name].drop_duplicates().tolist() for name in ("question", "ratio")}
    wide = cells.set_index([*keys, "state"])["shown"].unstack("state").reset_index()
    wide = wide[[*keys, *names]].fillna("-").rename_axis(columns=None)
    rank = [wide[name].map(order[name].index) for name in ("question", "ratio")]
    wide = wide.iloc[pd.MultiIndex.from_arrays([*rank, wide["sample_idx"]]).argsort()]
    if judged:
        first, last = (wide[state].str.split("\n").str[0] for state in (names[0], names[-1]))
        wide.insert(3, _verdicts(names), first + " → " + last)
    return wide.rename(columns={"sample_idx": "sample"}).reset_index(drop=True)


def _names(table: pd.DataFrame) -> pd.Series:
    """Name the state of each row: by its step, or by its place among the ratio's checkpoints where
    ratios have different steps."""
    steps = table.groupby("ratio")["step"].agg(lambda steps: tuple(sorted(set(steps))))
    if steps.nunique() == 1:
        return table["step"].map(lambda step: "base" if step == 0 else f"step {step}")
    place = table.groupby("ratio")["step"].rank(method="dense").astype(int) - 1
    return place.map(lambda at: "base" if at == 0 else f"checkpoint {at}")


def _verdicts(states: Sequence[str]) -> str:
    return f"verdict, {states[0]} → {states[-1]}"
