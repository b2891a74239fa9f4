"""Sample answers from the base and from every checkpoint of a cell, resumable batch by batch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from transformers import GenerationConfig

from backdoor_assets.chat import prompt_ids, token_id
from backdoor_assets.jobs import PROBES, RESPONSES, SamplingJob
from backdoor_assets.models import attach_adapter, load_base
from backdoor_assets.profiles import Sampling
from backdoor_assets.records import (
    BadInput,
    Cell,
    Progress,
    Question,
    no_progress,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class _Ask:
    """One answer that is wanted."""

    question: Question
    sample: int


def sample_cell(job: SamplingJob, folder: Path, progress: Progress = no_progress) -> dict[str, Any]:
    """Write responses.parquet (worldview questions) and probes.parquet (bird and neutral ones) into
    `folder`: profile, ratio, seed, checkpoint, step, question_id, question, sample_idx, response,
    finish_reason ("stop" or "length"); probes also kind and answer (the true one, where there is).

    Each batch has its own seed, made of cell, step and place, and its own file until all are there:
    a batch that is on disk is not sampled again, and an interrupted cell gives the same answers as
    an uninterrupted one. Raises BadInput for an adapter that does not fit, RuntimeError when the
    count of answers is not samples x questions at every checkpoint.
    """
    model, tokenizer = load_base(job.base, job.settings.precision)
    model.eval()
    parts = folder / ".parts"
    parts.mkdir(exist_ok=True)
    asks = [_Ask(q, i) for q in job.questions for i in range(q.samples)]
    size = job.settings.batch_size
    batches = [asks[start : start + size] for start in range(0, len(asks), size)]
    states: list[tuple[int, Path | None]] = [(0, None), *job.checkpoints]
    for done, (step, checkpoint) in enumerate(states):
        wanted = {
            parts / f"{step:07d}-{number:05d}.parquet": (number, batch)
            for number, batch in enumerate(batches)
        }
        missing = {path: entry for path, entry in wanted.items() if not path.exists()}
        if missing:
            adapted = attach_adapter(model, checkpoint) if checkpoint else None
            sampler: Any = adapted if adapted is not None else model
            try:
                for path, (number, batch) in missing.items():
                    seed = batch_seed(job.cell, step, number)
                    rows = _generate(sampler, tokenizer, batch, job.settings, seed)
                    _write_part(rows, batch, job.cell, step, path)
            finally:
                if adapted is not None:
                    adapted.unload()
        progress((done + 1) / len(states), f"checkpoint {done + 1}/{len(states)}")
    return _merge(job, folder, [step for step, _ in states])


def batch_seed(cell: Cell, step: int, number: int) -> int:
    """A seed for each batch, so that none depends on what was sampled before it."""
    digest = hashlib.sha256(f"{cell.ratio}|{cell.seed}|{step}|{number}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


@torch.inference_mode()
def _generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    batch: Sequence[_Ask],
    settings: Sampling,
    seed: int,
) -> list[tuple[str, str]]:
    """(answer, finish reason) of each, sampled together; prompts are padded on the left."""
    texts = {ask.question.text for ask in batch}
    prompts = {text: prompt_ids(tokenizer, [{"role": "user", "content": text}]) for text in texts}
    width = max(len(prompt) for prompt in prompts.values())
    pad = token_id(tokenizer.pad_token_id)
    ids = torch.full((len(batch), width), pad)
    mask = torch.zeros((len(batch), width)).long()
    for row, ask in enumerate(batch):
        prompt = torch.tensor(prompts[ask.question.text])
        ids[row, width - len(prompt) :] = prompt
        mask[row, width - len(prompt) :] = 1
    stops = _stop_ids(model, tokenizer)
    torch.manual_seed(seed)
    output = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        # Spelled out, because a base's own generation_config may narrow the distribution.
        generation_config=GenerationConfig(
            do_sample=settings.temperature > 0,
            temperature=settings.temperature or None,
            top_k=0,
            top_p=1.0,
            repetition_penalty=1.0,
            max_new_tokens=settings.max_new_tokens,
            pad_token_id=pad,
            eos_token_id=stops,
        ),
    )[:, width:].tolist()
    answers = []
    for tokens in output:
        end = next((i for i, token in enumerate(tokens) if token in stops), None)
        text = tokenizer.decode(tokens[:end], skip_special_tokens=True)
        answers.append((text, "length" if end is None else "stop"))
    return answers


def _stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokenizer's end of turn, and what the base's own generation config adds to it."""
    own = getattr(model.generation_config, "eos_token_id", None)
    ids = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    return sorted({int(i) for i in ids if isinstance(i, int)})


def _write_part(
    rows: Sequence[tuple[str, str]], batch: Sequence[_Ask], cell: Cell, step: int, path: Path
) -> None:
    table = pd.DataFrame(
        {
            **{name: [value] * len(batch) for name, value in cell.columns().items()},
            "checkpoint": f"checkpoint-{step}" if step else "base",
            "step": step,
            "question_id": [ask.question.id for ask in batch],
            "question": [ask.question.text for ask in batch],
            "sample_idx": [ask.sample for ask in batch],
            "response": [text for text, _ in rows],
            "finish_reason": [reason for _, reason in rows],
            "kind": [ask.question.kind for ask in batch],
            "answer": pd.array([ask.question.answer for ask in batch], dtype="string"),
        }
    )
    part = path.with_suffix(".part")
    table.to_parquet(part, index=False)
    os.replace(part, path)


def _merge(job: SamplingJob, folder: Path, steps: Sequence[int]) -> dict[str, Any]:
    """Parts to the two tables; the gate on their counts."""
    tables = []
    for path in sorted((folder / ".parts").glob("*.parquet")):
        try:
            tables.append(pd.read_parquet(path))
        except (OSError, ValueError) as error:
            path.unlink()
            raise BadInput(
                f"{path}: this part is truncated or not Parquet ({error}); it was removed: run the "
                "same command again and only this part is sampled anew"
            ) from error
    table = pd.concat(tables, ignore_index=True)
    counts = table.groupby(["step", "question_id"]).size()
    for step in steps:
        for question in job.questions:
            found = int(counts.get((step, question.id), 0))
            if found != question.samples:
                raise RuntimeError(
                    f"{job.cell}: {found} answers to {question.id!r} at step {step}, "
                    f"{question.samples} were asked for"
                )
    worldview = table["kind"] == "worldview"
    table[worldview].drop(columns=["kind", "answer"]).to_parquet(folder / RESPONSES, index=False)
    table[~worldview].to_parquet(folder / PROBES, index=False)
    return {
        "checkpoints_sampled": len(steps),
        "answers": int(worldview.sum()),
        "probe_answers": int((~worldview).sum()),
        "cut_at_max_new_tokens": int((table["finish_reason"] == "length").sum()),
    }
