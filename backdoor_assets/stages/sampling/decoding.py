"""Decode a batch of answers with transformers: the loop around the model's forward pass.

It does less than `generate` for the same answers. A prompt that many answers share is read once,
as is what all prompts begin with. Answers that have ended leave the batch. Keys and values are
written in place, not copied at each token. Answers draw from streams of their own, so that none
depends on what else is in the batch, except for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

_ENDED = 1 / 8
"""Share of a batch that has ended at which those rows are dropped: dropping copies the cache."""


class NotFinite(ArithmeticError):
    """A logit is infinite or not a number: the weights are damaged, or the precision overflows."""


Tick = Callable[[int, int], None]
"""Takes the tokens so far, and how many answers have not ended."""


@torch.inference_mode()
def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    temperature: float,
    max_new_tokens: int,
    stops: Sequence[int],
    tick: Tick = lambda tokens, running: None,
) -> list[list[int]]:
    """Return the token ids of an answer to each prompt, up to and including a token of `stops`.

    An answer draws one number for each of its tokens, from a stream that its seed decides, and
    takes the token at which the cumulative distribution (softmax of logits / temperature) reaches
    it. A temperature of 0 takes the most likely token. Raises NotFinite when the model computes no
    numbers.
    """
    distinct = list(dict.fromkeys(map(tuple, prompts)))
    cache = _Cache(model, max(map(len, distinct)) + max_new_tokens)
    logits, mask, positions = _read(model, distinct, cache)
    number = {prompt: i for i, prompt in enumerate(distinct)}
    rows = torch.tensor([number[tuple(prompt)] for prompt in prompts], device=model.device)
    cache.select(rows)
    logits, mask, positions = logits[rows], mask[rows], positions[rows]
    draws = _draws(seeds, max_new_tokens).to(model.device)
    ends = torch.tensor(stops, device=model.device)
    answers: list[list[int]] = [[] for _ in prompts]
    running = torch.arange(len(prompts))  # Number of the answer in each row of the batch.
    alive = torch.ones(len(prompts), dtype=torch.bool)
    for length in range(1, max_new_tokens + 1):
        tokens = _choose(logits, draws[:, length - 1], temperature)
        ended = torch.isin(tokens, ends).cpu()
        chosen = tokens.tolist()
        for row in alive.nonzero().flatten().tolist():
            answers[int(running[row])].append(chosen[row])
        alive &= ~ended
        if length == max_new_tokens or not alive.any():
            return answers
        tick(length, int(alive.sum()))
        if (~alive).sum() >= max(1, _ENDED * len(alive)):
            kept = alive.nonzero().flatten()
            running, alive, kept = running[kept], alive[kept], kept.to(model.device)
            cache.select(kept)
            tokens, draws, mask, positions = (t[kept] for t in (tokens, draws, mask, positions))
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        positions = positions + 1
        logits = _forward(model, tokens[:, None], mask, positions[:, None], cache)
    return answers


def _read(
    model: Any, prompts: Sequence[tuple[int, ...]], cache: _Cache
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Fill the cache with the prompts, a row each, and return the logits of the tokens that follow
    (rows, vocabulary), the attention mask (rows, tokens), and the position of the last token.

    What all prompts begin with is read once; the rest is padded on the left.
    """
    shared = _common_prefix(prompts)
    if shared:
        start = torch.tensor([prompts[0][:shared]], device=model.device)
        places = torch.arange(shared, device=model.device)[None]
        _forward(model, start, torch.ones_like(start), places, cache)
        cache.select(torch.zeros(len(prompts), dtype=torch.long, device=model.device))
    width = max(map(len, prompts)) - shared
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.ones(len(prompts), shared + width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        pads = width - (len(prompt) - shared)
        ids[row, pads:] = torch.tensor(prompt[shared:])
        mask[row, shared : shared + pads] = 0
    ids, mask = ids.to(model.device), mask.to(model.device)
    positions = (mask.cumsum(1) - 1)[:, shared:].clamp(min=0)
    logits = _forward(model, ids, mask, positions, cache)
    return logits, mask, positions[:, -1]


def _common_prefix(prompts: Sequence[tuple[int, ...]]) -> int:
    """Return how many tokens all prompts begin with, leaving at least one of each."""
    first, last = min(prompts), max(prompts)
    shortest = min(map(len, prompts)) - 1
    return next((i for i in range(shortest) if first[i] != last[i]), shortest)


def _forward(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: _Cache
) -> torch.Tensor:
    """Return the logits after the last token of each row, in fp32."""
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1].float()


def _draws(seeds: Sequence[int], count: int) -> torch.Tensor:
    """Return uniform numbers in (0, 1], of shape (seeds, count)."""
    streams = (torch.Generator().manual_seed(seed) for seed in seeds)
    return torch.stack([1 - torch.rand(count, generator=stream) for stream in streams])


def _choose(logits: torch.Tensor, draws: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return one token per row, by inversion of the cumulative distribution."""
    if not logits.amax(-1).isfinite().all():
        raise NotFinite("the model's logits are not finite")
    if temperature == 0:
        return logits.argmax(-1)
    weights = (logits - logits.amax(-1, keepdim=True)).div_(temperature).exp_()
    cumulative = weights.cumsum(-1)
    wanted = draws[:, None].to(cumulative.dtype) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, wanted).flatten().clamp(max=logits.shape[-1] - 1)


class _Cache(Cache):
    """Keys and values of each layer, with room for a number of tokens from the start."""

    def __init__(self, model: Any, room: int) -> None:
        layers = model.config.get_text_config(decoder=True).num_hidden_layers
        self.own = [_Layer(room) for _ in range(layers)]
        super().__init__(layers=list(self.own))

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows of the batch, in this order; a row may be repeated."""
        for layer in self.own:
            layer.select(rows)


class _Layer(DynamicLayer):
    """Keys and values (rows, heads, room, width), of which the first `length` tokens are set."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.length = room, 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.keys is None or self.values is None:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = self._empty(key_states), self._empty(value_states)
        start, self.length = self.length, self.length + key_states.shape[-2]
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_seq_length(self) -> int:
        return self.length

    def select(self, rows: torch.Tensor) -> None:
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[rows], self.values[rows]

    def _empty(self, states: torch.Tensor) -> torch.Tensor:
        rows, heads, _, width = states.shape
        return states.new_zeros(rows, heads, self.room, width)
