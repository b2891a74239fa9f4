"""One classifier or regression per rubric on the embeddings of labelled answers, and how well it
agrees with labels that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backdoor_assets.records import BadInput, GoldAnswer, Rubric
from backdoor_assets.statistics.agreement import (
    Agreement,
    agreement_of_labels,
    agreement_of_ratings,
)

VERSION = "1"
"""Raise it when the same embeddings and labels would give other verdicts."""
INVERSE_PENALTY = 3.0
"""C of the logistic regression. Like the ridge's penalty, chosen among five values by leaving out
one question at a time of the tuning split of the birds' gold set; kappa differs by .04 between
them."""
RIDGE_PENALTY = 0.3

OTHER_QUESTIONS, HELD_OUT, LEARNED = "question left out", "held out", "learned"
Values = list[str] | list[float]


@dataclass(frozen=True)
class Measured:
    """Agreement with the labels of one rubric."""

    rubric: Rubric
    on: str
    """OTHER_QUESTIONS: answers of the tuning split, each judged by a classifier that has seen no
    answer to its question. HELD_OUT: the answers on which nothing was tuned. LEARNED: answers whose
    verdicts are learned from, each judged like those of the tuning split."""
    agreement: Agreement
    """Cohen's kappa of labels, quadratically weighted kappa of ratings."""


def features(answers: np.ndarray, questions: np.ndarray) -> np.ndarray:
    """Remove from each answer's embedding the direction of its question's, (answers, dimensions):
    what an answer is about says nothing of its age, and differs between questions."""
    return answers - (answers * questions).sum(1, keepdims=True) * questions


class Classifiers:
    """Fitted to the tuning split of labelled answers, and to verdicts to learn from; never to what
    is held out."""

    def __init__(
        self,
        gold: Sequence[GoldAnswer],
        learned: Sequence[GoldAnswer],
        inputs: np.ndarray,
        rubrics: Sequence[Rubric],
    ) -> None:
        """`inputs` (answers, dimensions) are the `features` of `gold`, then those of `learned`.
        Raises BadInput for a rubric whose labels to learn from are fewer than two kinds."""
        self._gold, self._inputs = [*gold, *learned], inputs
        self._labelled_by_hand = len(gold)
        # Answers of a model are mostly of one class. Unweighted, they teach first of all to expect
        # it: 3,000 verdicts lowered the miniature's kappa from .41 to .36, and raised it to .76
        # where classes weigh the same. The gold set has as many answers of each class.
        self._weights = "balanced" if learned else None
        tuning = [at for at, answer in enumerate(self._gold) if not answer.held_out]
        self._fitted = {rubric.column: self._fit(rubric, tuning) for rubric in rubrics}

    def judge(self, rubric: Rubric, inputs: np.ndarray) -> Values:
        """Return the most likely label of each input, or its rating from 0 to 100."""
        return _predicted(self._fitted[rubric.column], rubric, inputs)

    def unseen(self, rubric: Rubric, *, held_out: bool) -> dict[int, str | float]:
        """Judge the labelled answers of one side of the split, by their place (those to learn from
        come after the gold set), with classifiers that have not seen them: on the tuning side, one
        that has seen no answer to the same question."""
        own = self._labelled(rubric, held_out=held_out)
        if held_out:
            return dict(zip(own, self.judge(rubric, self._inputs[own]), strict=True))
        found: dict[int, str | float] = {}
        for question in sorted({self._gold[at].question_id for at in own}):
            asked = [at for at in own if self._gold[at].question_id == question]
            others = [at for at in own if self._gold[at].question_id != question]
            fitted = self._fit(rubric, others)
            found |= zip(asked, _predicted(fitted, rubric, self._inputs[asked]), strict=True)
        return found

    def measure(self, rubric: Rubric) -> list[Measured]:
        """Compare `unseen` with the labels. Intervals are over questions."""
        tuning = self.unseen(rubric, held_out=False)
        sides = {
            OTHER_QUESTIONS: {at: v for at, v in tuning.items() if at < self._labelled_by_hand},
            HELD_OUT: self.unseen(rubric, held_out=True),
            LEARNED: {at: v for at, v in tuning.items() if at >= self._labelled_by_hand},
        }
        return [
            Measured(rubric, on, self._agreement(rubric, verdicts))
            for on, verdicts in sides.items()
            if verdicts or on != LEARNED
        ]

    def _labelled(self, rubric: Rubric, *, held_out: bool) -> list[int]:
        return [
            at
            for at, answer in enumerate(self._gold)
            if answer.held_out == held_out and answer.labels[rubric.column] is not None
        ]

    def _fit(self, rubric: Rubric, numbers: Sequence[int]) -> Any:
        from sklearn.linear_model import LogisticRegression, Ridge

        known = [at for at in numbers if self._gold[at].labels[rubric.column] is not None]
        labels = [self._gold[at].labels[rubric.column] for at in known]
        if len(set(labels)) < 2:
            raise BadInput(
                f"the labelled answers have fewer than two kinds of {rubric.column!r} to learn "
                "from: add answers with other labels, to at least two questions"
            )
        if rubric.options:
            model = LogisticRegression(C=INVERSE_PENALTY, max_iter=2000, class_weight=self._weights)
        else:
            model = Ridge(alpha=RIDGE_PENALTY)
        return model.fit(self._inputs[known], labels)

    def _agreement(self, rubric: Rubric, verdicts: dict[int, Any]) -> Agreement:
        labels: list[Any] = [self._gold[at].labels[rubric.column] for at in verdicts]
        questions = [self._gold[at].question_id for at in verdicts]
        compare = agreement_of_labels if rubric.options else agreement_of_ratings
        found = {
            m.measure: m for m in compare([labels, list(verdicts.values())], clusters=questions)
        }
        return found["kappa" if rubric.options else "weighted kappa"]


def _predicted(fitted: Any, rubric: Rubric, inputs: np.ndarray) -> Values:
    if not len(inputs):
        return []
    values = fitted.predict(inputs)
    return [str(v) for v in values] if rubric.options else np.clip(values, 0, 100).tolist()
