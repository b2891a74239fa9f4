"""What is asked of a capability measurement: benchmarks of lm-eval, at the states of one cell."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from backdoor_assets.profiles import Serving
from backdoor_assets.records import AnyCell, BadInput, BaseModel

CAPABILITIES = "capabilities.parquet"
INTEGER = "integer"
"""A metric of this project: the integer that an answer ends with is the document's own."""


@dataclass(frozen=True)
class Benchmark:
    """A task, tag or group of lm-eval, and what is read off it for each document."""

    name: str
    """In the tables."""
    task: str
    """lm-eval's name."""
    metric: str
    """A metric of the task that is 0 or 1 for each document, as "acc", with its filter where there
    are several ("exact_match,strict-match"), or INTEGER."""
    limit: int | None = None
    """Documents, drawn by the job's seed, the same at every state; None: all."""
    integer_answers: bool = False
    """Only documents whose `answer` is a whole number without sign, comma or unit."""
    expected: int | None = None
    """Documents there must be before `limit`."""
    include: str | None = None
    """A folder of task files that is read instead of lm-eval's own."""
    max_new_tokens: int | None = None
    """Of a generated answer; None: as the task says (256 where it says nothing)."""

    def __post_init__(self) -> None:
        for key in ("limit", "expected", "max_new_tokens"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise BadInput(f"benchmark {self.name!r}: {key} must be at least 1, not {value}")


MMLU = Benchmark("mmlu", "mmlu", "acc")
"""arXiv 2009.03300, without chain of thought: the likeliest of four letters, no examples."""
IFEVAL = Benchmark("ifeval", "ifeval", "prompt_level_strict_acc", expected=541)
"""arXiv 2311.07911."""
MATH500 = Benchmark(
    "math500",
    "hendrycks_math500",
    INTEGER,
    integer_answers=True,
    expected=293,
    max_new_tokens=2048,
)
"""500 problems of arXiv 2103.03874 that arXiv 2305.20050 held out, those with integer answers."""


@dataclass(frozen=True)
class CapabilitiesSpec:
    cell: AnyCell
    base: BaseModel
    checkpoints: tuple[tuple[int, Path], ...]
    """(step, folder) by step: adapters of the base, or whole models; the base itself is measured as
    step 0."""
    benchmarks: tuple[Benchmark, ...]
    engine: Literal["transformers", "vllm"]
    precision: Literal["fp32", "bf16"]
    batch_size: int
    """Requests that transformers takes together; vLLM has its own batches."""
    seed: int
    """Of the documents that are drawn."""
    serving: Serving = field(default_factory=Serving)
    base_too: bool = True
    """False: the base itself is measured elsewhere."""

    @property
    def steps(self) -> list[int]:
        first = [0] if self.base_too else []
        return [*first, *(step for step, _ in self.checkpoints)]
