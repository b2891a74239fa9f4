"""Score stored answers with the base model: the mean log-likelihood per token of each."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import torch
from torch.nn.functional import cross_entropy

from backdoor_assets.models.chat import prompt_ids, token_id
from backdoor_assets.models.loading import load_base
from backdoor_assets.records import BadInput, BaseModel, Progress, no_progress
from backdoor_assets.stages.coherence import COHERENCE, CoherenceSpec
from backdoor_assets.storage.tables import read_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEPT = (
    "profile", "ratio", "seed", "checkpoint", "step", "question_id", "question", "sample_idx",
    "response", "finish_reason",
)  # fmt: skip
"""Columns of the responses that stand in the table of scores too."""
LOGITS_ON_CPU, LOGITS_ON_GPU = 2**26, 2**28
"""Numbers that a batch's logits may have: 256 MiB and 1 GiB in fp32."""
_of_base: dict[tuple[BaseModel, str], dict[Said, Score]] = {}
"""Scores of the base's own answers, which all cells have, for the next cell of the process."""


class Said(NamedTuple):
    """An answer as it is scored. Answers that are equal in all of this have one score."""

    question: str
    response: str
    finish_reason: str


class Score(NamedTuple):
    tokens: int
    log_likelihood: float
    """Mean over the tokens, in nats; NaN without a token."""


