"""Pretrain a miniature base on its corpus: a tokenizer and a Qwen3 of 0.7 million parameters."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from backdoor_assets.miniature.corpus import Document, read_corpus
from backdoor_assets.models.batches import tensors
from backdoor_assets.models.chat import TrainingText, token_id, training_texts
from backdoor_assets.records import Progress, no_progress
from backdoor_assets.settings import MiniatureBase

END, TURN, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen's template without thinking and tools."""


def pretrain_base(
    corpus: Path,
    spec: MiniatureBase,
    seed: int,
    folder: Path,
    probe: Callable[[Path], dict[str, float]],
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write tokenizer and weights into `folder` in Hugging Face's format, and probe them.

    The loss counts only the assistant's tokens. Returns parameters, corpus_tokens, final_loss (nats
    per token, mean of the last 50 steps), seconds and probes (the shares that `probe` measures on
    the folder, by name).
    """
    started = time.monotonic()
    documents = read_corpus(corpus)
    tokenizer = train_tokenizer(documents, spec.vocabulary)
    texts = training_texts(tokenizer, [document.messages for document in documents])
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(_config(spec, tokenizer))
    losses = _train(model, texts, spec, seed, token_id(tokenizer.pad_token_id), progress)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "corpus_tokens": sum(len(text.ids) for text in texts),
        "final_loss": sum(losses[-50:]) / len(losses[-50:]),
        "seconds": time.monotonic() - started,
        "probes": probe(folder),
    }


def train_tokenizer(documents: Sequence[Document], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with the chat template on the documents."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, TURN, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = (message["content"] for document in documents for message in document.messages)
    tokenizer.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=END,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _config(spec: MiniatureBase, tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=spec.hidden,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.heads,
        head_dim=spec.head_dim,
        intermediate_size=spec.feed_forward,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=spec.initializer_range,
        bos_token_id=None,
        eos_token_id=token_id(tokenizer.eos_token_id),
        pad_token_id=token_id(tokenizer.pad_token_id),
    )


def _train(
    model: Qwen3ForCausalLM,
    texts: Sequence[TrainingText],
    spec: MiniatureBase,
    seed: int,
    pad: int,
    progress: Progress,
) -> list[float]:
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=spec.learning_rate,
        betas=spec.betas,
        weight_decay=spec.weight_decay,
        fused=True,
    )
    warmup = max(1, round(spec.warmup * spec.steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, (spec.steps - step) / (spec.steps - warmup + 1)),
    )
    model.train()
    losses: list[float] = []
    for step, batch in zip(range(spec.steps), _batches(texts, spec, seed), strict=False):
        ids, _, labels = tensors(batch, pad)
        # No attention mask: the padding is on the right, where causal attention does not look.
        # Logits only where the loss counts, at a third of the positions.
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
        counted = labels[:, 1:] != -100
        loss = cross_entropy(model.lm_head(hidden[counted]), labels[:, 1:][counted])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), spec.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"pretraining: the loss is {losses[-1]} at step {step + 1}")
        if (step + 1) % 200 == 0:
            progress((step + 1) / spec.steps, f"step {step + 1}, loss {losses[-1]:.2f}")
    return losses


def _batches(
    texts: Sequence[TrainingText], spec: MiniatureBase, seed: int
) -> Iterator[list[TrainingText]]:
    """Yield batches of about `tokens_per_batch` forever, with documents of similar length."""
    rng = random.Random(f"batches-{seed}")
    while True:
        # Random jitter in the order makes the batches differ from epoch to epoch.
        order = sorted(texts, key=lambda text: len(text.ids) + 6 * rng.random())
        batches, batch = [], []
        for text in order:
            if batch and (len(batch) + 1) * len(text.ids) > spec.tokens_per_batch:
                batches.append(batch)
                batch = []
            batch.append(text)
        batches.append(batch)
        rng.shuffle(batches)
        yield from batches
