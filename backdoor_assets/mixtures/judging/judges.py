"""Who judges the answers of a mixture study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backdoor_assets.embeddings import MINILM
from backdoor_assets.mixtures.cells import Grid
from backdoor_assets.mixtures.design import Design
from backdoor_assets.mixtures.judging.gold import gold_digest, read_gold
from backdoor_assets.mixtures.judging.learned import read_learned
from backdoor_assets.models.packaged import verified
from backdoor_assets.records import BadInput, GoldAnswer, Progress, RunJudge
from backdoor_assets.settings import Judging
from backdoor_assets.workers.spreading import spread

if TYPE_CHECKING:
    import numpy as np

KINDS = "exact", "claude", "embedding"
MEASURED = KINDS[1:]
"""Judges whose agreement with real English means something."""
CHUNK = 128
"""Texts that a worker process embeds at a time."""


def open_judge(grid: Grid) -> RunJudge:
    """Return the judge of a profile. Raises BadInput for one that the study does not have."""
    settings, study = grid.profile.judging, grid.study
    if settings.kind == "claude":
        from backdoor_assets.claude.judge import ClaudeJudge

        return ClaudeJudge(settings, grid.verdicts)
    if settings.kind == "exact" and study.world is not None:
        return study.world.judge()
    if settings.kind == "embedding" and study.gold is not None:
        from backdoor_assets.embeddings.judge import EmbeddingJudge

        learned = read_learned(grid) if settings.learn_from_verdicts else None
        gold = _gold(study.gold, study)
        return EmbeddingJudge(*gold, study.rubrics, embed_in_workers, learned)
    possible = ["'claude'", *["'exact'"] * bool(study.world), *["'embedding'"] * bool(study.gold)]
    why = " because it has no labelled answers (gold)" if settings.kind == "embedding" else ""
    raise BadInput(
        f"{grid.profile.title}: judging.kind={settings.kind!r} cannot judge the study "
        f"{study.name!r}{why}; set it to {' or '.join(possible)}"
    )


def other_judging(settings: Judging, named: str) -> Judging:
    """Return the settings of another judge, named KIND, claude:MODEL or claude:MODEL@URL: a server
    with the Messages API, called live, without a key and without a price. Raises BadInput."""
    kind, _, rest = named.partition(":")
    model, at, url = rest.partition("@")
    if kind not in KINDS or (rest and kind != "claude") or (at and not (model and url)):
        raise BadInput(
            f"{named!r} is no judge; name {', '.join(KINDS)}, claude:MODEL or claude:MODEL@URL"
        )
    changed: Any = {"kind": kind, "model": model or settings.model, "predicted_by": ""}
    if kind != settings.kind:
        changed["learn_from_verdicts"] = False
    if url:
        changed |= {"base_url": url, "transport": "live", "max_cost_usd": None}
    return replace(settings, **changed)


def judge_of(grid: Grid) -> RunJudge:
    """Return the profile's judge. Raises BadInput."""
    judging = grid.profile.judging
    if judging.kind == "none":
        raise BadInput(
            f"profile {grid.profile.name!r} has no judge (judging.kind is 'none'); set "
            "BACKDOOR_JUDGE=claude or, for a study with a gold set, BACKDOOR_JUDGE=embedding"
        )
    return open_judge(grid)


def label_of(judge: RunJudge) -> str:
    return f"{judge.name}: {judge.model}"


def learned_pairs(judge: Any) -> set[tuple[str, str]]:
    """Return the (question, answer) whose verdicts a judge learned from. On them it would seem to
    agree better than it does."""
    learned = getattr(judge, "learned", None)
    return {(a.question, a.answer) for a in learned.answers} if learned else set()


_read: dict[tuple[Path, int, int, str], tuple[list[GoldAnswer], str]] = {}


def _gold(path: Path, study: Design) -> tuple[list[GoldAnswer], str]:
    """Read a gold set and its digest once while the file does not change: every cell of a grid asks
    for its judge's identity."""
    key = path, path.stat().st_size, path.stat().st_mtime_ns, study.name
    if key not in _read:
        gold = read_gold(path, study)
        _read[key] = gold, gold_digest(gold)
    return _read[key]


def check_judge(settings: Judging) -> None:
    """Raise BadInput when the judge could not start: no key, a retired model, no weights."""
    if settings.kind == "claude":
        from backdoor_assets.claude.judge import check_key, check_model

        check_model(settings.model)
        check_key(settings.base_url)
    if settings.kind == "embedding":
        verified(MINILM)


def embed_in_workers(texts: Sequence[str]) -> np.ndarray:
    """Return sentence embeddings, (texts, 384), computed in worker processes: torch stays out of
    this one. Raises BadInput if the encoder's package is not installed or not the expected one."""
    import numpy as np

    folder = verified(MINILM).parent
    # Texts of a similar length are embedded together.
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
    chunks = [order[start : start + CHUNK] for start in range(0, len(order), CHUNK)]
    items = [(number, [texts[at] for at in chunk]) for number, chunk in enumerate(chunks)]
    found: dict[int, np.ndarray] = {}
    for outcome in spread(partial(_embedded, folder), items, _silent, "sentence embeddings"):
        if outcome.error:
            raise outcome.error
        if outcome.result:
            found[outcome.result[0]] = outcome.result[1]
    rows = np.concatenate([found[number] for number in range(len(chunks))])
    return rows[np.argsort(order)]


def _embedded(
    folder: Path, item: tuple[int, Sequence[str]], progress: Progress
) -> tuple[int, np.ndarray]:
    from backdoor_assets.embeddings.encoder import embed

    return item[0], embed(item[1], folder)


def _silent(line: str) -> None:
    """Workers have nothing to say that a run would need."""
