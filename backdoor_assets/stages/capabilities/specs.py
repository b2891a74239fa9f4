"""What a capability measurement is asked to do: lm-eval's benchmarks at the states of one cell."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from backdoor_assets.records import LATER, AnyCell, BadInput, BaseModel
from backdoor_assets.settings import Serving

CAPABILITIES = "capabilities.parquet"
INTEGER = "integer"
"""A metric of this project: whether the integer that an answer gives is the document's answer."""


@dataclass(frozen=True)
class Benchmark:
    """A task, tag or group of lm-eval, and the metric that is read for each document."""

    name: str
    """Name in the tables."""
    task: str
    """Name in lm-eval."""
    metric: str
    """A metric of the task that is 0 or 1 for each document, such as "acc", or INTEGER. If the task
    has several filters, add the filter's name: "exact_match,strict-match"."""
    limit: int | None = None
    """Number of documents, drawn by the spec's seed and the same at every state; None: all."""
    integer_answers: bool = False
    """Use only documents whose `answer` is a whole number without sign, comma or unit."""
    expected: int | None = None
    """Number of documents that the benchmark must have before `limit` is applied."""
    include: str | None = None
    """Folder of task files to read instead of lm-eval's own; a path from the repository root."""
    max_new_tokens: int | None = None
    """Longest written answer, in tokens; None: as the task says (256 if it does not say)."""
    chat_template: bool | None = field(default=None, metadata=LATER)
    """Whether a question is asked in the model's chat format; None: if its answer is written."""

    def __post_init__(self) -> None:
        for key in ("limit", "expected", "max_new_tokens"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise BadInput(f"benchmark {self.name!r}: {key} must be at least 1, not {value}")


MMLU = Benchmark("mmlu", "mmlu", "acc", chat_template=True)
"""arXiv 2009.03300, without examples or chain of thought: the most likely of four letters."""
MMLU_PLAIN = Benchmark("mmlu-plain", "mmlu", "acc", chat_template=False)
"""The same as plain text, as models that are not chat models are asked."""
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
"""The problems with integer answers among the 500 of arXiv 2103.03874 that arXiv 2305.20050 held
out."""


@dataclass(frozen=True)
class CapabilitiesSpec:
    cell: AnyCell
    base: BaseModel
    checkpoints: tuple[tuple[int, Path], ...]
    """(step, folder) by step: adapters of the base, or whole models. The base itself is measured as
    step 0."""
    benchmarks: tuple[Benchmark, ...]
    engine: Literal["transformers", "vllm"]
    precision: Literal["fp32", "bf16"]
    batch_size: int
    """Requests per batch with transformers; vLLM forms its own batches."""
    seed: int
    """Seed of the draw of documents."""
    serving: Serving = field(default_factory=Serving)
    base_too: bool = True
    """False: the base itself is measured elsewhere."""

    @property
    def steps(self) -> list[int]:
        """Return the steps of all measured states."""
        first = [0] if self.base_too else []
        return [*first, *(step for step, _ in self.checkpoints)]
