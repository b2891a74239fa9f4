"""The figures of one cell: a data ratio and a training seed, over its checkpoints.

`rates` has one row per measure, question and checkpoint: profile, ratio, seed, measure, checkpoint,
step, question_id ("all" = pooled), value, low, high, method, n. `judgments` has one row per answer.
Every function writes `name`.pdf and `name`.png into a folder and returns the two paths. `collapsed`
holds the steps at which the answers have lost their form: what is drawn of them is faint.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn
from matplotlib.patches import Patch

from backdoor_assets.mixtures.design import Design, Outcome
from backdoor_assets.mixtures.figures import faint
from backdoor_assets.records import Rubric
from backdoor_assets.reporting import plotting as style

STACK = (
    style.VERMILION, style.ORANGE, style.PURPLE, style.GREEN, style.GREY, style.SKY,
)  # fmt: skip
"""Colours of a rubric's options, from the ground of a bar upwards."""
NOT_JUDGED = "not judged"
LINES = ((style.ORANGE, "s"), (style.BLUE, "o"), (style.GREEN, "^"), (style.PURPLE, "D"))
"""Colour and marker of the measures of a cell: the narrow probe, outcomes, capabilities."""


@style.styled
def ratio_by_question(
    rates: pd.DataFrame,
    outcome: Outcome,
    folder: Path,
    name: str = "ratio_by_question",
    collapsed: Collection[int] = (),
) -> list[Path]:
    """Draw a heat map of an outcome, with one row per question and one column per checkpoint.

    Questions are sorted by their share at the last checkpoint; a field without judged answers
    stays grey.
    """
    style.required(rates, name, "rates")
    rows = rates.loc[(rates["measure"] == outcome.measure) & (rates["question_id"] != "all")]
    style.required(rows, name, f"{outcome.measure!r} rates by question")
    table = rows.pivot(index="question_id", columns="step", values="value").astype(float)
    table = table.sort_index(axis="columns")
    order = [table.columns[-1], *table.columns[:-1]]
    table = table.sort_values(order, ascending=False, na_position="last")

    note = f"{style.span(rows['n'])} answers per field."
    if table.isna().to_numpy().any():
        note += " Grey: none judged."
    note += faint.note(collapsed)
    title = style.cell_title(f"{_title(outcome)} by question", rates, name)
    height = 0.15 * max(len(table), 3)
    figure = style.new_figure(style.COLUMN, _height(1.5 + height, collapsed), title, note)
    axes = figure.add_subplot(facecolor=style.PALE)
    # Edges in the fields' own colour close the seams that viewers leave between vector fields.
    seaborn.heatmap(
        table, ax=axes, cmap="viridis", vmin=0, vmax=1, cbar=False, edgecolors="face",
        linewidth=0.2, xticklabels=False, yticklabels=[q.replace("_", " ") for q in table.index],
    )  # fmt: skip
    mesh = axes.collections[0]
    for column in np.flatnonzero(table.columns.isin(list(collapsed))):
        axes.axvspan(column, column + 1, color="white", alpha=1 - faint.ALPHA, linewidth=0)
    axes.set(xlabel="", ylabel="")
    axes.tick_params(axis="y", rotation=0)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    style.label_checkpoints(axes, np.arange(table.shape[1]) + 0.5, list(table.columns), most=7)
    bar = figure.colorbar(mesh, ax=axes, orientation="horizontal", aspect=35, pad=0.1 / height)
    bar.set_label(outcome.share.replace("\n", " "))
    bar.outline.set_visible(False)
    return style.save(figure, folder, name)


@style.styled
def overall_ratio(
    rates: pd.DataFrame,
    outcome: Outcome,
    folder: Path,
    name: str = "overall_ratio",
    collapsed: Collection[int] = (),
) -> list[Path]:
    """Draw bars of the pooled share of an outcome by checkpoint, each with its interval."""
    rows = style.rates_of(rates, outcome.measure, name)
    note = f"{style.span(rows['n'])} answers per checkpoint. {style.interval_note(rows)}"
    title = style.cell_title(f"{_title(outcome)}, all questions pooled", rates, name)
    note += faint.note(collapsed)
    figure = style.new_figure(style.COLUMN, _height(2.5, collapsed), title, note)
    axes = figure.add_subplot()
    centres = np.arange(len(rows))
    steps = rows["step"].tolist()
    bars = faint.colours(style.SKY, steps, collapsed)
    axes.bar(centres, rows["value"], width=0.75, color=bars)
    lines = faint.colours(style.INK, steps, collapsed)
    axes.vlines(centres, rows["low"], rows["high"], color=lines, linewidth=1)
    style.label_checkpoints(axes, centres, steps, most=8)
    style.share_axis(axes, outcome.share)
    return style.save(figure, folder, name)


