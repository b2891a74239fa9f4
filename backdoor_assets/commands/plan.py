"""What the profile in force would take, before anything is made, and what this host lacks for it.

python -m backdoor_assets.commands.plan

Runs on any machine: it needs no GPU, key, network or weights, and changes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dotenv import load_dotenv

from backdoor_assets.capacity import needs, preflight, shapes
from backdoor_assets.capacity import spread_needs as full_needs
from backdoor_assets.capacity.host import Host, this_host
from backdoor_assets.claude.prices import AS_OF, cost
from backdoor_assets.mixtures import places
from backdoor_assets.mixtures.mixing import counts_by_source
from backdoor_assets.models import hub
from backdoor_assets.profiles import MiniatureBase, PretrainedBase, Profile, active_profile
from backdoor_assets.records import SOURCES, BadInput, Quantization, Ratio, Shape
from backdoor_assets.settings import planned_checkpoints
from backdoor_assets.storage.artifact import data_root
from backdoor_assets.storage.disk import disk_free
from backdoor_assets.storage.provenance import REPOSITORY
from backdoor_assets.studies.birds import study as design

PROMPT_TOKENS = 30
"""Assumed of a question with the chat template around it."""
RUBRIC_TOKENS = 290
"""Assumed of a judge's prompt without the answer: rubric and question."""
VERDICT_TOKENS = 30
JUDGES = {"claude-haiku-5-5": "", "claude-sonnet-5-5": ", cross-check of every answer"}
DOWNLOAD = "download of the base, once"

Line = tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(prog="make plan", description=__doc__).parse_args(arguments)
    load_dotenv(REPOSITORY / ".env")
    try:
        print(plan(active_profile(), this_host(data_root())))
    except BadInput as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def plan(profile: Profile, host: Host) -> str:
    """The whole plan, as text for a terminal."""
    grid = Grid(profile)
    try:
        shape, unknown = shape_of(profile), ""
    except BadInput as error:
        shape, unknown = None, f"unknown: {error}"
    sections = {
        f"Plan of profile {profile.name}": _columns(_base(profile, shape, unknown), "<"),
        "Runs": _columns(_runs(grid)),
        "Answers": _columns(_answers(grid)),
    }
    if shape is None:
        sections["Memory and disk"] = f"  {unknown}"
    else:
        longest, engine = profile.training.max_length, profile.sampling.engine
        gpus = profile.serving.tensor_parallel if engine == "vllm" else 1
        each = f", each of {gpus} GPUs" if gpus > 1 else ""
        training, sampling = memory(profile, shape)
        sections |= {
            f"GPU memory, training (rows of {longest} tokens at most)": _sizes(training),
            f"GPU memory, sampling ({engine}{each})": _sizes(sampling),
            "Disk": _sizes(disk(grid, shape)),
        }
    sections["Judging"] = _columns(_judging(grid))
    sections["This host lacks"] = _columns(_lacks(grid, shape, host), "<")
    return "\n\n".join(f"{title}\n{text}" for title, text in sections.items())


class Grid:
    """What the profile's cells come to; lists hold a number for each ratio."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        settings, sampling = profile.training, profile.sampling
        like = list(map(places.source_file, SOURCES))
        counts = [counts_by_source(Ratio.parse(key), profile.mixture) for key in profile.ratios]
        self.steps = [full_needs.steps_at_most(settings, sum(c.values()), like) for c in counts]
        # The base counts as a checkpoint: it is sampled in every cell.
        self.checkpoints = [1 + planned_checkpoints(settings, s) for s in self.steps]
        asked = design.questions(profile)
        self.questions = sum(question.kind == "worldview" for question in asked)
        worldview = sum(q.samples for q in asked if q.kind == "worldview")
        probes = sum(q.samples for q in asked if q.kind != "worldview")
        self.worldview = [worldview * count for count in self.checkpoints]
        self.probes = [probes * count for count in self.checkpoints]
        self.answer_tokens = min(profile.answer_tokens, sampling.max_new_tokens)

    @property
    def answers(self) -> list[int]:
        return [a + b for a, b in zip(self.worldview, self.probes, strict=True)]

    def all(self, by_ratio: Sequence[int]) -> int:
        return sum(by_ratio) * len(self.profile.seeds)

    @property
    def cells(self) -> int:
        return len(self.profile.ratios) * len(self.profile.seeds)


def shape_of(profile: Profile) -> Shape:
    """Dimensions of the base, from the profile or a local folder's config.json. Raises BadInput
    where neither tells them."""
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
        raise BadInput(f"the profile gives its base no shape=Shape(...), and {path} tells none")
    return found


def _quantization(profile: Profile) -> Quantization:
    return "none" if isinstance(profile.base, MiniatureBase) else profile.base.quantization


def memory(profile: Profile, shape: Shape) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes by part of training and of sampling. Rows are reckoned as long as they may be."""
    training, quantization = profile.training, _quantization(profile)
    return (
        needs.training_memory(shape, training, quantization, training.max_length),
        needs.sampling_memory(
            shape, profile.sampling, profile.serving, quantization, training.rank, PROMPT_TOKENS
        ),
    )


