"""A cell's answers: written down as they arrive, then made into tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.stages.sampling.answers import Answer, Ask, asks_at, steps_of
from backdoor_assets.stages.specs import PROBES, RESPONSES, SamplingSpec

JOURNAL = ".answers.jsonl"
"""Answers as they arrive. Workers that share a cell have a file each, with the number of the first
answer of a share in its name, if it is not 0."""
Key = tuple[int, str, int]
"""Step, question, sample."""


class Journal:
    """The answers of a cell, one line each, in the order in which they came.

    It finds what a killed run has written, and what an earlier artifact holds that is to be
    extended. An unfinished line is ignored: its answer is sampled once more, from the same seed.
    """

    def __init__(self, spec: SamplingSpec, folder: Path, start: int = 0) -> None:
        """`start` is the number of the first answer that this process samples."""
        self.spec, self.folder = spec, folder
        self.path = folder / (f".answers-{start}.jsonl" if start else JOURNAL)
        asked = {ask.key for step in steps_of(spec) for ask in asks_at(spec, step)}
        self.earlier = {key: answer for key, answer in _earlier(spec) if key in asked}
        self.done = {*self.earlier, *(key for key, _ in self._lines() if key in asked)}
        if self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
            with self.path.open("ab") as file:
                file.write(b"\n")

    def write(self, asks: Sequence[Ask], answers: Sequence[Answer]) -> None:
        """Append answers; they are on disk, but for a loss of power, when this returns."""
        lines = [
            json.dumps([*ask.key, *answer]) + "\n"
            for ask, answer in zip(asks, answers, strict=True)
        ]
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))
        self.done.update(ask.key for ask in asks)

    def _lines(self) -> Iterator[tuple[Key, Answer]]:
        for path in sorted(self.folder.glob(".answers*.jsonl")):
            with path.open(encoding="utf-8", errors="replace") as file:
                for line in file:
                    try:
                        step, question, sample, text, reason = json.loads(line)
                        yield (int(step), str(question), int(sample)), Answer(text, reason)
                    except (ValueError, TypeError):
                        continue

    def finish(self) -> dict[str, Any]:
        """Write responses.parquet and probes.parquet, each if its questions are asked, and return
        counts.

        Columns: those of the cell, checkpoint, step, question_id, question, sample_idx, response,
        finish_reason; responses also kind, unless all are of open questions; probes kind and answer
        (the true one, if the question has one). Answers of the base that lie elsewhere become step
        0. Raises RuntimeError when the answers are not samples x questions at every step.
        """
        spec, steps = self.spec, steps_of(self.spec)
        answers = {**self.earlier, **dict(self._lines())}
        asks = [ask for step in steps for ask in asks_at(spec, step)]
        missing = [ask.key for ask in asks if ask.key not in answers]
        if missing:
            raise RuntimeError(
                f"{spec.cell}: {len(missing)} of {len(asks)} answers are missing, first "
                f"{missing[0]} (step, question, sample); run the same command again"
            )
        table = _table(spec, asks, [answers[ask.key] for ask in asks])
        probe = table["kind"].isin(spec.probes)
        responses, probes = table[~probe].drop(columns="answer"), table[probe]
        if (responses["kind"] == "worldview").all():
            responses = responses.drop(columns="kind")
        counts = {}
        for part, name in ((responses, RESPONSES), (probes, PROBES)):
            whole = _with_base(spec, part, name)
            counts[name] = len(whole)
            if len(whole):
                whole.to_parquet(self.folder / name, index=False)
        return {
            "checkpoints_sampled": len(steps),
            "answers": counts[RESPONSES],
            "probe_answers": counts[PROBES],
            "answers_reused": len(self.earlier),
            "cut_at_max_new_tokens": int((table["finish_reason"] == "length").sum()),
        }


def _earlier(spec: SamplingSpec) -> Iterator[tuple[Key, Answer]]:
    """Answers of the artifact that is to be extended, for states and questions that have not
    changed."""
    earlier = spec.earlier
    if earlier is None:
        return
    for name in (RESPONSES, PROBES):
        if not (earlier.folder / name).exists():
            continue
        table = pd.read_parquet(earlier.folder / name)
        kept = table["step"].isin(earlier.steps) & table["question_id"].isin(earlier.questions)
        columns = ["step", "question_id", "sample_idx", "response", "finish_reason"]
        rows = table.loc[kept, columns].itertuples(index=False)
        for step, question, sample, text, reason in rows:
            yield (int(step), str(question), int(sample)), Answer(str(text), str(reason))


def _with_base(spec: SamplingSpec, table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The table, with the answers of the base as its first rows, if they lie elsewhere."""
    if spec.base_answers is None:
        return table
    base = pd.read_parquet(spec.base_answers / name).assign(**spec.cell.columns())
    return pd.concat([base[list(table.columns)], table], ignore_index=True)


def _table(spec: SamplingSpec, asks: Sequence[Ask], answers: Sequence[Answer]) -> pd.DataFrame:
    names = {step: f"checkpoint-{step}" for step in steps_of(spec)}
    if spec.base_too:
        names[0] = "base"
    return pd.DataFrame(
        {
            **{name: [value] * len(asks) for name, value in spec.cell.columns().items()},
            "checkpoint": [names[ask.step] for ask in asks],
            "step": [ask.step for ask in asks],
            "question_id": [ask.question.id for ask in asks],
            "question": [ask.question.text for ask in asks],
            "sample_idx": [ask.sample for ask in asks],
            "response": [answer.text for answer in answers],
            "finish_reason": [answer.finish_reason for answer in answers],
            "kind": [ask.question.kind for ask in asks],
            "answer": pd.array([ask.question.answer for ask in asks], dtype="string"),
        }
    )
