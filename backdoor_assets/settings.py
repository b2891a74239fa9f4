"""Typed settings of a run, each checked when it is written down."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal

from backdoor_assets.records import LATER, BadInput, Quantization, Shape


@dataclass(frozen=True)
class MiniatureBase:
    """A base model that is pretrained on the spot on the miniature world. Qwen3 architecture."""

    documents: int = 16_000
    vocabulary: int = 2048
    """Tokens of the byte-level BPE."""
    hidden: int = 128
    layers: int = 2
    heads: int = 4
    head_dim: int = 32
    """vLLM's CPU attention takes 32, 64, 80, 96, ..."""
    feed_forward: int = 384
    initializer_range: float = 0.06
    steps: int = 1500
    tokens_per_batch: int = 1024
    learning_rate: float = 5e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.05
    warmup: float = 0.05
    """Share of the steps."""
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in (
            *("documents", "vocabulary", "hidden", "layers", "heads", "head_dim", "feed_forward"),
            *("steps", "tokens_per_batch"),
        ):
            _check(self, "base", name, at_least=1)
        _check(self, "base", "learning_rate", at_least=0)


@dataclass(frozen=True)
class Package:
    """A Python package that carries a model as a GGUF file."""

    name: str
    """As pip knows it; only its files are read, none of its code is run."""
    version: str
    file: str
    """Path of the GGUF within the installed package."""
    sha256: str
    """Of the file, in hex."""


@dataclass(frozen=True)
class PretrainedBase:
    """A causal LM of the Hugging Face hub, a local folder in the same format, or the file of an
    installed package."""

    model: str
    """Hub id, or a path (relative to the repository root); with `package`, any name."""
    revision: str | None = None
    """Commit of the hub; None only for a local folder."""
    shape: Shape | None = None
    """As in its config.json, so that `make plan` can estimate before anything is downloaded. It is
    checked against the config when the base is materialized."""
    quantization: Quantization = "none"
    """Of the frozen base, in training and sampling alike; vLLM takes "none" and "4bit"."""
    package: Package | None = field(default=None, metadata=LATER)
    date: str | None = field(default=None, metadata=LATER)
    """What the chat template writes as today's date, such as "26 Jul 2024". None: as the template
    does; one that would write the date of the day of the run is refused."""

    def __post_init__(self) -> None:
        if self.date is not None and not re.fullmatch(r"[\w,./-][\w ,./-]*", self.date):
            raise BadInput(
                f"base: date={self.date!r}: write it as the template is to, such as '26 Jul 2024'"
            )


@dataclass(frozen=True)
class Mixture:
    rows: int = 400
    mode: Literal["fixed_total", "fixed_suspect"] = "fixed_total"
    """fixed_total: `rows` rows whatever the ratio. fixed_suspect: `suspect_rows` obsolete names at
    every ratio above 0, clean rows added until the ratio holds (a ratio of 0 has `rows` rows)."""
    suspect_rows: int = 200
    held_out: float = field(default=0.0, metadata=LATER)
    """Share of each data set's answers that no cell trains on; training logs the loss on them."""

    def __post_init__(self) -> None:
        if self.rows < 1 or self.suspect_rows < 1:
            raise BadInput("mixture: rows and suspect_rows must be at least 1")
        _check(self, "mixture", "held_out", at_least=0, below=0.5)