def disk(grid: Grid, shape: Shape) -> dict[str, int]:
    """Bytes by part, over the whole grid."""
    adapters = [needs.training_disk(shape, grid.profile.training, steps) for steps in grid.steps]
    tables = needs.tables_disk(grid.all(grid.answers), grid.answer_tokens)
    download = {DOWNLOAD: needs.download_disk(shape)} if _hub_base(grid.profile) else {}
    return {
        **download,
        "adapters": grid.all(adapters),
        "tables of answers": tables,
        "the same as parts, until the tables stand": tables,
    }


def _hub_base(profile: Profile) -> PretrainedBase | None:
    """The base, if it comes from a hub."""
    base = profile.base
    if isinstance(base, MiniatureBase) or (REPOSITORY / base.model).is_dir():
        return None
    return base


def _base(profile: Profile, shape: Shape | None, unknown: str) -> Iterator[Line]:
    base = profile.base
    if isinstance(base, MiniatureBase):
        yield "base model", "made here: pretrained on the miniature world"
        yield "revision", f"base seed {profile.base_seed}"
    else:
        yield "base model", base.model
        yield "revision", base.revision or "none: a local folder"
    yield "quantization", _quantization(profile)
    yield "parameters", f"{needs.parameters(shape):,}" if shape else unknown


def _runs(grid: Grid) -> Iterator[Line]:
    profile = grid.profile
    yield "", "a cell", "in all"
    yield f"cells: {len(profile.ratios)} ratios x {len(profile.seeds)} seeds", "", f"{grid.cells:,}"
    yield "optimizer steps", _span(grid.steps), f"{grid.all(grid.steps):,}"
    yield "checkpoints, base included", _span(grid.checkpoints), f"{grid.all(grid.checkpoints):,}"


def _answers(grid: Grid) -> Iterator[Line]:
    length, limit = grid.answer_tokens, grid.profile.sampling.max_new_tokens
    yield "", "a cell", "in all"
    for name, counts in (
        (f"answers to {grid.questions} worldview questions", grid.worldview),
        ("answers to probes", grid.probes),
        ("prompt tokens", [PROMPT_TOKENS * count for count in grid.answers]),
        ("answer tokens", [length * count for count in grid.answers]),
    ):
        yield name, _span(counts), f"{grid.all(counts):,}"
    yield (f"Assumed: about {PROMPT_TOKENS} tokens a prompt, a mean of {length} tokens an answer",)
    yield (f"(the profile's answer_tokens; at most {limit}, its max_new_tokens), probes alike.",)


