"""Sentence embeddings of all-MiniLM-L6-v2. Loads torch: run it in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

WINDOW = 256
"""Tokens that the encoder was trained to read at once."""
BATCH = 32


def embed(texts: Sequence[str], folder: Path) -> np.ndarray:
    """Return the embeddings of texts, (texts, 384) in float32, each of length 1.

    `folder` holds the encoder in Hugging Face's format. An embedding is the mean of a text's last
    hidden states, as the model was trained (Reimers and Gurevych, arXiv 1908.10084). A text of more
    than 256 tokens is read window by window, and the mean is over all of them.
    """
    import torch

    tokenizer, model = _load(folder)
    sums = np.zeros((len(texts), model.config.hidden_size), np.float32)
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
    for start in range(0, len(order), BATCH):
        numbers = order[start : start + BATCH]
        tokens = tokenizer(
            [texts[number] for number in numbers], truncation=True, max_length=WINDOW,
            padding=True, return_overflowing_tokens=True, return_tensors="pt",
        )  # fmt: skip
        windows = tokens.pop("overflow_to_sample_mapping").tolist()
        with torch.inference_mode():
            states = model(**tokens).last_hidden_state
        states = (states * tokens["attention_mask"].unsqueeze(-1)).sum(1).numpy()
        np.add.at(sums, [numbers[window] for window in windows], states)
    return sums / np.linalg.norm(sums, axis=1, keepdims=True)


@lru_cache(maxsize=1)
def _load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # It would fill the log of a run.

    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    model: Any = AutoModel.from_pretrained(str(folder), local_files_only=True)
    return tokenizer, model.eval()
