"""A judge on sentence embeddings: no key, no network, seconds per thousand answers.

It follows the wording and the topic of an answer as far as labelled answers teach it. How far that
is, it measures itself, and says so wherever its verdicts are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from backdoor_assets.embeddings import MINILM
from backdoor_assets.embeddings.classifiers import (
    HELD_OUT,
    LEARNED,
    OTHER_QUESTIONS,
    VERSION,
    Classifiers,
    Measured,
    features,
)
from backdoor_assets.records import GoldAnswer, Learned, Rubric, Verdict

Embed = Callable[[Sequence[str]], np.ndarray]
"""Takes texts, and returns their embeddings of length 1, (texts, dimensions)."""
Answers = Sequence[tuple[str, str]]
ON = {
    OTHER_QUESTIONS: "answers to a question left out",
    HELD_OUT: "held-out",
    LEARNED: "of the verdicts, their question left out",
}
"""What was judged, in words."""


class EmbeddingJudge:
    """Implements `records.RunJudge` and `records.MeasuredJudge`. Judges in one go what `prepare` is
    asked about, and the rest when it is asked for."""

    name = "embedding"

    def __init__(
        self,
        gold: Sequence[GoldAnswer],
        digest: str,
        rubrics: Sequence[Rubric],
        embed: Embed,
        learned: Learned | None = None,
    ) -> None:
        """`digest` identifies the labelled answers. Nothing is embedded or fitted yet."""
        self.learned = learned or Learned()
        more = f", {len(self.learned.answers)} verdicts {self.learned.digest}" if learned else ""
        self.model = f"all-MiniLM-L6-v2, gold set {digest}{more}"
        self.identity: dict[str, Any] = {
            "name": self.name,
            "model": "all-MiniLM-L6-v2",
            "weights": MINILM.sha256,
            "gold": digest,
            "classifier": VERSION,
            **({"learned": learned.digest} if learned else {}),
        }
        self._gold, self._rubrics, self._embed = gold, rubrics, embed
        self._verdicts: dict[tuple[str, str], dict[str, Verdict]] = {}

    def estimate(self, answers: Answers, rubrics: Sequence[Rubric]) -> dict[str, Any]:
        """Return nothing: this judge makes no calls."""
        return {}

    def prepare(
        self, answers: Answers, rubrics: Sequence[Rubric], log: Callable[[str], None]
    ) -> dict[str, Any]:
        """Judge all answers by all rubrics. Returns the agreement, as there is no bill."""
        log(self.agreement)
        self._judge(answers)
        return {"judge_agreement": self.agreement}

    def judge(self, answers: Answers, rubrics: Sequence[Rubric]) -> list[dict[str, Verdict]]:
        """Return a verdict by rubric column for each (question, answer)."""
        self._judge(answers)
        return [{r.column: self._verdicts[pair][r.column] for r in rubrics} for pair in answers]

    def unseen(self) -> list[dict[str, Verdict]]:
        """Return verdicts on the labelled answers themselves, in their order, by classifiers that
        have not seen them; none by a rubric whose label is not known."""
        found: list[dict[str, Verdict]] = [{} for _ in self._gold]
        for rubric in self._rubrics:
            for held_out in (False, True):
                verdicts = self._classifiers.unseen(rubric, held_out=held_out)
                for at, value in verdicts.items():
                    if at < len(found):
                        found[at][rubric.column] = Verdict(value)
        return found

    @cached_property
    def measured(self) -> list[Measured]:
        """How well each rubric agrees with labels that its classifier has not seen."""
        return [found for rubric in self._rubrics for found in self._classifiers.measure(rubric)]

    @property
    def agreement(self) -> str:
        tuning = sum(not answer.held_out for answer in self._gold)
        parts: dict[str, list[str]] = {}
        for found in self.measured:
            a = found.agreement
            interval = "" if np.isnan(a.low) else f" [{a.low:.2f}, {a.high:.2f}]"
            text = f"{a.value:.2f}{interval} on {a.answers} {ON[found.on]}"
            parts.setdefault(f"{found.rubric.column} ({a.measure})", []).append(text)
        listed = "; ".join(f"{name} {' and '.join(texts)}" for name, texts in parts.items())
        learned = self.learned
        more = f" and {len(learned.answers):,} verdicts of {learned.judge}" * bool(learned.answers)
        return (
            f"The judge on sentence embeddings (all-MiniLM-L6-v2) is fitted to {tuning} "
            f"labelled answers{more}. Its agreement with labels that it has not seen: {listed} "
            "(95 % over questions)."
        )

    @cached_property
    def _classifiers(self) -> Classifiers:
        pairs = [(a.question, a.answer) for a in (*self._gold, *self.learned.answers)]
        inputs = self._features(pairs)
        return Classifiers(self._gold, self.learned.answers, inputs, self._rubrics)

    def _judge(self, answers: Answers) -> None:
        new = [pair for pair in dict.fromkeys(answers) if pair not in self._verdicts]
        if not new:
            return
        inputs, classifiers = self._features(new), self._classifiers
        values = {r.column: classifiers.judge(r, inputs) for r in self._rubrics}
        for at, pair in enumerate(new):
            self._verdicts[pair] = {column: Verdict(v[at]) for column, v in values.items()}

    def _features(self, pairs: Answers) -> np.ndarray:
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        at = {text: number for number, text in enumerate(texts)}
        embeddings = self._embed(texts)
        questions = embeddings[[at[question] for question, _ in pairs]]
        return features(embeddings[[at[answer] for _, answer in pairs]], questions)