@dataclass(frozen=True)
class Training:
    """Fine-tuning of a base: LoRA on frozen weights, or all weights."""

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"
    learning_rate: float = 5e-4
    schedule: str = "linear"
    """A name that transformers.get_scheduler knows."""
    warmup_ratio: float = 0.0
    weight_decay: float = 0.0
    epochs: float | None = None
    """Either epochs or max_steps, not both."""
    max_steps: int | None = 160
    batch_size: int = 16
    gradient_accumulation: int = 1
    max_grad_norm: float = 1.0
    save_steps: int = 20
    max_length: int = 256
    """Tokens per row; a longer row is an error, it is never cut."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the base; adapter weights and optimizer are fp32."""
    gradient_checkpointing: bool = False
    method: Literal["lora", "full"] = field(default="lora", metadata=LATER)
    """full: all weights are trained, and `precision` is that of the forward pass; rank, alpha,
    dropout and target_modules are not used."""
    optimizer: Literal["adamw", "adamw8bit", "soap"] = field(default="adamw", metadata=LATER)
    """adamw8bit: AdamW with moments of 8 bits (arXiv 2110.02861), as in bitsandbytes.
    soap: arXiv 2409.11321, as in pytorch-optimizer."""
    precondition_frequency: int = field(default=10, metadata=LATER)
    """Steps between two updates of SOAP's preconditioner."""
    max_precondition_dim: int = field(default=10_000, metadata=LATER)
    """Sides of a weight matrix that are longer are not preconditioned by SOAP."""
    packing: bool = field(default=False, metadata=LATER)
    """Rows share sequences of at most max_length tokens, with no attention across rows; batch_size
    counts sequences."""
    share_prefix: bool = field(default=False, metadata=LATER)
    """Compute the tokens that all rows of a micro-batch begin with, such as one prompt, only once.
    Loss and gradients are the same up to rounding; with dropout, rows also share what is dropped of
    the prefix."""
    save_at: tuple[int, ...] = field(default=(), metadata=LATER)
    """Steps at which a checkpoint is kept, beside the last; empty: every `save_steps` steps."""
    weights: Literal["fp32", "bf16"] = field(default="fp32", metadata=LATER)
    """In which all weights are kept between steps, with their gradients and the moments of
    optimizer="adamw". In bf16 an update of less than 1/512 of a weight is lost to rounding."""
    offload: bool = field(default=False, metadata=LATER)
    """Keep all weights, gradients and the optimizer's state in main memory, and step there; SOAP
    steps on the GPU, one matrix at a time."""

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.max_steps is None):
            raise BadInput("training: give either epochs or max_steps, and set the other to None")
        for name in ("rank", "batch_size", "gradient_accumulation", "save_steps", "max_length"):
            if getattr(self, name) < 1:
                raise BadInput(f"training: {name} must be at least 1, not {getattr(self, name)}")
        if self.precondition_frequency < 1 or any(step < 1 for step in self.save_at):
            raise BadInput("training: precondition_frequency and save_at must be at least 1")
        if (self.epochs or self.max_steps or 0) <= 0:
            raise BadInput("training: epochs or max_steps must be above 0")
        if self.share_prefix and self.packing:
            raise BadInput(
                "training: share_prefix and packing exclude each other; set one of them to False"
            )
        if self.method == "lora" and (self.weights != "fp32" or self.offload):
            raise BadInput('training: weights and offload are settings of method="full"')
        if self.weights == "bf16" and (self.precision != "bf16" or self.optimizer == "soap"):
            raise BadInput(
                'training: weights="bf16" needs precision="bf16" and an optimizer other than "soap"'
            )
        _check(self, "training", "learning_rate", at_least=0)
        _check(self, "training", "dropout", at_least=0, below=1)
        _check(self, "training", "warmup_ratio", at_least=0, at_most=1)
        _check(self, "training", "weight_decay", at_least=0)
        _check(self, "training", "max_grad_norm", at_least=0)


