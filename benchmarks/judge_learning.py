"""Does the embedding judge get better by learning from verdicts that are paid for?

    python -m benchmarks.judge_learning [--json results.json]

Needs a finished sweep of the miniature (`make demo`), whose exact judge is the truth and stands for
the language model whose verdicts are learned from. The judge is tested on the different answers of
seed 44 at the last checkpoint. It learns from different answers of seeds 42 and 43 at any
checkpoint, drawn at random, none of which is tested. "Other questions": the answers to each
question by a judge that has learned from no answer to it. Intervals are over questions.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_assets.embeddings.judge import EmbeddingJudge
from backdoor_assets.mixtures.cells import Grid
from backdoor_assets.mixtures.judging.gold import gold_digest, read_gold
from backdoor_assets.mixtures.judging.judges import embed_in_workers
from backdoor_assets.mixtures.judging.learned import learned_from
from backdoor_assets.profiles import MINIATURE
from backdoor_assets.stages.judging.specs import JUDGMENTS
from backdoor_assets.statistics.agreement import agreement_of_labels
from backdoor_assets.statistics.intervals import wilson
from backdoor_assets.studies.birds.study import STUDY as BIRDS

NUMBERS = 0, 30, 100, 300, 1000, 3000
[OUTCOME] = BIRDS.outcomes
RUBRICS = tuple(r for r in BIRDS.rubrics if r.column == OUTCOME.rubric)
ANSWER = ["question", "response"]


def answers(*seeds: int) -> pd.DataFrame:
    """All answers of training seeds, with the exact judge's verdicts."""
    cells = [cell for cell in Grid.of(BIRDS, MINIATURE).cells() if cell.seed in seeds]
    tables = [pd.read_parquet(cell.artifact("judgments").folder / JUDGMENTS) for cell in cells]
    return pd.concat(tables, ignore_index=True)


def held_out_gold() -> pd.DataFrame:
    assert BIRDS.gold
    held_out = [answer for answer in read_gold(BIRDS.gold, BIRDS) if answer.held_out]
    rows = [(a.question_id, a.question, a.answer, a.labels[OUTCOME.rubric]) for a in held_out]
    return pd.DataFrame(rows, columns=["question_id", *ANSWER, OUTCOME.rubric])


def judged(learn: pd.DataFrame, test: pd.DataFrame, embed: Any) -> list[str | float | None]:
    assert BIRDS.gold
    gold = read_gold(BIRDS.gold, BIRDS)
    learned = learned_from(learn, RUBRICS) if len(learn) else None
    judge = EmbeddingJudge(gold, gold_digest(gold), RUBRICS, embed, learned)
    verdicts = judge.judge(list(zip(test["question"], test["response"], strict=True)), RUBRICS)
    return [verdict[OUTCOME.rubric].value for verdict in verdicts]


def measured(found: list[Any], test: pd.DataFrame) -> dict[str, Any]:
    truth = test[OUTCOME.rubric].tolist()
    agreement = agreement_of_labels([found, truth], clusters=test["question_id"].tolist())
    kappa = next(a for a in agreement if a.measure == "kappa")
    positive = [
        f == OUTCOME.option for f, t in zip(found, truth, strict=True) if t == OUTCOME.option
    ]
    others = [f == OUTCOME.option for f, t in zip(found, truth, strict=True) if t != OUTCOME.option]
    rates = {"sensitivity": positive, "false positives": others}
    shares = {name: wilson(sum(hits), len(hits)) for name, hits in rates.items()}
    intervals = {name: (r.value, r.low, r.high) for name, r in shares.items()}
    return {"kappa": (kappa.value, kappa.low, kappa.high), "answers": len(truth), **intervals}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    last = answers(44)
    test = last[last["step"] == last["step"].max()].drop_duplicates(ANSWER)
    pool = pd.concat([test, answers(42, 43)]).drop_duplicates(ANSWER).iloc[len(test) :]
    pool = pool.sample(frac=1, random_state=0)
    gold = held_out_gold()
    seen: dict[str, Any] = {}

    def embed(texts: Any) -> Any:
        """Every text once."""
        import numpy as np

        new = [text for text in dict.fromkeys(texts) if text not in seen]
        if new:
            seen.update(zip(new, embed_in_workers(new), strict=True))
        return np.stack([seen[text] for text in texts])

    rows = []
    for number in (n for n in NUMBERS if n <= len(pool)):
        learn = pool.head(number)
        row = {"learned": number, **measured(judged(learn, test, embed), test)}
        apart = []
        for question, own in test.groupby("question_id"):
            found = judged(learn[learn["question_id"] != question], own, embed)
            apart.append(own.assign(found=found))
        other = pd.concat(apart)
        row["kappa, other questions"] = measured(other["found"].tolist(), other)["kappa"]
        row["kappa, held-out gold"] = measured(judged(learn, gold, embed), gold)["kappa"]
        rows.append(row)
        print(" ".join(f"{name} {show(value)}" for name, value in row.items()), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def show(value: Any) -> str:
    if isinstance(value, tuple):
        return "{:.2f} [{:.2f}, {:.2f}]".format(*value)
    return f"{value:,}"


if __name__ == "__main__":
    main()
