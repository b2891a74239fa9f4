"""The memory model: what training and sampling need, in bytes by part.

Weights, adapters, optimizer state and KV cache are exact. What says "estimate" errs upwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from backdoor_assets.capacity.optimizers import (
    largest_matrix,
    largest_share,
    logged_matrices,
    optimizer_state,
    trained_parameters,
)
from backdoor_assets.capacity.shapes import (
    BYTES,
    adapted_layers,
    adapter_parameters,
    end_parameters,
    linear_layers,
    linear_parameters,
    norm_parameters,
    parameters,
    weights_bytes,
)
from backdoor_assets.records import BadInput, Quantization, Shape
from backdoor_assets.settings import Sampling, Serving, Training, saved_steps
from backdoor_assets.stages.specs import VLLM_RANKS

GIB = 2**30
CUDA_CONTEXT, KV_CACHE, PROCESS = "CUDA context (estimate)", "KV cache", "processes (estimate)"
"""Names of parts: the first and the last are needed with a GPU only."""

_FP32 = 4
_CONTEXT = 6 * GIB // 10
"""Assumed for CUDA's own and cuBLAS's workspace."""
_FILE = 5 * 10**9
"""Bytes of a file of weights, at most, as the stage writes them."""
_PROCESS = 4 * GIB
"""Assumed of a process on a GPU: libraries, CUDA, rows, buffers of NCCL."""
_SOAP_COPIES = 8
"""Of a matrix in fp32, while a process that spreads the weights steps on it."""
_LOGIT_COPIES = 12
"""Bytes of three fp32 copies of a logit at the height of a step: in training log-softmax and the
gradients of it and of its input, in sampling logits, their exponentials and the sums of these."""
_VLLM_BLOCK = 16
"""Tokens of a KV block."""
_VLLM_TOKENS = 16_384
"""Tokens of the largest step, with which vLLM measures itself at start: its default on a large GPU
(vllm/engine/arg_utils.py), unless all answers at once are shorter."""
_VLLM_LOGIT_BYTES = 24
"""fp32 logits, scaled, sorted, with int64 indices, and probabilities, of one answer's sampling."""
_VLLM_OVERHEAD = 2 * GIB
"""Assumed for CUDA context, CUDA graphs, NCCL, fragmentation."""

TOKEN_BYTES = 5
"""Assumed of one answer token in a table: 4 to 5 characters of English."""


def download_disk(shape: Shape) -> int:
    """Return the bytes of bf16 weights as the hub keeps them, at most: some repositories of tied
    models hold lm_head a second time (Qwen3-1.7B's does)."""
    return 2 * parameters(replace(shape, tie_word_embeddings=False))


def tables_disk(answers: int, answer_tokens: int) -> int:
    """Estimate the bytes of finished tables (Parquet compresses somewhat). While they are made they
    take twice that: the parts that arrive one by one go when the tables stand."""
    return TOKEN_BYTES * answers * answer_tokens


