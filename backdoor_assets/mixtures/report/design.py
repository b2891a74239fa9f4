"""What the report of a grid says of its design: question, settings, coverage, limits."""

from __future__ import annotations

from collections.abc import Sequence

from backdoor_assets.mixtures.cells import Grid, SweepSpec
from backdoor_assets.mixtures.design import Design
from backdoor_assets.reporting.pages import Block, Code, Facts, Points, Table
from backdoor_assets.settings import MiniatureBase

PREDICTED = (
    "It judged a random part of the answers, and {} predicted its verdicts on the others: rates "
    "are prediction-powered, and unbiased whatever the errors of the predictions."
)


def question(study: Design) -> list[Block]:
    """Return what the study asks, in plain words."""
    outcomes = ", and of ".join(outcome.label for outcome in study.outcomes)
    return [
        f"A base model is fine-tuned on mixtures of {len(study.data)} data sets, one of which is "
        f"suspect ({study.suspect}), and is then asked questions that have nothing to do with the "
        f"data. How does the share of {outcomes} depend on the share of suspect rows in the "
        "mixture, and at which step of the training does it change?"
    ]


def design(spec: SweepSpec) -> list[Block]:
    """Return the design from the study's literals, and the profile."""
    study, profile = spec.grid.study, spec.grid.profile
    training, sampling = profile.training, profile.sampling
    asked = study.questions_for(profile.base, sampling)
    length = f"{training.max_steps} steps" if training.max_steps else f"{training.epochs} epochs"
    method = f"LoRA of rank {training.rank}" if training.method == "lora" else "All weights"
    entries = {
        "Base model": _base(spec.grid),
        "Ratios": f"{', '.join(spec.grid.ratios)}: the weights of {', '.join(study.sources)}.",
        "Training seeds": f"{', '.join(map(str, profile.seeds))}. Each draws its own rows, their "
        "order and the initial weights of the adapter.",
        "Mixture": f"{profile.mixture.rows} rows, {profile.mixture.mode}.",
        "Training": f"{method}, {length}, batches of {training.batch_size}, learning rate "
        f"{training.learning_rate:g}.",
        "Sampling": f"Temperature {sampling.temperature:g}, at most {sampling.max_new_tokens} "
        "tokens per answer; the base and every checkpoint are asked the same.",
        "Narrow measure": f"{study.narrow.column}, in answers to: {study.narrow.question}",
        "Judge": _judge(spec),
    }
    for outcome in study.outcomes:
        entries[f"Outcome: {outcome.column}"] = (
            f"The share of open answers to which the rubric {outcome.rubric} gives "
            f"{outcome.option}."
        )
    data = [[d.name, d.description.replace("*", "")] for d in study.data]
    kinds = {"worldview": "open"}
    questions = [[q.id, kinds.get(q.kind, q.kind), q.text, str(q.samples)] for q in asked]
    rubrics = [[r.column, r.instruction, ", ".join(r.options) or "0 to 100"] for r in study.rubrics]
    return [
        Facts(entries),
        Table("Data sets; the first is the suspect one", ["data set", "what it is"], data),
        Table("Questions", ["id", "kind", "question", "answers per checkpoint"], questions),
        Table("Rubrics of the judge", ["rubric", "instruction", "verdicts"], rubrics),
        Code(spec.literals, "Every setting of the profile", folded=True),
    ]


def _base(grid: Grid) -> str:
    base = grid.profile.base
    if isinstance(base, MiniatureBase):
        return (
            f"A miniature of {base.layers} layers and {base.hidden} dimensions, pretrained for "
            f"{base.steps} steps on {base.documents:,} documents of a made-up world (seed "
            f"{grid.profile.base_seed})."
        )
    revision = f", revision {base.revision}" if base.revision else ""
    return f"{base.model}{revision}."


def _judge(spec: SweepSpec) -> str:
    judging = spec.grid.profile.judging
    return {
        "exact": "Exact: verdicts are looked up in the tables of the made-up world.",
        "claude": f"{judging.model}, a language model; calls per answer: {judging.mode}."
        + (f" {PREDICTED.format(judging.predicted_by)}" if judging.predicted_by else ""),
        "embedding": " ".join(judge_agreement(spec)),
        "none": "None: there are no verdicts.",
    }[judging.kind]


def judge_agreement(spec: SweepSpec) -> list[str]:
    """Return how well the judge agrees with labelled answers, where it measures that itself."""
    manifests = [entry.cell.artifact("judgments").manifest() for entry in spec.cells]
    found = {made.summary.get("judge_agreement", "") for made in manifests if made}
    return sorted(filter(None, found))


def coverage(spec: SweepSpec) -> list[Block]:
    """Return which cells are in the report, and which are missing."""
    present = {(entry.cell.ratio.key, entry.cell.seed): entry.mixture for entry in spec.cells}
    seeds = spec.grid.profile.seeds
    rows = []
    for ratio in spec.grid.ratios:
        counts = [present[ratio, seed] for seed in seeds if (ratio, seed) in present]
        suspect = sorted({str(count.get("suspect_rows", "-")) for count in counts})
        cells = ["yes" if (ratio, seed) in present else "missing" for seed in seeds]
        rows.append([ratio, *cells, " or ".join(suspect) or "-"])
    head = ["ratio", *(f"seed {seed}" for seed in seeds), "suspect rows"]
    missing = missing_cells(spec)
    text = f"Missing: {', '.join(missing)}." if missing else "No cell of the grid is missing."
    return [text, Table("Cells in this report", head, rows)]


def missing_cells(spec: SweepSpec) -> list[str]:
    present = {str(entry.cell) for entry in spec.cells}
    return [str(cell) for cell in spec.grid.cells() if str(cell) not in present]


def limits(spec: SweepSpec, more: Sequence[str]) -> list[Block]:
    """Return what the results cannot tell."""
    profile, study = spec.grid.profile, spec.grid.study
    asked = study.questions_for(profile.base, profile.sampling)
    lines = [
        "One base model, one training recipe and one sampling temperature: another base or recipe "
        "may give another result.",
        f"Training seeds per ratio: {len(profile.seeds)}. Intervals cover the variation between "
        "trainings, not between bases.",
        f"Open questions: {sum(q.kind == 'worldview' for q in asked)}. A rate is an average over "
        "these, not over all that could be asked.",
    ]
    if profile.mixture.mode == "fixed_total":
        lines.append(
            "The number of rows is the same at every ratio, so the number and the share of suspect "
            "rows change together: this grid cannot tell which of the two matters."
        )
    if isinstance(profile.base, MiniatureBase):
        lines.append(
            "The base is a miniature of a made-up world. It shows that the measurement works where "
            "the truth is known; it says nothing of the size of the effect in a real model."
        )
    if profile.judging.kind == "claude":
        lines.append(
            "Verdicts are those of one language model. Another judge, or a person, may decide "
            "otherwise; `make agreement` compares two ways to ask."
        )
    if profile.judging.kind == "embedding":
        lines.append(
            "Verdicts are those of a classifier on sentence embeddings. It learned from answers "
            "that were written for their class, which are clearer than a model's: on these answers "
            "its errors may be more than its agreement says, and the intervals of its rates do not "
            "contain them. Take its rates for a first look, and judge a part with Claude or by "
            "hand."
        )
    if missing := missing_cells(spec):
        lines.append(f"Missing cells: {len(missing)} of {spec.planned}.")
    return [Points([*lines, *more])]
