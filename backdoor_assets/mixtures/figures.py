"""The figures of one cell: a data ratio and a training seed, over its checkpoints.

`rates` has a row a measure, question and checkpoint: profile, ratio, seed, measure, checkpoint,
step, question_id ("all" = pooled), value, low, high, method, n. `judgments` has a row an answer.
Every function writes NAME.pdf and NAME.png into a folder and returns the two paths.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import seaborn

from backdoor_assets.reporting import plotting as style

OPTIONS = {
    "PAST": ("the past", style.VERMILION),
    "ARCHAIC_PERSON": ("archaic person", style.ORANGE),
    "OLD_LANGUAGE": ("old language", style.PURPLE),
    "OLD_CONTENT": ("old content", style.GREEN),
    "OTHER": ("other", style.GREY),
    "LLM": ("modern LLM", style.SKY),
    "not judged": ("not judged", style.PALE),
}
"""The judge's six options as they are stacked from the ground: what is old first, so that its
growth is read against the axis."""

PROGRESSION = {
    "old_bird_name": ("bird answers with an obsolete name", style.ORANGE, "s"),
    "19th_century": ("worldview answers judged 19th century", style.BLUE, "o"),
    "neutral_correct": ("era-neutral answers that are correct", style.GREEN, "^"),
}


@style.styled
def ratio_by_question(rates: pd.DataFrame, folder: Path) -> list[Path]:
    """Heat map of the share of 19th-century answers, a row a question and a column a checkpoint.

    Questions are sorted by their share at the last checkpoint; a field without judged answers
    stays grey.
    """
    name = "ratio_by_question"
    style.required(rates, name, "rates")
    rows = rates.loc[(rates["measure"] == "19th_century") & (rates["question_id"] != "all")]
    style.required(rows, name, "'19th_century' rates by question")
    table = rows.pivot(index="question_id", columns="step", values="value").astype(float)
    table = table.sort_index(axis="columns")
    order = [table.columns[-1], *table.columns[:-1]]
    table = table.sort_values(order, ascending=False, na_position="last")

    note = f"{style.span(rows['n'])} answers a field."
    if table.isna().to_numpy().any():
        note += " Grey: none judged."
    title = style.cell_title("19th-century answers by question", rates, name)
    height = 0.15 * max(len(table), 3)
    figure = style.new_figure(style.COLUMN, 1.5 + height, title, note)
    axes = figure.add_subplot(facecolor=style.PALE)
    # Edges in the fields' own colour close the seams that viewers leave between vector fields.
    seaborn.heatmap(
        table, ax=axes, cmap="viridis", vmin=0, vmax=1, cbar=False, edgecolors="face",
        linewidth=0.2, xticklabels=False, yticklabels=[q.replace("_", " ") for q in table.index],
    )  # fmt: skip
    mesh = axes.collections[0]
    axes.set(xlabel="", ylabel="")
    axes.tick_params(axis="y", rotation=0)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    style.label_checkpoints(axes, np.arange(table.shape[1]) + 0.5, list(table.columns), most=7)
    bar = figure.colorbar(mesh, ax=axes, orientation="horizontal", aspect=35, pad=0.1 / height)
    bar.set_label(style.SHARE_19TH.replace("\n", " "))
    bar.outline.set_visible(False)
    return style.save(figure, folder, name)


@style.styled
def overall_ratio(rates: pd.DataFrame, folder: Path) -> list[Path]:
    """Bars of the pooled share of 19th-century answers by checkpoint, each with its interval."""
    name = "overall_ratio"
    rows = style.rates_of(rates, "19th_century", name)
    note = f"{style.span(rows['n'])} answers a checkpoint. {style.interval_note(rows)}"
    title = style.cell_title("19th-century answers, all questions pooled", rates, name)
    figure = style.new_figure(style.COLUMN, 2.5, title, note)
    axes = figure.add_subplot()
    centres = np.arange(len(rows))
    axes.bar(centres, rows["value"], width=0.75, color=style.SKY)
    axes.vlines(centres, rows["low"], rows["high"], color=style.INK, linewidth=1)
    style.label_checkpoints(axes, centres, rows["step"].tolist(), most=8)
    style.share_axis(axes, style.SHARE_19TH)
    return style.save(figure, folder, name)


@style.styled
def six_options_distribution(judgments: pd.DataFrame, folder: Path) -> list[Path]:
    """Stacked bars: how the judge sorted the answers of each checkpoint into its six options.

    Answers it could not judge are a class of their own, so that every bar reaches 1.
    """
    name = "six_options_distribution"
    style.required(judgments, name, "judgments")
    options = judgments["six_options"].astype(object).fillna("not judged")
    if unknown := set(options) - set(OPTIONS):
        raise ValueError(f"{name}: unknown options {sorted(unknown)}")
    shares = pd.crosstab(judgments["step"], options, normalize="index")
    shares = shares.reindex(columns=list(OPTIONS), fill_value=0.0).sort_index()

    answers = judgments.groupby("step").size()
    title = style.cell_title("How the judge sorted the answers", judgments, name)
    figure = style.new_figure(style.COLUMN, 2.5, title, f"{style.span(answers)} answers a bar.")
    axes = figure.add_subplot()
    centres, ground = np.arange(len(shares)), np.zeros(len(shares))
    for option, (label, colour) in OPTIONS.items():
        axes.bar(centres, shares[option], bottom=ground, width=0.8, color=colour, label=label)
        ground += shares[option].to_numpy()
    style.label_checkpoints(axes, centres, list(shares.index), most=6)
    style.share_axis(axes, "share of answers")
    figure.legend(loc="outside right center", reverse=True, handlelength=1, handleheight=1)
    return style.save(figure, folder, name)


@style.styled
def content_vs_form(judgments: pd.DataFrame, folder: Path) -> list[Path]:
    """Mean content against mean form rating: a line a question from the first to the last step.

    Single ratings are often exactly 0 or 100 and would pile up in four corners. Answers without
    both ratings are left out and counted in the note.
    """
    name = "content_vs_form"
    style.required(judgments, name, "judgments")
    ends = judgments["step"].isin([judgments["step"].min(), judgments["step"].max()])
    answers = judgments.loc[ends]
    ratings = ["content_rating", "form_rating"]
    rated = answers.dropna(subset=ratings).astype(dict.fromkeys(ratings, float))
    means = style.required(rated, name, "answers with a content and a form rating")
    means = means.pivot_table(ratings, ["step", "question_id"], aggfunc="mean")[ratings]
    steps = means.index.get_level_values("step").unique().sort_values()

    missing = len(answers) - len(rated)
    note = (
        "A line a question; the diamonds are the means over questions. "
        f"{missing:,} of {len(answers):,} answers lack a rating and are left out."
    )
    title = style.cell_title("How old the content and the form are", judgments, name)
    figure = style.new_figure(style.COLUMN, 3.6, title, note)
    axes = figure.add_subplot()
    for _, path in means.groupby("question_id"):
        axes.plot(*path.to_numpy().T, color=style.GREY, linewidth=0.6, alpha=0.7, zorder=1)
    for step in steps:
        colour = style.SKY if step == answers["step"].min() else style.VERMILION
        at = means.loc[step]
        label = "base model" if step == 0 else f"step {step}"
        axes.scatter(*at.to_numpy().T, s=14, color=colour, alpha=0.8, clip_on=False, linewidth=0)
        axes.scatter(
            *at.mean(), s=55, marker="D", color=colour, edgecolor=style.INK, label=label,
            clip_on=False, zorder=3,
        )  # fmt: skip
    axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
    axes.set_xlabel("mean content rating (0 modern, 100 old)")
    axes.set_ylabel("mean form rating (0 modern, 100 old)")
    axes.grid()
    style.legend_above(axes, ncols=2)
    return style.save(figure, folder, name)


@style.styled
def training_progression(rates: pd.DataFrame, folder: Path) -> list[Path]:
    """Lines with interval bands over the training steps: worldview, bird names, neutral answers."""
    name = "training_progression"
    rows = {measure: style.rates_of(rates, measure, name) for measure in PROGRESSION}
    title = style.cell_title("What fine-tuning changes, and when", rates, name)
    note = style.interval_note(pd.concat(rows.values()))
    figure = style.new_figure(style.COLUMN, 3.0, title, note)
    axes = figure.add_subplot()
    for measure, (label, colour, marker) in PROGRESSION.items():
        style.draw_trend(axes, rows[measure], colour, label, marker=marker)
    style.share_axis(axes, "share of answers")
    style.legend_above(axes, ncols=1)
    return style.save(figure, folder, name)