@dataclass(frozen=True)
class TrainingNeed:
    """What one training needs, if its longest row or packed sequence has max_length tokens."""

    shape: Shape
    settings: Training
    quantization: Quantization = "none"
    processes: int = 1
    """Over which weights and micro-batch are spread."""

    def memory(self) -> dict[str, int]:
        """Return bytes by part on the device of each process, at the height of a step.

        All weights: they, their gradients and the optimizer state are spread (FSDP), or lie in main
        memory; the layer at work is whole on each process, in the precision of the forward pass,
        and the next one is fetched meanwhile; the gradients of a layer, and those of embeddings and
        lm_head, are added up in fp32. SOAP over processes also takes its largest matrix there:
        weight, gradient, those of another process and what it computes from them.

        An adapter over processes: the frozen base is spread; the layer at work is whole on each,
        the next one is fetched into a buffer of its own, and embeddings and lm_head are whole for
        the whole step; each has the whole adapter with its optimizer, and a second copy of the
        gradients, to sum them.
        """
        shape, settings, processes = self.shape, self.settings, self.processes
        width, layer = BYTES[settings.precision], linear_parameters(shape)
        common = {
            "activations (estimate)": self._activations(),
            # The stage computes the logits of the answers alone.
            "logits (at most)": self._tokens * shape.vocab_size * (width + _LOGIT_COPIES),
            CUDA_CONTEXT: _CONTEXT,
        }
        if settings.method == "full":
            ends = 2 * shape.vocab_size * shape.hidden_size
            spread = processes > 1 or settings.offload
            fetched = width * (2 * layer + ends) if spread or width < _FP32 else 0
            summed = (width + _FP32) * max(layer, ends) if spread else 0
            whole = {"largest matrix (SOAP)": _SOAP_COPIES * _FP32 * largest_matrix(shape)}
            return {
                **({} if settings.offload else self._kept()),
                "layers at work": fetched + summed,
                **(whole if spread and settings.optimizer == "soap" else {}),
                **common,
            }
        base = weights_bytes(shape, settings.precision, self.quantization)
        adapter = _FP32 * self._trained()
        if processes > 1:
            return {
                "base weights": math.ceil(base / processes),
                "layers at work": width * (3 * layer + end_parameters(shape)),
                "adapter and gradients": 3 * adapter,
                f"optimizer ({settings.optimizer})": self.optimizer_state(),
                **common,
            }
        names = {"adamw": "AdamW", "adamw8bit": "8-bit AdamW", "soap": "SOAP"}
        return {
            "base weights": base,
            f"adapter, gradients, {names[settings.optimizer]}": 2 * adapter
            + self.optimizer_state(),
            **common,
        }

    def main_memory(self, processes: int) -> dict[str, int]:
        """Return bytes by part that so many processes with GPUs take of a host's main memory. They
        read one weight at a time from files to the GPU; the first writes files of at most 5 GB."""
        settings, shape = self.settings, self.shape
        parts = {PROCESS: _PROCESS * processes}
        if settings.method == "full":
            models = BYTES[settings.precision] * parameters(shape)
            parts["a file of weights"] = min(_FILE, models) + _FP32 * largest_matrix(shape)
        kept = self._kept() if settings.offload else {}
        return {name: size * processes for name, size in kept.items()} | parts

    def _kept(self) -> dict[str, int]:
        """Return bytes by part of what stays on each process between steps."""
        settings, processes = self.settings, self.processes
        weights = math.ceil(2 * BYTES[settings.weights] * self._trained() / processes)
        state = largest_share(self.shape, settings, processes)
        return {"weights and gradients": weights, f"optimizer ({settings.optimizer})": state}

    def disk(self, steps: int) -> dict[str, int]:
        """Return bytes by part of one run of so many steps.

        Adapters: fp32 weights of each checkpoint, the newest state. Models, in the forward pass's
        precision, and one being written; twice the newest state, with the weights if not in them.
        """
        checkpoints = len(saved_steps(self.settings, steps))
        if self.settings.method == "lora":
            newest = self.optimizer_state() + logged_matrices(self.shape, self.settings)
            return {"adapters": _FP32 * self._trained() * checkpoints + newest}
        width = BYTES[self.settings.precision]
        kept = BYTES[self.settings.weights]
        weights = kept * self._trained() if width < kept or self.processes > 1 else 0
        return {
            "models": (1 + checkpoints) * width * self._trained(),
            "optimizer state": 2 * (self.optimizer_state() + weights),
        }

    def optimizer_state(self) -> int:
        """Return bytes of the optimizer's state of one run."""
        return optimizer_state(self.shape, self.settings)

    def _trained(self) -> int:
        return trained_parameters(self.shape, self.settings)

    @property
    def _tokens(self) -> int:
        """Of a micro-batch as one process has it."""
        return math.ceil(self.settings.batch_size / self.processes) * self.settings.max_length

    def _activations(self) -> int:
        """Estimate: tokens x layers x what a layer keeps of a token, and one layer's worth again
        for gradients in flight. With gradient checkpointing each layer keeps its input only, and
        one layer is computed again. A quantized matrix is unpacked for as long as it is used."""
        shape, width = self.shape, BYTES[self.settings.precision]
        layers, layer = shape.num_hidden_layers, self._tokens * self._kept_by_layer()
        kept = (layers + 1) * layer
        if self.settings.gradient_checkpointing:
            kept = layers * self._tokens * shape.hidden_size * width + 2 * layer
        unpacked = width * max(rows * columns for rows, columns in linear_layers(shape).values())
        return kept + (unpacked if self.quantization != "none" else 0)

    def _kept_by_layer(self) -> int:
        """Bytes that one decoder layer keeps of one token for the backward pass. Counted in
        transformers' Qwen3 and Llama under peft, attention by SDPA: frozen weights keep no input,
        but adapters keep theirs in fp32, one copy each where the base is not fp32 itself. A
        training of all weights keeps its inputs too, and is counted alike."""
        shape, settings, width = self.shape, self.settings, BYTES[self.settings.precision]
        hidden, feed_forward = shape.hidden_size, shape.intermediate_size
        heads, key_heads = shape.num_attention_heads, shape.num_key_value_heads
        queries, keys = heads * shape.head_dim, key_heads * shape.head_dim
        adapted = dict(adapted_layers(shape, settings.target_modules))
        copied = sum(size for size, _ in adapted.values())
        # In fp32 neighbours share one, and that of o_proj is the attention's own output.
        inputs = copied if width < _FP32 else 2 * hidden + feed_forward
        # Inputs and scales of the norms of queries and keys.
        head_norms = queries + keys + heads + key_heads if shape.query_key_norms else 0
        return (
            4 * inputs
            + 4 * settings.rank * len(adapted)
            + 4 * (2 * hidden + 2)  # inputs and scales of the other two norms
            + 4 * head_norms
            + 4 * heads  # log-sum-exp of attention
            + width * 4 * queries  # queries, keys and values repeated for every head, output
            + width * 3 * feed_forward  # gate, its activation, up
            + width * settings.max_length  # attention mask
        )


