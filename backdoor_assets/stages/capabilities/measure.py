"""Measure one cell's states on its benchmarks, one after another, and write a table."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.records import Progress
from backdoor_assets.stages.capabilities.documents import Documents, documents_of
from backdoor_assets.stages.capabilities.scoring import hits
from backdoor_assets.stages.capabilities.specs import CAPABILITIES, CapabilitiesSpec
from backdoor_assets.stages.capabilities.states import is_adapter, serve_models
from backdoor_assets.statistics.intervals import wilson

JOURNAL = ".capabilities.jsonl"
METHOD = "Wilson 95 % over documents, one training seed"
Key = tuple[int, str]
"""Step and benchmark's name."""


def measure(spec: CapabilitiesSpec, folder: Path, progress: Progress) -> dict[str, Any]:
    """Do what `measure_capabilities` of this package documents."""
    for _, checkpoint in spec.checkpoints:
        is_adapter(checkpoint)
    benchmarks = [documents_of(benchmark, spec.seed) for benchmark in spec.benchmarks]
    journal = _Journal(folder)
    states = [*([(0, None)] if spec.base_too else []), *spec.checkpoints]
    done = 0
    with serve_models(spec) as serve:
        for step, checkpoint in states:
            missing = [d for d in benchmarks if (step, d.benchmark.name) not in journal.done]
            done += len(benchmarks) - len(missing)
            if not missing:
                continue
            with serve(checkpoint) as model:
                for documents in missing:
                    right = _evaluate(model, documents, spec.seed)
                    journal.write((step, documents.benchmark.name), sum(right), len(right))
                    done += 1
                    progress(
                        done / (len(states) * len(benchmarks)),
                        f"step {step}, {documents.benchmark.name}: {sum(right)} of {len(right)}",
                    )
            del model  # Frees its memory before the next one is loaded.
    table = _table(spec, journal)
    table.to_parquet(folder / CAPABILITIES, index=False)
    return {"states_measured": len(states)} | {
        f"{benchmark.name}_documents": journal.done[spec.steps[0], benchmark.name][1]
        for benchmark in spec.benchmarks
    }


def _evaluate(model: Any, documents: Documents, seed: int) -> list[bool]:
    """Ask the model, and return whether each document was answered correctly.

    Calls lm-eval's `evaluate`, because `simple_evaluate` also queries the hub about the model and
    collects facts about the host, which takes seconds per call.
    """
    import lm_eval
    from transformers import set_seed

    set_seed(seed)
    chat = documents.benchmark.chat_template
    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    results = lm_eval.evaluate(
        lm=model,
        task_dict={"tasks": dict(documents.tasks)},
        samples=dict(documents.indices),
        apply_chat_template=documents.generates if chat is None else chat,
        bootstrap_iters=0,
        log_samples=True,
    )
    if results is None:
        raise RuntimeError(
            "lm-eval returned no results: it mistakes this process for one of several"
        )
    return hits(documents, results["samples"])


def _table(spec: CapabilitiesSpec, journal: _Journal) -> pd.DataFrame:
    rows = []
    for step in spec.steps:
        for benchmark in spec.benchmarks:
            right, n = journal.done[step, benchmark.name]
            state = {"checkpoint": f"checkpoint-{step}" if step else "base", "step": step}
            rows.append(
                {
                    **spec.cell.columns(),
                    **state,
                    "task": benchmark.name,
                    **vars(wilson(right, n, METHOD)),
                }
            )
    return pd.DataFrame(rows)


class _Journal:
    """A file with one line per finished measurement, so that an interrupted run can resume.

    Each line holds step, benchmark, correct answers and documents. A line that was cut off when the
    process was killed is ignored.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL
        self.done: dict[Key, tuple[int, int]] = dict(self._lines())
        if self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
            with self.path.open("ab") as file:
                file.write(b"\n")

    def write(self, key: Key, right: int, n: int) -> None:
        """Append a measurement. It survives the end of this process, but not a loss of power."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([*key, right, n]) + "\n")
        self.done[key] = right, n

    def _lines(self) -> Iterator[tuple[Key, tuple[int, int]]]:
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    step, name, right, n = json.loads(line)
                    yield (int(step), str(name)), (int(right), int(n))
                except (ValueError, TypeError):
                    continue