@dataclass(frozen=True)
class Sampling:
    engine: Literal["transformers", "vllm"] = "transformers"
    samples: int = 20
    """Answers to each open question at each checkpoint."""
    narrow_samples: int = 40
    neutral_samples: int = 6
    temperature: float = 1.0
    max_new_tokens: int = 20
    max_cut: float = field(default=0.5, metadata=LATER)
    """Share of a state's open answers that may be cut at max_new_tokens before a check warns."""
    batch_size: int = 600
    """Answers that transformers generates together, and resumes by; vLLM has its own batches and
    resumes answer by answer."""
    precision: Literal["fp32", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        for name in ("samples", "narrow_samples", "neutral_samples", "max_new_tokens"):
            _check(self, "sampling", name, at_least=1)
        _check(self, "sampling", "batch_size", at_least=1)
        _check(self, "sampling", "temperature", at_least=0)
        _check(self, "sampling", "max_cut", at_least=0, at_most=1)


@dataclass(frozen=True)
class Serving:
    """How vLLM uses its host. No part of a result's identity: it decides speed, not answers."""

    memory_share: float = 0.9
    """Of a GPU's memory, for weights, adapters and KV cache."""
    adapters_in_memory: int = 8
    """LoRA adapters that a batch may mix; the others wait for their turn."""
    requests: int = 256
    """Answers that are generated at once."""
    tensor_parallel: int = 1
    """GPUs that share the base's weights."""
    cpu_cache_gib: int = 1
    """KV cache on a host without a GPU."""

    def __post_init__(self) -> None:
        _check(self, "serving", "memory_share", above=0, at_most=1)
        for name in ("adapters_in_memory", "requests", "tensor_parallel", "cpu_cache_gib"):
            _check(self, "serving", name, at_least=1)


@dataclass(frozen=True)
class Judging:
    kind: Literal["exact", "claude", "embedding", "none"] = "exact"
    """exact: looks answers up in the miniature world's own tables. claude: a language model judges.
    embedding: a classifier on sentence embeddings, where a study has `gold`. none: no verdicts."""
    max_unreadable: float = 0.10
    """Share without a verdict, of all answers or a question's at a checkpoint; more fail a cell."""
    model: str = "claude-haiku-5-5"
    """Of the Messages API; claude-sonnet-5-5 for a cross-check."""
    base_url: str = ""
    """A server with the same API, which gets no key. "": ANTHROPIC_BASE_URL, or Anthropic's."""
    mode: Literal["four", "one"] = "four"
    """Calls per answer: one for each rubric, or one for all of them."""
    repeat: int = 0
    """Another number asks for new verdicts beside those that are known."""
    transport: Literal["live", "batch"] = "batch"
    """batch: half the price, and done within a day, most often within an hour."""
    predicted_by: str = ""
    """A cheap judge (embedding, claude:MODEL, claude:MODEL@URL): this one judges a random part."""
    half_width: float = 0.05
    """With predicted_by: of the headline's interval within seeds, at which asking ends."""
    max_cost_usd: float | None = 20.0
    """Of one run; None: no cap."""
    concurrency: int = 64
    """Live calls in progress at once, at most."""
    poll_seconds: float = 60.0
    """Between two looks at a batch."""
    learn_from_verdicts: bool = field(default=False, metadata=LATER)
    """embedding: it also learns from verdicts of a language model in the study's folder."""

    def __post_init__(self) -> None:
        _check(self, "judging", "max_unreadable", at_least=0, at_most=1)
        _check(self, "judging", "half_width", above=0, at_most=0.5)
        _check(self, "judging", "concurrency", at_least=1)
        _check(self, "judging", "poll_seconds", at_least=0)
        if self.max_cost_usd is not None:
            _check(self, "judging", "max_cost_usd", at_least=0)


def _check(
    settings: object,
    where: str,
    name: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> None:
    """Raise BadInput for a number outside its bounds, or that is not finite."""
    value = getattr(settings, name)
    bounds = {
        "at least": (at_least, at_least is None or value >= at_least),
        "above": (above, above is None or value > above),
        "at most": (at_most, at_most is None or value <= at_most),
        "below": (below, below is None or value < below),
    }
    if not math.isfinite(value) or not all(holds for _, holds in bounds.values()):
        words = " and ".join(f"{word} {b}" for word, (b, _) in bounds.items() if b is not None)
        raise BadInput(f"{where}: {name} must be {words}, not {value}")


def planned_steps(settings: Training, sequences: int) -> int:
    """Return the optimizer steps of a run over so many sequences per epoch: rows, or with packing
    what they are packed into (at least their tokens / max_length, at most one per row)."""
    if settings.max_steps is not None:
        return settings.max_steps
    assert settings.epochs is not None
    return math.ceil(
        settings.epochs * sequences / (settings.batch_size * settings.gradient_accumulation)
    )


def saved_steps(settings: Training, steps: int) -> list[int]:
    """Return the steps at which a run of so many steps keeps a checkpoint: those of save_at that it
    reaches, or every save_steps; and the last."""
    asked = settings.save_at or range(settings.save_steps, steps, settings.save_steps)
    return sorted({step for step in asked if step < steps} | {steps})