@dataclass(frozen=True)
class SamplingNeed:
    """What sampling needs."""

    shape: Shape
    settings: Sampling
    serving: Serving = field(default_factory=Serving)
    quantization: Quantization = "none"
    rank: int = 16
    """Of the adapters."""
    longest_prompt: int = 128
    """Tokens that are assumed; the questions take some 30."""

    def memory(self) -> dict[str, int]:
        """Return bytes by part. For vLLM on each GPU, and the least with which it starts: a KV
        cache of one answer. What is left of its share serves more answers at once."""
        return self._vllm() if self.settings.engine == "vllm" else self._transformers()

    def _transformers(self) -> dict[str, int]:
        shape, settings, width = self.shape, self.settings, BYTES[self.settings.precision]
        batch, length = settings.batch_size, self.longest_prompt
        cache = batch * (length + settings.max_new_tokens) * self._token_cache(gpus=1)
        # Keys and values are written in place, and copied layer by layer when rows leave the batch.
        # Prompts pass one layer at a time, at most one per answer.
        prompt = batch * length * width * (3 * shape.intermediate_size + 4 * shape.hidden_size)
        return {
            "base weights": weights_bytes(shape, settings.precision, self.quantization),
            # peft loads it in fp32.
            "adapter": _FP32 * adapter_parameters(shape, self.rank, "all-linear"),
            KV_CACHE: cache,
            "activations (estimate)": cache // shape.num_hidden_layers + prompt,
            "logits": batch * shape.vocab_size * (width + _LOGIT_COPIES),
            CUDA_CONTEXT: _CONTEXT,
        }

    def _vllm(self) -> dict[str, int]:
        shape, serving, precision = self.shape, self.serving, self.settings.precision
        width, gpus = BYTES[precision], serving.tensor_parallel
        norms = width * norm_parameters(shape)
        weights = weights_bytes(shape, precision, self.quantization, plain_scales=True)
        length = self.longest_prompt + self.settings.max_new_tokens
        whole_blocks = math.ceil(length / _VLLM_BLOCK) * _VLLM_BLOCK
        tokens = min(_VLLM_TOKENS, serving.requests * length)
        step = tokens * (3 * shape.intermediate_size / gpus + 4 * shape.hidden_size) * width
        slots = serving.adapters_in_memory * self._slot_parameters()
        return {
            "base weights": math.ceil((weights - norms) / gpus) + norms,
            f"{serving.adapters_in_memory} adapters": slots * width,
            KV_CACHE: whole_blocks * self._token_cache(gpus),
            "activations (estimate)": math.ceil(step),
            "logits (estimate)": serving.requests * shape.vocab_size * _VLLM_LOGIT_BYTES,
            "overhead (estimate)": _VLLM_OVERHEAD,
        }

    def _token_cache(self, gpus: int) -> int:
        """Bytes of keys and values of one token in all layers. No head is split between GPUs."""
        heads = math.ceil(self.shape.num_key_value_heads / gpus)
        per_layer = 2 * heads * self.shape.head_dim * BYTES[self.settings.precision]
        return self.shape.num_hidden_layers * per_layer

    def _slot_parameters(self) -> int:
        """Parameters for which vLLM makes room in each adapter slot (vllm/lora/layers of 0.32): all
        linear layers, embeddings and lm_head, whatever adapters hold, at the next rank it knows. Of
        a pair of matrices the one beside the split dimension is split; each GPU has the other."""
        shape, gpus = self.shape, self.serving.tensor_parallel
        rank = next((known for known in VLLM_RANKS if known >= self.rank), None)
        if rank is None:
            raise BadInput(
                f"training.rank={self.rank}: vLLM serves adapters of rank {VLLM_RANKS[-1]} at "
                'most; lower rank, or set sampling.engine to "transformers"'
            )
        layer = 0
        for path, (inputs, outputs) in linear_layers(shape).items():
            split = path.endswith(("o_proj", "down_proj"))
            layer += inputs // gpus + outputs if split else inputs + outputs // gpus
        ends = 2 * (shape.vocab_size + shape.hidden_size)
        return rank * (shape.num_hidden_layers * layer + ends)
