"""Rows of a micro-batch that begin alike, with their common beginning computed only once.

The rows stand in one sequence: the common prefix, then the rest of each row. A rest attends to the
prefix and to itself, and its positions continue those of the prefix, so that every token is
computed as it would be in a row of its own. The prefix gets the gradients of all rows. Loss and
gradients are therefore those of separate rows, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import torch

from backdoor_assets.models.chat import TrainingText
from backdoor_assets.records import BadInput
from backdoor_assets.stages.training.attention import IN_FP32
from backdoor_assets.stages.training.inputs import Inputs

_PREFIX = -1
"""Stands for the number of the row to which a token of the prefix belongs."""


def joined(batch: Sequence[TrainingText], hidden: int) -> Inputs | None:
    """Join the rows of a micro-batch after their longest common prefix, which ends at the latest
    before the first counted token of any row.

    The mask, of shape (1, 1, tokens, tokens), says whether a token (third axis) attends to another
    (fourth). Logits are computed for the tokens that precede a counted one: the last token of the
    prefix may predict one of each row, and is computed once.

    Returns None where separate rows take less computation in a model of width `hidden`: a single
    row, or long ones with a short prefix.
    """
    prefix = _prefix(batch)
    longest = max(len(text.ids) for text in batch)
    tokens = prefix + sum(len(text.ids) - prefix for text in batch)
    if _cost(tokens, hidden) >= len(batch) * _cost(longest, hidden):
        return None
    ids, positions, rows = batch[0].ids[:prefix], [*range(prefix)], [_PREFIX] * prefix
    before, targets = [], []
    for row, text in enumerate(batch):
        start = len(ids) - prefix  # What to add to a position to get the place in the sequence.
        for position in range(max(prefix, 1), len(text.ids)):
            if text.loss[position]:
                before.append(prefix - 1 if position == prefix else start + position - 1)
                targets.append(text.ids[position])
        ids = ids + text.ids[prefix:]
        positions += range(prefix, len(text.ids))
        rows += [row] * (len(text.ids) - prefix)
    row_of = torch.tensor(rows)
    mask = ((row_of[:, None] == row_of) | (row_of == _PREFIX)).tril()
    kept, sources = torch.tensor(before).unique(return_inverse=True)
    arguments = {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "attention_mask": mask[None, None],
        "logits_to_keep": kept,
    }
    return Inputs(arguments, torch.tensor(targets), sources)


def check_attention(model: Any) -> None:
    """Raise BadInput for a model whose attention does not follow a mask for each pair of tokens."""
    config = model.config
    kind, layers = _attention(model)
    if not follows_masks(model):
        raise BadInput(
            f"{config.name_or_path or config.model_type}: training.share_prefix=True needs full "
            f"attention through torch's scaled_dot_product_attention, and this model has {kind} "
            f"with layers of {', '.join(sorted(layers))}. Set share_prefix to False."
        )


def follows_masks(model: Any) -> bool:
    """Return whether a model's attention follows a mask for each pair of tokens."""
    kind, layers = _attention(model)
    return kind in ("sdpa", IN_FP32) and layers == {"full_attention"}


def _attention(model: Any) -> tuple[str, set[str]]:
    layers = getattr(model.config, "layer_types", None) or ["full_attention"]
    return model.config._attn_implementation, set(layers)


def _prefix(batch: Sequence[TrainingText]) -> int:
    """Return how many tokens all rows begin with, none of which counts in the loss."""
    columns = zip(*(text.ids for text in batch), strict=False)
    common = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, columns))
    return min(common, *(text.loss.index(True) for text in batch))


def _cost(tokens: int, hidden: int) -> int:
    """Estimate the computation of a sequence, in units of 4 x hidden operations per layer: of about
    12 hidden² weights, and of attention between all pairs of tokens."""
    return tokens * (6 * hidden + tokens)