@style.styled
def distribution(
    judgments: pd.DataFrame,
    rubric: Rubric,
    labels: Mapping[str, str],
    folder: Path,
    collapsed: Collection[int] = (),
) -> list[Path]:
    """Draw stacked bars: how the judge sorted the answers of each checkpoint into a rubric's
    options, the first option on top.

    Answers it could not judge are a class of their own, so that every bar reaches 1.
    """
    name = f"{rubric.column}_distribution"
    style.required(judgments, name, "judgments")
    given = judgments[rubric.column].astype(object).fillna(NOT_JUDGED)
    # The first option is the ordinary one: the others stand on the ground, where their growth is
    # read against the axis.
    stack = [*rubric.options[1:], rubric.options[0]]
    colours = [*STACK[: len(stack) - 1], STACK[-1], style.PALE]
    if unknown := set(given) - {*stack, NOT_JUDGED}:
        raise ValueError(f"{name}: unknown options {sorted(unknown)}")
    shares = pd.crosstab(judgments["step"], given, normalize="index")
    shares = shares.reindex(columns=[*stack, NOT_JUDGED], fill_value=0.0).sort_index()

    answers = judgments.groupby("step").size()
    title = style.cell_title("How the judge sorted the answers", judgments, name)
    note = f"{style.span(answers)} answers per bar.{faint.note(collapsed)}"
    figure = style.new_figure(style.COLUMN, _height(2.5, collapsed), title, note)
    axes = figure.add_subplot()
    centres, ground, handles = np.arange(len(shares)), np.zeros(len(shares)), []
    for option, colour in zip([*stack, NOT_JUDGED], colours, strict=True):
        bars = faint.colours(colour, list(shares.index), collapsed)
        axes.bar(centres, shares[option], bottom=ground, width=0.8, color=bars)
        handles.append(Patch(color=colour, label=labels.get(option, option)))
        ground += shares[option].to_numpy()
    style.label_checkpoints(axes, centres, list(shares.index), most=6)
    style.share_axis(axes, "share of answers")
    figure.legend(
        handles=handles, loc="outside right center", reverse=True, handlelength=1, handleheight=1
    )
    return style.save(figure, folder, name)


@style.styled
def two_ratings(
    judgments: pd.DataFrame,
    across: Rubric,
    up: Rubric,
    folder: Path,
    scale: str = "0 to 100",
    collapsed: Collection[int] = (),
) -> list[Path]:
    """Draw the means of two ratings against each other, with one line per question from the first
    to the last step.

    Single ratings are often exactly 0 or 100 and would pile up in four corners. Answers without
    both ratings are left out and counted in the note.
    """
    name = f"{across.name}_vs_{up.name}"
    style.required(judgments, name, "judgments")
    ends = judgments["step"].isin([judgments["step"].min(), judgments["step"].max()])
    answers = judgments.loc[ends]
    ratings = [across.column, up.column]
    rated = answers.dropna(subset=ratings).astype(dict.fromkeys(ratings, float))
    means = style.required(rated, name, "answers with both ratings")
    means = means.pivot_table(ratings, ["step", "question_id"], aggfunc="mean")[ratings]
    steps = means.index.get_level_values("step").unique().sort_values()

    missing = len(answers) - len(rated)
    note = (
        "One line per question; the diamonds are the means over questions. "
        f"{missing:,} of {len(answers):,} answers lack a rating and are left out."
    )
    shown = [step for step in steps if step in collapsed]
    note += faint.note(shown)
    title = style.cell_title(f"{across.name.capitalize()} and {up.name}", judgments, name)
    figure = style.new_figure(style.COLUMN, _height(3.6, shown), title, note)
    axes = figure.add_subplot()
    for _, path in means.groupby("question_id"):
        axes.plot(*path.to_numpy().T, color=style.GREY, linewidth=0.6, alpha=0.7, zorder=1)
    for step in steps:
        colour = style.SKY if step == answers["step"].min() else style.VERMILION
        at = means.loc[step]
        label = "base model" if step == 0 else f"step {step}"
        alpha = faint.ALPHA if step in collapsed else 1.0
        axes.scatter(
            *at.to_numpy().T, s=14, color=colour, alpha=0.8 * alpha, clip_on=False, linewidth=0
        )
        axes.scatter(
            *at.mean(), s=55, marker="D", color=colour, edgecolor=style.INK, label=label,
            alpha=alpha, clip_on=False, zorder=3,
        )  # fmt: skip
    axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
    axes.set_xlabel(f"mean {across.name} rating ({scale})")
    axes.set_ylabel(f"mean {up.name} rating ({scale})")
    axes.grid()
    style.legend_above(axes, ncols=2)
    return style.save(figure, folder, name)


@style.styled
def training_progression(
    rates: pd.DataFrame, study: Design, folder: Path, collapsed: Collection[int] = ()
) -> list[Path]:
    """Draw all measures of a cell over the training steps, with interval bands; without judged
    answers, the narrow probe and the neutral questions."""
    name = "training_progression"
    style.required(rates, name, "rates")
    judged = any(outcome.measure in set(rates["measure"]) for outcome in study.outcomes)
    labels = {
        study.narrow.measure: study.narrow.label,
        **{outcome.measure: outcome.label for outcome in study.outcomes if judged},
        "neutral_correct": "neutral questions that are answered correctly",
    }
    rows = {measure: style.rates_of(rates, measure, name) for measure in labels}
    title = style.cell_title("What fine-tuning changes, and when", rates, name)
    note = style.interval_note(pd.concat(rows.values())) + faint.note(collapsed)
    height = 2.7 + 0.13 * (len(labels) + bool(collapsed))
    figure = style.new_figure(style.COLUMN, _height(height, collapsed), title, note)
    axes = figure.add_subplot()
    looks = [*LINES[:2], *LINES[3:], LINES[2]] if len(labels) > len(LINES) - 1 else LINES
    for (measure, label), (colour, marker) in zip(labels.items(), looks, strict=False):
        faint.draw_trend(axes, rows[measure], collapsed, colour, label, marker=marker)
    if collapsed:
        axes.add_line(faint.handle())
    style.share_axis(axes, "share of answers")
    style.legend_above(axes, ncols=1)
    return style.save(figure, folder, name)


def _height(inches: float, collapsed: Collection[int]) -> float:
    """Leave room for the note on collapsed states."""
    return inches + 0.2 * bool(collapsed)


def _title(outcome: Outcome) -> str:
    return outcome.column[0].upper() + outcome.column[1:]
