"""A small capability measurement: local tasks, and a model that answers 7 to everything."""

from __future__ import annotations

import shutil
from pathlib import Path

from backdoor_assets.profiles import Serving, Training
from backdoor_assets.records import BaseModel
from backdoor_assets.stages.capabilities.specs import INTEGER, Benchmark, CapabilitiesSpec
from tests.unit.cells import CELL, chat_line, train

TASKS = Path(__file__).resolve().parents[1] / "capability_tasks"
QUESTIONS = ("What is 3 + 5?", "Name a bird.", "Problem: What is 9?\nAnswer:", "How are you?")
STEPS = (15, 30)


def sevens(base: Path, folder: Path) -> CapabilitiesSpec:
    r"""Train an adapter that answers \boxed{7} to everything; return a spec of two checkpoints.

    The benchmarks are a group of choices, sums with integer answers, and answers read by a filter.
    """
    tasks = shutil.copytree(TASKS, folder / "tasks")
    for path in tasks.glob("*.yaml"):
        path.write_text(path.read_text().replace("FOLDER", str(tasks)))
    include = str(tasks)
    rows = folder / "train.jsonl"
    rows.write_text("".join(chat_line("It is \\boxed{7}.", q) for q in QUESTIONS * 2))
    settings = Training(learning_rate=3e-2, batch_size=8, max_steps=STEPS[-1], save_steps=STEPS[0])
    adapters = train(base, rows, folder / "adapters", settings)
    short = {"include": include, "max_new_tokens": 12}
    return CapabilitiesSpec(
        cell=CELL,
        base=BaseModel(str(base)),
        checkpoints=tuple((step, adapters / f"checkpoint-{step}") for step in STEPS),
        benchmarks=(
            Benchmark("choices", "subjects", "acc", include=include),
            Benchmark("sums", "sums", INTEGER, integer_answers=True, expected=6, **short),
            Benchmark("boxed", "filtered", "exact_match,boxed", **short),
        ),
        engine="transformers",
        precision="fp32",
        batch_size=4,
        seed=1,
        serving=Serving(requests=8),
    )


def merged(spec: CapabilitiesSpec, folder: Path) -> tuple[int, Path]:
    """Return the step of the spec's last checkpoint, and its adapter merged into a whole model."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    step, adapter = spec.checkpoints[-1]
    whole = folder / f"checkpoint-{step}"
    base = AutoModelForCausalLM.from_pretrained(spec.base.location)
    PeftModel.from_pretrained(base, str(adapter)).merge_and_unload().save_pretrained(whole)
    AutoTokenizer.from_pretrained(spec.base.location).save_pretrained(whole)
    return step, whole