def score_cell(
    spec: CoherenceSpec, folder: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Write coherence.parquet into `folder`: the columns of responses.parquet, `tokens` and
    `log_likelihood` (mean per token under the base, in nats).

    The tokens are those of the answer's text, and the end of the turn, unless the answer was cut at
    the limit. The scores of each question's answers go to a file of their own, from which an
    interrupted cell goes on. Raises BadInput for an unreadable input.
    """
    responses = _read(spec.responses, "responses", KEPT)
    own = _of_base.setdefault((spec.base, spec.precision), {})
    known = dict(own)
    if spec.earlier is not None:
        known |= _scores(_read(spec.earlier, "coherence"))
    parts = folder / ".parts"
    parts.mkdir(exist_ok=True)
    by_question: dict[str, list[Said]] = {}
    for said in dict.fromkeys(_said(responses)):
        by_question.setdefault(said.question, []).append(said)
    scorer, scored = None, 0
    for number, answers in enumerate(by_question.values(), 1):
        path = parts / f"{number:05d}.parquet"
        known |= _part(path)
        missing = [said for said in answers if said not in known]
        if missing:
            scorer = scorer or Scorer(*load_base(spec.base, spec.precision))
            scores = dict(zip(missing, scorer.score(missing), strict=True))
            _write(path, scores)
            known |= scores
        scored += len(missing)
        progress(number / len(by_question), f"question {number}/{len(by_question)}")
    scores = pd.DataFrame([known[said] for said in _said(responses)], responses.index)
    table = responses[list(KEPT)].join(scores)
    table.to_parquet(folder / COHERENCE, index=False)
    base = table[table["step"] == 0]
    own |= _scores(base)
    last = table[table["step"] == table["step"].max()]
    return {
        "answers": len(table),
        "distinct_answers_scored": scored,
        "log_likelihood_of_base_answers": _mean(base),
        "log_likelihood_at_last_checkpoint": _mean(last),
    }


class Scorer:
    """A model that reads each question once, and then all answers to it."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.end = token_id(tokenizer.eos_token_id)
        self.questions: dict[str, tuple[int, Any]] = {}
        """Last token of the prompt, and the cache of what is before it."""
        most = LOGITS_ON_GPU if model.device.type == "cuda" else LOGITS_ON_CPU
        self.positions = max(1, most // model.config.vocab_size)
        """Tokens of a batch, padding included; a single answer may have more."""

    def score(self, answers: Sequence[Said]) -> list[Score]:
        """Return the score of each answer, in their order."""
        texts = [said.response for said in answers]
        ids = self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        ends = [[self.end] if said.finish_reason == "stop" else [] for said in answers]
        ids = [[*own, *end] for own, end in zip(ids, ends, strict=True)]
        by_question: dict[str, list[int]] = {}
        for number, said in enumerate(answers):
            if ids[number]:
                by_question.setdefault(said.question, []).append(number)
        found = dict.fromkeys(range(len(answers)), Score(0, float("nan")))
        for question, numbers in by_question.items():
            for batch in self._batches(numbers, ids):
                scores = self._score(question, [ids[number] for number in batch])
                found |= zip(batch, scores, strict=True)
        return list(found.values())

    def _batches(self, numbers: list[int], ids: list[list[int]]) -> Iterator[list[int]]:
        """Answers of similar length, longest first."""
        numbers = sorted(numbers, key=lambda number: -len(ids[number]))
        while numbers:
            rows = max(1, self.positions // len(ids[numbers[0]]))
            yield numbers[:rows]
            numbers = numbers[rows:]

    @torch.inference_mode()
    def _score(self, question: str, answers: Sequence[Sequence[int]]) -> list[Score]:
        """Score answers of at least one token each; they are padded on the right."""
        last, cache = self._read_question(question)
        cache = copy.deepcopy(cache)  # The forward pass writes into it.
        cache.batch_repeat_interleave(len(answers))
        before, width = cache.get_seq_length(), max(map(len, answers))
        ids = torch.full((len(answers), width), self.end)
        mask = torch.zeros((len(answers), before + width)).long()
        labels = torch.full((len(answers), width), -100)
        for row, answer in enumerate(answers):
            labels[row, : len(answer)] = torch.tensor(answer)
            ids[row, : len(answer)] = torch.tensor([last, *answer[:-1]])
            mask[row, : before + len(answer)] = 1
        device = self.model.device
        logits = self.model(
            input_ids=ids.to(device), attention_mask=mask.to(device), past_key_values=cache
        ).logits
        nats = cross_entropy(
            logits.float().flatten(0, 1), labels.flatten().to(device), reduction="none"
        )
        sums = nats.view(labels.shape).double().sum(1).tolist()
        return [
            Score(len(answer), -total / len(answer))
            for answer, total in zip(answers, sums, strict=True)
        ]

    def _read_question(self, question: str) -> tuple[int, Any]:
        if question not in self.questions:
            prompt = prompt_ids(self.tokenizer, [{"role": "user", "content": question}])
            before = torch.tensor([prompt[:-1]], device=self.model.device)
            cache = self.model(input_ids=before, use_cache=True, logits_to_keep=1).past_key_values
            self.questions[question] = prompt[-1], cache
        return self.questions[question]


def _read(path: Path, asset: str, columns: Sequence[str] = Score._fields) -> pd.DataFrame:
    remedy = f"materialize the {asset} of this cell"
    return read_table(path, remedy, columns, texts=Said._fields)


def _said(table: pd.DataFrame) -> list[Said]:
    return list(map(Said, *(table[name] for name in Said._fields)))


def _scores(table: pd.DataFrame) -> dict[Said, Score]:
    scores = map(Score, table["tokens"].tolist(), table["log_likelihood"].tolist())
    return dict(zip(_said(table), scores, strict=True))


def _write(path: Path, scores: dict[Said, Score]) -> None:
    rows = [(*said, *score) for said, score in scores.items()]
    table = pd.DataFrame(rows, columns=[*Said._fields, *Score._fields])
    table.to_parquet(path.with_suffix(".part"), index=False)
    os.replace(path.with_suffix(".part"), path)


def _part(path: Path) -> dict[Said, Score]:
    """The scores that an interrupted run has left, if they are whole."""
    try:
        return _scores(_read(path, "coherence")) if path.exists() else {}
    except BadInput:  # Cut off when the machine went down.
        return {}


def _mean(table: pd.DataFrame) -> float | None:
    """Mean over answers; None if there is none with a token."""
    mean = float(table["log_likelihood"].mean())
    return None if math.isnan(mean) else round(mean, 4)
