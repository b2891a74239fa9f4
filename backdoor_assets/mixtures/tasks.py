"""From a cell to the tasks of its artifacts: what identifies each result, what its stage gets.

An identity holds what decides a result: settings, code version, inputs. Where a manifest is
`recorded`, an input that was made and left on another machine is what that manifest says.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from backdoor_assets.graph.identities import generation, hyperparameters
from backdoor_assets.graph.judging import judging_task
from backdoor_assets.mixtures.cells import BaseCell, Cell, Grid, MixingSpec, rubric_records
from backdoor_assets.mixtures.judging.judges import open_judge
from backdoor_assets.mixtures.judging.prediction import prediction
from backdoor_assets.mixtures.mixing import check_held_out, check_no_evaluation_text
from backdoor_assets.records import BadInput, Question
from backdoor_assets.stages import CODE_VERSIONS
from backdoor_assets.stages.judging.specs import JudgingSpec
from backdoor_assets.stages.specs import (
    HELD_OUT,
    RESPONSES,
    TRAIN,
    EarlierAnswers,
    SamplingSpec,
    TrainingSpec,
)
from backdoor_assets.storage.artifact import Artifact
from backdoor_assets.storage.hashing import identifying, text_hash
from backdoor_assets.storage.identity import changes, essential, same
from backdoor_assets.workers.tasks import Task

Identity = dict[str, Any]
KEPT_CHECKPOINTS = frozenset({"settings.save_steps", "settings.save_at"})
"""Keys of a training's identity that say which checkpoints are kept."""
Recorded = Mapping[str, Any] | None


def base_sampling_identity(cell: BaseCell, recorded: Recorded = None) -> Identity:
    grid = cell.grid
    return {
        **stage_identity("sampling", cell),
        "base": grid.base.identity(recorded),
        "questions": _questions(grid),
        "settings": generation(grid.profile.sampling),
    }


def base_sampling(grid: Grid) -> Task[SamplingSpec]:
    cell = BaseCell(grid)
    identity, place = base_sampling_identity(cell), cell.artifact()
    spec = SamplingSpec(
        cell,
        grid.base.location(),
        (),
        _asked(grid),
        grid.profile.sampling,
        grid.profile.serving,
        earlier=_earlier_answers(place, identity),
        probes=_probes(grid),
    )
    return Task(place, identity, spec)


def mixing_identity(cell: Cell, recorded: Recorded = None) -> Identity:
    return {
        **stage_identity("mixing", cell),
        "sources": {source: text_hash(path) for source, path in cell.grid.source_files()},
        "mixture": identifying(cell.grid.profile.mixture),
    }


def mixing(cell: Cell) -> Task[MixingSpec]:
    files, study = cell.grid.source_files(), cell.grid.study
    for _, path in files:
        check_no_evaluation_text(path, study.forbidden(cell.grid.profile.base))
    check_held_out(files, cell.grid.profile.mixture)
    spec = MixingSpec(cell, files, cell.grid.profile.mixture)
    return Task(cell.artifact("mixed_dataset"), mixing_identity(cell), spec)


def training_identity(cell: Cell, recorded: Recorded = None) -> Identity:
    mixture = cell.artifact("mixed_dataset")
    if recorded is not None and mixture.manifest() is None:
        rows = recorded.get("rows")
    else:
        # Of the file as it is now: rows that were edited by hand are trained on.
        mixture.require(edited=True)
        rows = text_hash(mixture.folder / TRAIN)
    return {
        **stage_identity("training", cell),
        "base": cell.grid.base.identity(recorded),
        "rows": rows,
        "settings": hyperparameters(cell.grid.profile.training, cell.grid.profile.processes),
    }


def training(cell: Cell) -> Task[TrainingSpec]:
    identity = training_identity(cell)
    mixture = cell.artifact("mixed_dataset")
    rows = mixture.folder / TRAIN
    check_no_evaluation_text(rows, cell.grid.study.forbidden(cell.grid.profile.base))
    place = cell.artifact("adapters")
    before, earlier = place.manifest(), None
    if before and not place.remake_requested and not place.damage(before):
        changed = set(changes(before.identity, identity))
        earlier = place.folder if changed and changed <= KEPT_CHECKPOINTS else None
    held_out = mixture.folder / HELD_OUT if cell.grid.profile.mixture.held_out else None
    spec = TrainingSpec(
        cell,
        rows,
        cell.grid.base.location(),
        cell.grid.profile.training,
        processes=cell.grid.profile.processes,
        earlier=earlier,
        held_out=held_out,
        mixture=mixture.require(edited=True).summary,
    )
    return Task(place, identity, spec)


