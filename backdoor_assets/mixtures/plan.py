"""What a mixture study would take under a profile, and what this host lacks for it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from backdoor_assets.capacity import hours, memory, preflight, shapes
from backdoor_assets.capacity.memory import SamplingNeed, TrainingNeed
from backdoor_assets.claude.prices import cost
from backdoor_assets.host import Host
from backdoor_assets.mixtures import power
from backdoor_assets.mixtures.cells import Grid
from backdoor_assets.mixtures.counts import PROMPT_TOKENS, Counts
from backdoor_assets.mixtures.judging import price
from backdoor_assets.models import hub
from backdoor_assets.profiles import Profile
from backdoor_assets.records import BadInput, Quantization, Shape
from backdoor_assets.reporting.text import Line, columns, span
from backdoor_assets.settings import MiniatureBase, PretrainedBase
from backdoor_assets.storage.artifact import data_root
from backdoor_assets.storage.disk import disk_free
from backdoor_assets.storage.provenance import REPOSITORY

DOWNLOAD = "download of the base, once"


def sections(grid: Grid, host: Host) -> dict[str, str]:
    """Return the plan as text by heading."""
    counts, profile = Counts(grid), grid.profile
    try:
        shape, unknown = shape_of(profile), ""
    except BadInput as error:
        shape, unknown = None, f"unknown: {error}"
    found = {
        f"Plan of {grid.study.name}, profile {profile.name}": columns(
            _base(profile, shape, unknown), "<"
        ),
        "Runs": columns(_runs(counts)),
        "Answers": columns(_answers(counts)),
    }
    if shape is None:
        found["Memory and disk"] = f"  {unknown}"
    else:
        longest, engine = profile.training.max_length, profile.sampling.engine
        gpus = profile.serving.tensor_parallel if engine == "vllm" else 1
        each = f", each of {gpus} GPUs" if gpus > 1 else ""
        training, sampling = (need.memory() for need in _needs(profile, shape))
        rate = hours.rate_for(shape, host)
        found |= {
            f"Tokens and {rate.device} hours": columns(hours.lines(counts.works(), shape, rate)),
            f"GPU memory, training (rows of {longest} tokens at most)": _sizes(training),
            f"GPU memory, sampling ({engine}{each})": _sizes(sampling),
            "Disk": _sizes(disk(counts, shape)),
        }
    found["Judging"] = columns(price.lines(counts))
    found["Precision to expect"] = power.section(_precision(counts))
    found["This host lacks"] = columns(_lacks(counts, shape, host), "<")
    return found


def shape_of(profile: Profile) -> Shape:
    """Return the dimensions of the base, from the profile or a local folder's config.json. Raises
    BadInput where neither has them."""
    base = profile.base
    if isinstance(base, MiniatureBase):
        sizes = base.layers, base.hidden, base.heads, base.heads, base.head_dim, base.feed_forward
        return Shape(*sizes, base.vocabulary, tie_word_embeddings=True)
    if base.shape is not None:
        return base.shape
    path = REPOSITORY / base.model / hub.CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        found = shapes.shape_of(config) if isinstance(config, dict) else None
    except (OSError, ValueError):
        found = None
    if found is None:
        raise BadInput(f"the profile gives its base no shape=Shape(...), and {path} has none")
    return found


def _quantization(profile: Profile) -> Quantization:
    return "none" if isinstance(profile.base, MiniatureBase) else profile.base.quantization


def _needs(profile: Profile, shape: Shape) -> tuple[TrainingNeed, SamplingNeed]:
    """Of training, with rows as long as they may be, and of sampling."""
    training, quantization = profile.training, _quantization(profile)
    sampling = SamplingNeed(
        shape, profile.sampling, profile.serving, quantization, training.rank, PROMPT_TOKENS
    )
    return TrainingNeed(shape, training, quantization, profile.processes), sampling


def disk(counts: Counts, shape: Shape) -> dict[str, int]:
    """Return bytes by part, over the whole grid."""
    need = TrainingNeed(shape, counts.profile.training)
    adapters = [sum(need.disk(steps).values()) for steps in counts.steps]
    tables = memory.tables_disk(counts.answers, counts.answer_tokens)
    download = {DOWNLOAD: memory.download_disk(shape)} if _hub_base(counts.profile) else {}
    return {
        **download,
        "adapters": counts.all(adapters),
        "tables of answers": tables,
        "the same as parts, until the tables stand": tables,
    }


def _hub_base(profile: Profile) -> PretrainedBase | None:
    """The base, if it comes from a hub."""
    base = profile.base
    if isinstance(base, MiniatureBase) or base.package or (REPOSITORY / base.model).is_dir():
        return None
    return base


def _base(profile: Profile, shape: Shape | None, unknown: str) -> Iterator[Line]:
    base = profile.base
    if isinstance(base, MiniatureBase):
        yield "base model", "pretrained here on the miniature world"
        yield "revision", f"base seed {profile.base_seed}"
    else:
        yield "base model", base.model
        package = base.package and f"the package {base.package.name} {base.package.version}"
        yield "revision", base.revision or package or "none: a local folder"
        if base.date:
            yield "date in every prompt", base.date
    yield "quantization", _quantization(profile)
    yield "parameters", f"{shapes.parameters(shape):,}" if shape else unknown


def _runs(counts: Counts) -> Iterator[Line]:
    ratios, seeds = len(counts.grid.ratios), len(counts.profile.seeds)
    yield "", "per cell", "in all"
    yield f"cells: {ratios} ratios x {seeds} seeds", "", f"{ratios * seeds:,}"
    yield "optimizer steps", span(counts.steps), f"{counts.all(counts.steps):,}"
    checkpoints = counts.checkpoints
    yield "checkpoints, and the base once", span(checkpoints), f"{counts.all(checkpoints, 1):,}"


def _answers(counts: Counts) -> Iterator[Line]:
    length, limit = counts.answer_tokens, counts.profile.sampling.max_new_tokens
    both = counts.open_per_state + counts.probes_per_state
    yield "", "per cell", "in all"
    for name, per_state in (
        (f"answers to {counts.questions} open questions", counts.open_per_state),
        ("answers to probes", counts.probes_per_state),
        ("prompt tokens", PROMPT_TOKENS * both),
        ("answer tokens", length * both),
    ):
        per_cell = counts.per_cell(per_state)
        yield name, span(per_cell), f"{counts.all(per_cell, per_state):,}"
    yield (f"Assumed: {PROMPT_TOKENS} tokens per prompt, and a mean of {length} tokens per answer",)
    yield (f"(answer_tokens of the profile; at most {limit}, its max_new_tokens), probes alike.",)


def _precision(counts: Counts) -> power.Plan:
    calls, into, out = counts.calls()
    model = next(iter(price.JUDGES))
    paid = counts.profile.judging.kind == "claude"
    dollars = calls * cost(model, into, out, batch=True) if paid else None
    sizes = counts.questions, counts.checkpoints, counts.answer_tokens
    return power.Plan(counts.grid, *sizes, dollars, f"{model}, batch")


def _lacks(counts: Counts, shape: Shape | None, host: Host) -> Iterator[Line]:
    """What stands between this host and the run, one line each."""
    profile, quantization = counts.profile, _quantization(counts.profile)
    found: list[Line] = []
    if not (host.gpus or isinstance(profile.base, MiniatureBase)):
        found.append(("GPU", "none found: training and sampling would run on the CPU"))
    found += _too_little(counts, shape, host) if shape else []
    found += preflight.missing_software(profile.sampling, quantization).items()
    asks = profile.judging.kind == "claude" and not os.environ.get("ANTHROPIC_BASE_URL")
    if asks and not os.environ.get("ANTHROPIC_API_KEY"):
        found.append(("ANTHROPIC_API_KEY", "not set (needed to judge with Claude)"))
    yield from found or [("nothing",)]
    if _hub_base(profile) and not os.environ.get("HF_TOKEN"):
        yield "HF_TOKEN", "not set (needed for gated models only)"


def _too_little(counts: Counts, shape: Shape, host: Host) -> Iterator[Line]:
    """Memory and disk that do not suffice, in the first line of what would stop a run."""
    training, sampling = _needs(counts.profile, shape)
    parts = {name: size for name, size in disk(counts, shape).items() if name != DOWNLOAD}

    def refusal(name: str, check: Callable[..., None], *arguments: Any) -> Iterator[Line]:
        try:
            check(*arguments)
        except BadInput as error:
            yield name, str(error).splitlines()[0]

    kind = "GPU memory" if host.gpus else "memory"
    yield from refusal(kind, preflight.check_training_memory, training, host)
    yield from refusal(kind, preflight.check_sampling_memory, sampling, host)
    scoring = shape, counts.profile.sampling.precision, sampling.quantization, host
    yield from refusal(kind, preflight.check_scoring_memory, *scoring)
    yield from refusal("disk", preflight.check_disk, "the grid", parts, data_root(), host)
    base, cache = _hub_base(counts.profile), hub.cache_folder()
    if base and not hub.cached(base):
        cache_host = replace(host, disk_free=disk_free(cache))  # it may be another disk
        yield from refusal("disk", preflight.check_download, shape, cache, cache_host)


def _sizes(parts: Mapping[str, int]) -> str:
    def gib(size: int) -> str:
        return "< 0.01 GiB" if 0 < size < memory.GIB / 200 else f"{size / memory.GIB:.2f} GiB"

    lines = [(name, gib(size)) for name, size in parts.items()]
    return columns([*lines, ("total", gib(sum(parts.values())))])
