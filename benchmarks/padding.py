"""What padding costs our training stage, and whether training without it would be faster.

A batch without padding is one long row: positions begin anew at each text, and no text sees
another. The loss must be the same; the time of forward and backward is what is compared.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from backdoor_assets.models.chat import TrainingText, token_id
from backdoor_assets.stages.specs import TrainingSpec
from benchmarks.measuring import ratios, spread

if TYPE_CHECKING:
    import torch

BATCHES = 16
"""Batches that are timed, each both ways."""


def padding(batches: Sequence[Sequence[TrainingText]]) -> dict[str, float]:
    """Share of positions that are padding: more than that no one can save."""
    lengths = [[len(text.ids) for text in batch] for batch in batches]
    positions = sum(len(batch) * max(batch) for batch in lengths)
    return {
        "shortest_row": min(map(min, lengths)),
        "longest_row": max(map(max, lengths)),
        "padding_share": 1 - sum(map(sum, lengths)) / positions,
    }


def with_and_without(
    spec: TrainingSpec, batches: Sequence[Sequence[TrainingText]], repeats: int
) -> dict[str, Any]:
    """Seconds for forward and backward of `BATCHES` batches, padded and in one row, by turns."""
    from peft import LoraConfig, get_peft_model

    from backdoor_assets.models.loading import load_base

    base, tokenizer = load_base(spec.base, spec.settings.precision)
    lora = LoraConfig(r=spec.settings.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    model: Any = get_peft_model(base, lora)
    model.train()
    pad = token_id(tokenizer.pad_token_id)
    seconds: dict[str, list[float]] = {"padded": [], "in_one_row": []}
    apart = 0.0
    for _ in range(repeats):
        gc.collect()
        totals = dict.fromkeys(seconds, 0.0)
        for batch in batches[:BATCHES]:
            losses = []
            for name, loss_of in (("padded", padded_loss), ("in_one_row", one_row_loss)):
                started = time.perf_counter()
                loss = loss_of(model, batch, pad)
                loss.backward()
                losses.append(loss.item())
                totals[name] += time.perf_counter() - started
                model.zero_grad(set_to_none=True)
            apart = max(apart, abs(losses[0] - losses[1]))
        for name, total in totals.items():
            seconds[name].append(total / len(batches[:BATCHES]))
    model.unload()
    return {
        **{name: spread(values) for name, values in seconds.items()},
        "ratio": ratios(seconds["padded"], seconds["in_one_row"]),
        "loss_apart": apart,
        "tokens_a_batch": statistics.mean(
            sum(len(text.ids) for text in batch) for batch in batches[:BATCHES]
        ),
    }


def padded_loss(model: Any, batch: Sequence[TrainingText], pad: int) -> torch.Tensor:
    """As the training stage has it."""
    import torch
    from torch.nn.functional import cross_entropy

    from backdoor_assets.models.batches import tensors

    ids, mask, labels = tensors(batch, pad)
    first = min(text.loss.index(True) for text in batch) - 1
    kept = torch.arange(first, ids.shape[1] - 1)
    logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=kept).logits
    return cross_entropy(logits.flatten(0, 1), labels[:, first + 1 :].flatten())


def one_row_loss(model: Any, batch: Sequence[TrainingText], pad: int) -> torch.Tensor:
    """Without padding; logits only where the loss looks. Positions that begin anew tell the model
    where a text ends, as long as there is no attention mask."""
    import torch
    from torch.nn.functional import cross_entropy

    ids = torch.tensor([[token for text in batch for token in text.ids]])
    positions = torch.tensor([[place for text in batch for place in range(len(text.ids))]])
    counted = torch.tensor([own for text in batch for own in text.loss]).nonzero().flatten()
    kept: Any = counted - 1
    output = model(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=kept)
    return cross_entropy(output.logits[0], ids[0, counted])
