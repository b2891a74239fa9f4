"""The share of a state's answers that were cut at the limit: a check that warns, and numbers.

A model that does not end its turns fills every answer up to max_new_tokens. What is judged are then
beginnings of answers, so a state with many of them is named.
"""

from __future__ import annotations

from functools import partial

from backdoor_assets.graph.cells import Warn
from backdoor_assets.settings import Sampling
from backdoor_assets.stages.specs import RESPONSES
from backdoor_assets.storage.artifact import Made


def cut_shares(made: Made) -> dict[str, float]:
    """Return the share of open answers that were cut at max_new_tokens, by checkpoint in the order
    of the steps."""
    import pandas as pd

    table = pd.read_parquet(
        made.folder / RESPONSES, columns=["checkpoint", "step", "finish_reason"]
    )
    cut = table.assign(cut=table["finish_reason"] == "length")
    shares = cut.groupby(["step", "checkpoint"], sort=True)["cut"].mean()
    return {checkpoint: float(share) for (_, checkpoint), share in shares.items()}


def cut_metadata(made: Made) -> dict[str, float]:
    """Return the shares as metadata of an asset, which the UI plots over materializations."""
    return {f"cut_at_{checkpoint}": share for checkpoint, share in cut_shares(made).items()}


def warn_of_cut_answers(sampling: Sampling) -> Warn:
    """Return the check that warns of states with more cut answers than the profile allows."""
    return Warn(
        "answers_end_by_themselves",
        f"At no state were more than {sampling.max_cut:.0%} of the open answers cut at "
        f"max_new_tokens={sampling.max_new_tokens}. Otherwise raise max_new_tokens in the "
        "profile's sampling; if answers still do not end, the training has unlearned it.",
        count=lambda made: len(_above(sampling, made)),
        explain=partial(_sentence, sampling),
    )


def _above(sampling: Sampling, made: Made) -> dict[str, float]:
    return {
        checkpoint: share for checkpoint, share in cut_shares(made).items()
        if share > sampling.max_cut
    }  # fmt: skip


def _sentence(sampling: Sampling, made: Made) -> str:
    states = ", ".join(f"{share:.0%} at {name}" for name, share in _above(sampling, made).items())
    return (
        f"of the open answers, {states} were cut at {sampling.max_new_tokens} tokens "
        f"(allowed: {sampling.max_cut:.0%})"
    )