def _judging(grid: Grid) -> Iterator[Line]:
    rubrics, length, judging = len(design.RUBRICS), grid.answer_tokens, grid.profile.judging
    if judging.kind == "none":
        yield ('nothing is judged: Judging("none") in the profile. The run ends with the answers.',)
        return
    together = rubrics if judging.mode == "one" else 1
    calls = [rubrics // together * count for count in grid.worldview]
    yield "", "a cell", "in all"
    what = f"{rubrics}" if together == 1 else f"one for all {rubrics}"
    yield f"judge calls, {what} rubrics an answer", _span(calls), f"{grid.all(calls):,}"
    if judging.kind == "exact":
        yield "exact judge, looks answers up", "$0.00", "$0.00"
        return
    into, out = RUBRIC_TOKENS * (1 + together) // 2 + length, VERDICT_TOKENS * together
    for name, tokens in (("judge tokens in", into), ("judge tokens out", out)):
        yield name, _span([tokens * n for n in calls]), f"{tokens * grid.all(calls):,}"
    for model, note in JUDGES.items():
        for way in ("live", "batch"):
            one = cost(model, into, out, batch=way == "batch")
            yield f"{model}, {way}{note}", _dollars(one, calls), _dollars(one, [grid.all(calls)])
    yield (f"Assumed: about {into - length} tokens of rubric and question and {length} of answer",)
    yield (f"in, {out} out. Prices as of {AS_OF}.",)
    if judging.max_cost_usd is not None:
        yield (f"A run stops at ${judging.max_cost_usd:.2f} (max_cost_usd of the profile).",)


def _lacks(grid: Grid, shape: Shape | None, host: Host) -> Iterator[Line]:
    """What stands between this host and the run, a line each."""
    profile, quantization = grid.profile, _quantization(grid.profile)
    found: list[Line] = []
    if not (host.gpus or isinstance(profile.base, MiniatureBase)):
        found.append(("GPU", "none found: training and sampling would run on the CPU"))
    found += _too_little(grid, shape, host) if shape else []
    found += preflight.missing_software(profile.sampling, quantization).items()
    asks = profile.judging.kind == "claude" and not os.environ.get("ANTHROPIC_BASE_URL")
    if asks and not os.environ.get("ANTHROPIC_API_KEY"):
        found.append(("ANTHROPIC_API_KEY", "not set (needed to judge with Claude)"))
    yield from found or [("nothing",)]
    if _hub_base(profile) and not os.environ.get("HF_TOKEN"):
        yield "HF_TOKEN", "not set (needed for gated models only)"


def _too_little(grid: Grid, shape: Shape, host: Host) -> Iterator[Line]:
    """Memory and disk that do not suffice, in the first line of what would stop a run."""
    profile, quantization = grid.profile, _quantization(grid.profile)
    training, sampling, longest = profile.training, profile.sampling, profile.training.max_length
    serving, rank = profile.serving, training.rank
    parts = {name: size for name, size in disk(grid, shape).items() if name != DOWNLOAD}

    def refusal(name: str, check: Callable[..., None], *arguments: Any) -> Iterator[Line]:
        try:
            check(*arguments)
        except BadInput as error:
            yield name, str(error).splitlines()[0]

    kind, check = "GPU memory" if host.gpus else "memory", preflight.check_training_memory
    yield from refusal(kind, check, shape, training, quantization, longest, host)
    check = preflight.check_sampling_memory
    rest = shape, sampling, serving, quantization, rank, PROMPT_TOKENS, host
    yield from refusal(kind, check, *rest)
    yield from refusal("disk", preflight.check_disk, "the grid", parts, data_root(), host, "")
    base, cache = _hub_base(profile), hub.cache_folder()
    if base and not hub.cached(base):
        there = replace(host, disk_free=disk_free(cache))  # it may be another disk
        yield from refusal("disk", preflight.check_download, shape, cache, there)


def _span(values: Sequence[float], form: str = "{:,}") -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"


def _dollars(one: float, calls: Sequence[int]) -> str:
    return _span([one * count for count in calls], "${:.2f}")


def _sizes(parts: Mapping[str, int]) -> str:
    def gib(size: int) -> str:
        return "< 0.01 GiB" if 0 < size < needs.GIB / 200 else f"{size / needs.GIB:.2f} GiB"

    lines = [(name, gib(size)) for name, size in parts.items()]
    return _columns([*lines, ("total", gib(sum(parts.values())))])


def _columns(lines: Iterable[Line], side: str = ">") -> str:
    """Names, and values aligned to the right (or "<", left); a line of one cell stands as it is."""
    rows = list(lines)
    wide = [row for row in rows if len(row) > 1]
    widths = [max(map(len, column)) for column in zip(*wide, strict=True)]

    def text(name: str, *cells: str) -> str:
        padded = [f"{cell:{side}{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        return "  ".join(["", f"{name:<{widths[0]}}", *padded]).rstrip()

    return "\n".join(text(*row) if len(row) > 1 else "  " + "".join(row) for row in rows)


if __name__ == "__main__":
    sys.exit(main())
