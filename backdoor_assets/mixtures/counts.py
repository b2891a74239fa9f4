"""What the cells of a grid come to: steps, checkpoints, answers, tokens, judge calls."""

from __future__ import annotations

from collections.abc import Sequence

from backdoor_assets.capacity.hours import Work
from backdoor_assets.capacity.steps import planned_checkpoints, row_tokens, steps_at_most
from backdoor_assets.mixtures.cells import Grid
from backdoor_assets.mixtures.mixing import counts_by_source
from backdoor_assets.records import Ratio

PROMPT_TOKENS = 30
"""Assumed of a question with the chat template around it."""
RUBRIC_TOKENS = 290
"""Assumed of a judge's prompt without the answer: rubric and question."""
VERDICT_TOKENS = 30


class Counts:
    """What the cells of a grid come to; lists hold one number per ratio. The base's answers are
    sampled and judged once for all cells."""

    def __init__(self, grid: Grid) -> None:
        self.grid, self.profile = grid, grid.profile
        settings, sampling = self.profile.training, self.profile.sampling
        study = grid.study
        like = [path for _, path in study.files()]
        ratios = [Ratio.parse(key, study.sources) for key in grid.ratios]
        rows = [
            sum(counts_by_source(ratio, self.profile.mixture, study.sources).values())
            for ratio in ratios
        ]
        self.row_tokens = row_tokens(like)
        self.steps = [steps_at_most(settings, count, like) for count in rows]
        self.checkpoints = [planned_checkpoints(settings, steps) for steps in self.steps]
        asked = study.questions_for(self.profile.base, sampling)
        self.questions = sum(question.kind == "worldview" for question in asked)
        self.open_per_state = sum(q.samples for q in asked if q.kind == "worldview")
        self.probes_per_state = sum(q.samples for q in asked if q.kind != "worldview")
        self.answer_tokens = min(self.profile.answer_tokens, sampling.max_new_tokens)

    def calls(self) -> tuple[int, int, int]:
        """Return judge calls per answer, and the tokens in and out of one call."""
        rubrics = len(self.grid.study.rubrics)
        together = rubrics if self.profile.judging.mode == "one" else 1
        into = RUBRIC_TOKENS * (1 + together) // 2 + self.answer_tokens
        return rubrics // together, into, VERDICT_TOKENS * together

    def per_cell(self, per_state: int) -> list[int]:
        return [per_state * count for count in self.checkpoints]

    def all(self, by_ratio: Sequence[int], base: int = 0) -> int:
        """Over the grid, and what the base adds once."""
        return sum(by_ratio) * len(self.profile.seeds) + base

    def works(self) -> dict[str, Work]:
        """Return tokens by kind of work. Tokens of a row are estimated, and err upwards."""
        profile, training = self.profile, self.profile.training
        cells = len(self.steps) * len(profile.seeds)
        rows = training.batch_size * training.gradient_accumulation * self.all(self.steps)
        each = profile.serving.tensor_parallel if profile.sampling.engine == "vllm" else 1
        scored = self.all(self.per_cell(self.open_per_state), self.open_per_state)
        length = PROMPT_TOKENS + self.answer_tokens
        return {
            "training": Work(
                training.method,
                round(rows * self.row_tokens),
                cells,
                profile.processes,
                self.all(self.steps),
            ),
            "sampling": Work("sampling", length * self.answers, 1, each),
            "scoring by the base": Work("scoring", length * scored, cells),
        }

    @property
    def answers(self) -> int:
        per_state = self.open_per_state + self.probes_per_state
        return self.all(self.per_cell(per_state), per_state)
