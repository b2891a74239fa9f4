"""Trainer, Sampler and Judge as Dagster resources: where the graph meets the stages.

They take lists of cells, reuse what is finished, and give the rest to worker processes, in which
torch, transformers and matplotlib are imported, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import dagster as dg

from backdoor_assets.jobs import JudgingJob, PretrainingJob, SamplingJob, TrainingJob
from backdoor_assets.records import BadInput, Progress, no_progress
from backdoor_assets.storage import Artifact, Made
from backdoor_assets.workers import Outcome, spread

if TYPE_CHECKING:
    from backdoor_assets.stages.judging import Judge

Job = TypeVar("Job")
Log = Callable[[str], None]
StageWork = Callable[[Any, Path, Progress], dict[str, Any]]


@dataclass(frozen=True)
class Order(Generic[Job]):
    """An artifact that is wanted: where, of what identity, and the stage's job that makes it."""

    artifact: Artifact
    identity: dict[str, Any]
    job: Job
    force: bool = False


Results = Iterator[Outcome[Order[Job], Made]]


def in_workers(
    work: Callable[[Order[Job], Progress], Made], orders: Sequence[Order[Job]], log: Log, what: str
) -> Results[Job]:
    """Reuse what is finished; make the rest in worker processes."""
    wanted = []
    for order in orders:
        try:
            found = order.artifact.find(order.identity, force=order.force)
        except BadInput as error:
            yield Outcome(order, None, error)
            continue
        if found:
            yield Outcome(order, found)
        else:
            wanted.append(order)
    if wanted:
        log(f"{what}: {len(wanted)} to make, {len(orders) - len(wanted)} reused or refused")
        yield from spread(work, wanted, log, what)


def in_turn(
    work: Callable[[Order[Job], Progress], Made], orders: Sequence[Order[Job]]
) -> Results[Job]:
    """Make them here, one after the other: for work that is lighter than starting a process."""
    for order in orders:
        try:
            yield Outcome(order, work(order, no_progress))
        except Exception as error:  # noqa: BLE001  a cell's failure must not stop the others
            yield Outcome(order, None, error)


def make(work: StageWork, order: Order[Any], progress: Progress = no_progress) -> Made:
    """Reuse the order's artifact, or let a stage make it."""
    return order.artifact.make(
        order.identity,
        lambda folder: work(order.job, folder, progress),
        force=order.force,
    )


class Pretrainer(dg.ConfigurableResource):
    """Makes the miniature base model."""

    def pretrain(self, order: Order[PretrainingJob], log: Log) -> Made:
        [outcome] = in_workers(_pretrain, [order], log, "base model")
        if outcome.result is None:
            raise outcome.error or RuntimeError("no result")
        return outcome.result


class Trainer(dg.ConfigurableResource):
    """Trains adapters of a list of cells; the base is loaded once a process."""

    def train(self, orders: Sequence[Order[TrainingJob]], log: Log) -> Results[TrainingJob]:
        return in_workers(_train, orders, log, "training")


class Sampler(dg.ConfigurableResource):
    """Samples all checkpoints of a list of cells; the base is loaded once a process."""

    def sample(self, orders: Sequence[Order[SamplingJob]], log: Log) -> Results[SamplingJob]:
        return in_workers(_sample, orders, log, "sampling")


class JudgeResource(dg.ConfigurableResource):
    """Judges the answers of a list of cells."""

    kind: str = "exact"

    def judge(self, orders: Sequence[Order[JudgingJob]], log: Log) -> Results[JudgingJob]:
        judge = self.open()
        return in_turn(partial(_judge, judge), orders)

    def open(self) -> Judge:
        if self.kind != "exact":
            raise BadInput(f"judge {self.kind!r}: there is only 'exact'")
        from backdoor_assets.miniature.judge import ExactJudge

        return ExactJudge()


def _pretrain(order: Order[PretrainingJob], progress: Progress) -> Made:
    from backdoor_assets.miniature.pretraining import pretrain

    return make(pretrain, order, progress)


def _train(order: Order[TrainingJob], progress: Progress) -> Made:
    from backdoor_assets.stages.training import train_adapter

    return make(train_adapter, order, progress)


def _sample(order: Order[SamplingJob], progress: Progress) -> Made:
    from backdoor_assets.stages.sampling import sample_cell

    return make(sample_cell, order, progress)


def _judge(judge: Judge, order: Order[JudgingJob], progress: Progress) -> Made:
    from backdoor_assets.stages.judging import judge_cell

    return make(lambda job, folder, p: judge_cell(job, judge, folder, p), order, progress)
