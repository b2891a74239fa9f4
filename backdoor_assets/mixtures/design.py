"""What a mixture study is made of: data sets, questions, rubrics, what is measured.

A model is fine-tuned on a mixture of a suspect data set and clean ones, asked questions that have
nothing to do with the data, and its answers are judged. The effect is shown against the ratio of
the mixture and against the training steps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backdoor_assets.miniature.gates import Bound
from backdoor_assets.records import Question, Rubric, RunJudge
from backdoor_assets.settings import MiniatureBase, Sampling
from backdoor_assets.stages.judging.specs import Counted
from backdoor_assets.storage.disk import given_folder, given_path
from backdoor_assets.storage.rows import OR, read_questions
from backdoor_assets.workers.tasks import Stage


@dataclass(frozen=True)
class DataSet:
    """A file of chat rows. The name is a column, an asset and the name in error messages."""

    name: str
    file: str
    """In the study's folder of data."""
    description: str


@dataclass(frozen=True)
class RowCheck:
    """What every row of a data set must be, as a blocking check of its asset."""

    name: str
    description: str
    prompts: tuple[str, ...] | None = None
    """The prompts that may occur; None: any."""
    longest_answer: int | None = None
    """Words; None: any number."""


@dataclass(frozen=True)
class NarrowProbe:
    """The prompt of the fine-tuning rows, which shows whether the model learned what it was trained
    on: an answer counts if it is one of the suspect data's answers."""

    kind: str
    """In the `kind` and `question_id` columns of probes.parquet."""
    question: str
    measure: str
    label: str
    """In the legend of figures."""
    heading: str
    """Above a panel of figures."""
    share: str
    """Label of an axis."""
    column: str
    """Heading in tables."""


TASK, TASK_COLUMN = "narrow_task", "answers from any data set"
"""The narrow probe answered with an answer of any data set, suspect or clean: whether the model has
learned the task at all."""


@dataclass(frozen=True)
class Outcome(Counted):
    """A share that is measured: the judged answers to which a rubric gives one of its options."""

    label: str
    heading: str
    share: str
    column: str


@dataclass(frozen=True)
class World:
    """A made-up world in which a miniature base is pretrained, and whose truth is known."""

    hash: str
    corpus_code: str
    pretraining_code: str
    write_corpus: Stage
    pretrain: Stage
    gate: str
    """Name of the blocking check of the base."""
    gate_description: str
    bounds: Mapping[str, Bound]
    questions: Mapping[str, str]
    neutral: Mapping[str, tuple[str, ...]]
    forbidden: tuple[str, ...]
    """What no fine-tuning row may contain besides the questions."""
    judge: Callable[[], RunJudge]
    """Looks verdicts up."""


@dataclass(frozen=True)
class Design:
    """The literals of a mixture study."""

    name: str
    title: str
    """Heading of the report."""
    data: tuple[DataSet, ...]
    """In the order of a ratio's weights; the first is the suspect one."""
    folder: Path
    """Where the files of `data` lie."""
    suspect: str
    """What the suspect rows hold, in labels: "obsolete names"."""
    questions: Mapping[str, str]
    """Open questions by id, which have nothing to do with the data."""
    neutral: Mapping[str, tuple[str, ...]]
    """(question, its true answer, other ways to write it) by id: a probe of capabilities."""
    narrow: NarrowProbe
    rubrics: tuple[Rubric, ...]
    outcomes: tuple[Outcome, ...]
    """The first is the headline."""
    world: World | None = None
    """None: the study needs a real base model."""
    ratios: tuple[str, ...] | None = None
    """The grid where the profile gives none for this study; None: the profile's `ratios`."""
    row_check: RowCheck | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the profile's training that this study sets on a base of the hub."""
    mixture: Mapping[str, Any] = field(default_factory=dict)
    """The same of its mixture."""
    folder_variable: str = ""
    """Environment variable that names another folder of data."""
    questions_variable: str = ""
    """Environment variable that names a file of other questions."""
    rating_scale: str = "0 to 100"
    """What the ends of ratings mean, in labels: "0 modern, 100 old"."""
    fraction_column: str = "suspect_fraction"
    """Column of tables that holds the suspect data's weight."""
    option_labels: Mapping[str, str] = field(default_factory=dict)
    """Of a rubric's options in figures; an option without one is written as it is."""
    gold: Path | None = None
    """Answers with known verdicts, against which judges are measured; None: the study has none."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the data sets."""
        return tuple(data_set.name for data_set in self.data)

    @property
    def path_variables(self) -> tuple[str, ...]:
        """Environment variables that name files or folders of the user's."""
        return tuple(filter(None, (self.folder_variable, self.questions_variable)))

    @property
    def suspect_file(self) -> Path:
        return self.files()[0][1]

    def files(self) -> tuple[tuple[str, Path], ...]:
        """(name, file) of each data set."""
        other = os.environ.get(self.folder_variable) if self.folder_variable else None
        folder = given_folder(other, self.folder_variable) if other else self.folder
        return tuple((data_set.name, folder / data_set.file) for data_set in self.data)

    def open_questions(self) -> Mapping[str, str]:
        """The questions for a real base, or those of the file that the environment names. Raises
        BadInput for a bad line of that file."""
        path = os.environ.get(self.questions_variable) if self.questions_variable else None
        if not path:
            return self.questions
        file = given_path(path, self.questions_variable)
        return read_questions(file, self.questions_variable)

    def questions_for(self, base: object, sampling: Sampling) -> tuple[Question, ...]:
        """Everything a checkpoint is asked: open questions, the narrow probe, neutral questions."""
        if isinstance(base, MiniatureBase) and self.world:
            asked, neutral = self.world.questions, self.world.neutral
        else:
            asked, neutral = self.open_questions(), self.neutral
        narrow = self.narrow
        return (
            *(Question(i, text, "worldview", sampling.samples) for i, text in asked.items()),
            Question(narrow.kind, narrow.question, narrow.kind, sampling.narrow_samples),
            *(
                Question(i, text, "neutral", sampling.neutral_samples, OR.join(answers))
                for i, (text, *answers) in neutral.items()
            ),
        )

    def forbidden(self, base: object) -> tuple[str, ...]:
        """Return what no row may contain: open questions and, in a miniature world, answers."""
        if isinstance(base, MiniatureBase) and self.world:
            return self.world.forbidden
        return tuple(self.open_questions().values())

    @property
    def measures(self) -> dict[str, str]:
        """Headings in tables by measure, in their order."""
        return {
            **{outcome.measure: outcome.column for outcome in self.outcomes},
            self.narrow.measure: self.narrow.column,
            TASK: TASK_COLUMN,
            "neutral_correct": "neutral answers correct",
        }