def sampling_identity(cell: Cell, recorded: Recorded = None) -> Identity:
    adapters, grid = cell.artifact("adapters"), cell.grid
    base_answers = BaseCell(grid).artifact()
    elsewhere = recorded or {}
    left = recorded is not None and adapters.manifest() is None
    base_left = recorded is not None and base_answers.manifest() is None
    return {
        **stage_identity("sampling", cell),
        "base": grid.base.identity(recorded),
        "base_answers": elsewhere.get("base_answers")
        if base_left
        else base_answers.require().reference(),
        "checkpoints": elsewhere.get("checkpoints") if left else _checkpoints(adapters),
        "questions": _questions(grid),
        "settings": generation(grid.profile.sampling),
    }


def sampling(cell: Cell) -> Task[SamplingSpec]:
    grid, adapters = cell.grid, cell.artifact("adapters")
    identity, place = sampling_identity(cell), cell.artifact("responses")
    if adapters.require().identity["base"] != identity["base"]:
        raise BadInput(
            f"{adapters.folder}: trained on another base model than the present one; materialize "
            f"{grid.study.name}/adapters for this cell again"
        )
    base_answers = BaseCell(grid).artifact()
    if not same(base_answers.require().identity, base_sampling_identity(BaseCell(grid))):
        raise BadInput(
            f"{base_answers.folder}: these answers of the base are not those that the profile asks "
            f"for now; materialize {grid.study.name}/base_responses first"
        )
    steps = sorted(map(int, identity["checkpoints"]))
    spec = SamplingSpec(
        cell,
        grid.base.location(),
        tuple((step, adapters.folder / f"checkpoint-{step}") for step in steps),
        _asked(grid),
        grid.profile.sampling,
        grid.profile.serving,
        base_too=False,
        base_answers=base_answers.folder,
        earlier=_earlier_answers(place, identity, adapters),
        probes=_probes(grid),
    )
    return Task(place, identity, spec)


def judging_identity(cell: Cell, recorded: Recorded = None) -> Identity:
    predicted = prediction(cell.grid)
    part = predicted and {
        "judge": predicted.open_judge().identity,
        "half_width": predicted.half_width,
    }
    return {
        **stage_identity("judging", cell),
        "responses": cell.artifact("responses").require().reference(),
        "rubrics": rubric_records(cell.grid.study.rubrics),
        "outcomes": [
            [outcome.measure, outcome.rubric, outcome.option, outcome.flag]
            for outcome in cell.grid.study.outcomes
        ],
        "judge": open_judge(cell.grid).identity,
        **({"prediction": part} if part else {}),
    }


def judging(cell: Cell) -> Task[JudgingSpec]:
    grid = cell.grid
    spec = JudgingSpec(
        cell,
        cell.artifact("responses").folder / RESPONSES,
        grid.study.rubrics,
        grid.study.outcomes,
        grid.profile.judging.max_unreadable,
        partial(open_judge, grid),
        prediction(grid),
    )
    return judging_task(cell.artifact("judgments"), judging_identity(cell), spec)


def stage_identity(name: str, cell: Cell | BaseCell, code: Any = None) -> Identity:
    """Return what every identity begins with: the stage, its code version and the cell."""
    return {"stage": name, "code": code or CODE_VERSIONS[name], **cell.columns()}


def _asked(grid: Grid) -> tuple[Question, ...]:
    return grid.study.questions_for(grid.profile.base, grid.profile.sampling)


def _questions(grid: Grid) -> list[Identity]:
    return [identifying(question) for question in _asked(grid)]


def _probes(grid: Grid) -> tuple[str, ...]:
    return grid.study.narrow.kind, "neutral"


def _checkpoints(adapters: Artifact) -> dict[str, str]:
    """Content of each checkpoint, by step."""
    folders = adapters.require().folders().items()
    return {
        name.removeprefix("checkpoint-"): content
        for name, content in folders
        if name.startswith("checkpoint-")
    }


def _earlier_answers(
    place: Artifact, identity: Identity, adapters: Artifact | None = None
) -> EarlierAnswers | None:
    """Answers of the artifact that is to be extended: those of states and questions that have not
    changed, sampled with the same settings."""
    before = place.manifest()
    if before is None or place.remake_requested or place.damage(before):
        return None
    old = essential(before.identity)
    if any(old.get(key) != identity[key] for key in ("code", "base", "settings")):
        return None
    steps = {0} if adapters is None else _unchanged_steps(old, identity, adapters)
    samples = {"samples": None}
    unchanged = [{**question, **samples} for question in old["questions"]]
    questions = {q["id"] for q in identity["questions"] if {**_as_json(q), **samples} in unchanged}
    return EarlierAnswers(place.folder, frozenset(steps), frozenset(questions))


def _unchanged_steps(old: Identity, identity: Identity, adapters: Artifact) -> set[int]:
    if "adapters" in old:  # written before checkpoints were told apart
        unchanged = old["adapters"] == adapters.require().reference()
        return set(map(int, identity["checkpoints"])) if unchanged else set()
    known = old.get("checkpoints", {}).items()
    return {
        int(step) for step, content in identity["checkpoints"].items() if (step, content) in known
    }


def _as_json(value: Any) -> Any:
    """A value as it reads in a manifest."""
    return essential({"value": value})["value"]
