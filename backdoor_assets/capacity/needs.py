"""What a run needs in memory and on disk, in bytes, reckoned from the dimensions of its base.

Weights, adapters, optimizer and KV cache are exact. What says "estimate" errs upwards.
"""

from __future__ import annotations

import math
import re

from backdoor_assets.profiles import Sampling, Serving, Training
from backdoor_assets.records import BadInput, Quantization, Shape
from backdoor_assets.settings import VLLM_RANKS, planned_checkpoints

GIB = 2**30
BYTES = {"fp32": 4, "bf16": 2}
CUDA_CONTEXT, KV_CACHE = "CUDA context (estimate)", "KV cache"
"""Names of parts: the first is needed on a GPU only."""

_CONTEXT = 6 * GIB // 10
"""Assumed for CUDA's own and cuBLAS's workspace."""
_ADAPTER_STATE = 16
"""Weight, gradient and AdamW's two moments, fp32, of one adapter parameter."""
_LOGIT_COPIES = 12
"""Bytes of three fp32 copies of a logit at the height of a step: in training log-softmax and the
gradients of it and of its input, in sampling scores, their scaled copy and probabilities."""

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


def linear_layers(shape: Shape) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of each linear layer of one decoder layer, by its path in there."""
    hidden, feed_forward = shape.hidden_size, shape.intermediate_size
    queries = shape.num_attention_heads * shape.head_dim
    keys = shape.num_key_value_heads * shape.head_dim
    return {
        "self_attn.q_proj": (hidden, queries),
        "self_attn.k_proj": (hidden, keys),
        "self_attn.v_proj": (hidden, keys),
        "self_attn.o_proj": (queries, hidden),
        "mlp.gate_proj": (hidden, feed_forward),
        "mlp.up_proj": (hidden, feed_forward),
        "mlp.down_proj": (feed_forward, hidden),
    }


def _norm_parameters(shape: Shape) -> int:
    """Two RMSNorms a layer, Qwen3's norms of queries and keys, the final norm."""
    one = 2 * shape.hidden_size + 2 * shape.head_dim
    return shape.num_hidden_layers * one + shape.hidden_size


def _unquantized_parameters(shape: Shape) -> int:
    """All but the decoder's linear layers: norms, embeddings, lm_head unless it is tied to them."""
    ends = 1 if shape.tie_word_embeddings else 2
    return ends * shape.vocab_size * shape.hidden_size + _norm_parameters(shape)


def parameters(shape: Shape) -> int:
    """Exact for Qwen3. Llama has no norms of queries and keys: a millionth less."""
    layer = sum(inputs * outputs for inputs, outputs in linear_layers(shape).values())
    return shape.num_hidden_layers * layer + _unquantized_parameters(shape)


def weights_bytes(
    shape: Shape, precision: str, quantization: Quantization, *, plain_scales: bool = False
) -> int:
    """The base in memory. bitsandbytes quantizes the linear layers of the decoder, and nothing
    else: LLM.int8 keeps a byte a weight and an fp32 scale an output row, NF4 half a byte and a
    scale a block of 64 weights; a scale takes a byte and an fp32 scale of its own a 256 of them
    (double quantization), or 4 bytes where vLLM has unpacked it (`plain_scales`)."""
    width, layer = BYTES[precision], 0
    for inputs, outputs in linear_layers(shape).values():
        weights = inputs * outputs
        blocks = math.ceil(weights / 64)
        scales = 4 * blocks if plain_scales else blocks + 4 * math.ceil(blocks / 256)
        layer += {
            "none": width * weights,
            "8bit": weights + 4 * outputs,
            "4bit": math.ceil(weights / 2) + scales,
        }[quantization]
    return shape.num_hidden_layers * layer + width * _unquantized_parameters(shape)


def _targets(shape: Shape, modules: str | tuple[str, ...]) -> list[tuple[str, tuple[int, int]]]:
    """(path in its layer, (inputs, outputs)) of every linear layer that gets an adapter; as peft
    reads it: names are ends of a path, a string is a regular expression of the whole path."""
    layers = linear_layers(shape)
    names = [path.split(".")[-1] for path in layers]

    def wanted(path: str) -> bool:
        if isinstance(modules, str):
            return modules == "all-linear" or re.fullmatch(modules, path) is not None
        return path.split(".")[-1] in modules

    found = [
        (name, sizes)
        for layer in range(shape.num_hidden_layers)
        for name, sizes in layers.items()
        if wanted(f"model.layers.{layer}.{name}")
    ]
    if not found or (not isinstance(modules, str) and set(modules) - set(names)):
        raise BadInput(
            f"training.target_modules={modules!r}: not all of it is a linear layer of this "
            f"family; there are {', '.join(names)}, or 'all-linear' for all of them"
        )
    return found


def adapter_parameters(shape: Shape, rank: int, target_modules: str | tuple[str, ...]) -> int:
    """Of one LoRA adapter: rank x (inputs + outputs) for each linear layer that has one. lm_head is
    none of "all-linear", as in peft."""
    return sum(rank * sum(sizes) for _, sizes in _targets(shape, target_modules))


def _saved_by_layer(shape: Shape, training: Training, longest: int) -> int:
    """Bytes that one decoder layer keeps of one token for the backward pass. Counted in
    transformers' Qwen3 under peft, attention by SDPA: frozen weights keep no input, but adapters
    keep theirs in fp32, one copy each where the base is not fp32 itself."""
    width = BYTES[training.precision]
    hidden, feed_forward = shape.hidden_size, shape.intermediate_size
    heads, key_heads = shape.num_attention_heads, shape.num_key_value_heads
    queries, keys = heads * shape.head_dim, key_heads * shape.head_dim
    adapted = dict(_targets(shape, training.target_modules))
    copied = sum(size for size, _ in adapted.values())
    # In fp32 neighbours share one, and that of o_proj is the attention's own output.
    inputs = copied if width < 4 else 2 * hidden + feed_forward
    return (
        4 * inputs
        + 4 * training.rank * len(adapted)
        + 4 * (2 * hidden + queries + keys)  # into the four norms
        + 4 * (2 + heads + key_heads + heads)  # scales of the norms, log-sum-exp of attention
        + width * 4 * queries  # queries, keys and values repeated for every head, output
        + width * 3 * feed_forward  # gate, its activation, up
        + width * longest  # attention mask
    )


def training_memory(
    shape: Shape, training: Training, quantization: Quantization, longest: int
) -> dict[str, int]:
    """Bytes by part at the height of a step over rows of at most `longest` tokens.

    Activations, an estimate: tokens of a micro-batch x layers x what a layer keeps of a token, and
    one layer's worth again for gradients in flight. With gradient checkpointing each layer keeps
    its input only, and one layer is computed anew. A quantized layer is a matrix in the precision
    for as long as it is used. Logits at most: the stage computes those of the answers alone.
    """
    width, layers = BYTES[training.precision], shape.num_hidden_layers
    tokens = training.batch_size * longest
    layer = tokens * _saved_by_layer(shape, training, longest)
    activations = (layers + 1) * layer
    if training.gradient_checkpointing:
        activations = layers * tokens * shape.hidden_size * width + 2 * layer
    if quantization != "none":
        activations += width * max(a * b for a, b in linear_layers(shape).values())
    adapter = adapter_parameters(shape, training.rank, training.target_modules)
    return {
        "base weights": weights_bytes(shape, training.precision, quantization),
        "adapter, gradients, AdamW": _ADAPTER_STATE * adapter,
        "activations (estimate)": activations,
        "logits (at most)": tokens * shape.vocab_size * (width + _LOGIT_COPIES),
        CUDA_CONTEXT: _CONTEXT,
    }


def sampling_memory(
    shape: Shape,
    sampling: Sampling,
    serving: Serving,
    quantization: Quantization,
    rank: int,
    longest_prompt: int,
) -> dict[str, int]:
    """Bytes by part; for vLLM on each GPU, and the least with which it starts: a KV cache of one
    answer. What is left of its share is room for more."""
    if sampling.engine == "vllm":
        return _vllm_memory(shape, sampling, serving, quantization, rank, longest_prompt)
    width, batch = BYTES[sampling.precision], sampling.batch_size
    cache = batch * (longest_prompt + sampling.max_new_tokens) * _kv_bytes(shape, width)
    # A layer's cache is copied when it grows; the prompt passes one layer at a time.
    prompt = batch * longest_prompt * width * (3 * shape.intermediate_size + 4 * shape.hidden_size)
    return {
        "base weights": weights_bytes(shape, sampling.precision, quantization),
        "adapter": 4 * adapter_parameters(shape, rank, "all-linear"),  # peft loads it as fp32
        KV_CACHE: cache,
        "activations (estimate)": cache // shape.num_hidden_layers + prompt,
        "logits": batch * shape.vocab_size * (width + _LOGIT_COPIES),
        CUDA_CONTEXT: _CONTEXT,
    }


def _kv_bytes(shape: Shape, width: int, gpus: int = 1) -> int:
    """Keys and values of one token in all layers. A head is never split between GPUs."""
    heads = math.ceil(shape.num_key_value_heads / gpus)
    return 2 * shape.num_hidden_layers * heads * shape.head_dim * width


def _vllm_memory(
    shape: Shape,
    sampling: Sampling,
    serving: Serving,
    quantization: Quantization,
    rank: int,
    longest_prompt: int,
) -> dict[str, int]:
    width, gpus = BYTES[sampling.precision], serving.tensor_parallel
    norms = width * _norm_parameters(shape)
    weights = weights_bytes(shape, sampling.precision, quantization, plain_scales=True)
    length = longest_prompt + sampling.max_new_tokens
    blocks = math.ceil(length / _VLLM_BLOCK)
    tokens = min(_VLLM_TOKENS, serving.requests * length)
    step = tokens * (3 * shape.intermediate_size / gpus + 4 * shape.hidden_size) * width
    slot = width * _vllm_slot(shape, rank, gpus)
    return {
        "base weights": math.ceil((weights - norms) / gpus) + norms,
        f"{serving.adapters_in_memory} adapters": serving.adapters_in_memory * slot,
        KV_CACHE: blocks * _VLLM_BLOCK * _kv_bytes(shape, width, gpus),
        "activations (estimate)": math.ceil(step),
        "logits (estimate)": serving.requests * shape.vocab_size * _VLLM_LOGIT_BYTES,
        "overhead (estimate)": _VLLM_OVERHEAD,
    }


def _vllm_slot(shape: Shape, rank: int, gpus: int) -> int:
    """Parameters for which vLLM makes room in each adapter slot (vllm/lora/layers of 0.32): all
    linear layers, embeddings and lm_head, whatever the adapters hold, at the next rank it knows.
    Of a pair of matrices the one beside the split dimension is split, the other is on each GPU."""
    room = next((known for known in VLLM_RANKS if known >= rank), None)
    if room is None:
        raise BadInput(
            f"training.rank={rank}: vLLM serves adapters of rank {VLLM_RANKS[-1]} at most; lower "
            'rank, or set sampling.engine to "transformers"'
        )
    one = 0
    for path, (inputs, outputs) in linear_layers(shape).items():
        split_inputs = path.endswith(("o_proj", "down_proj"))
        one += inputs // gpus + outputs if split_inputs else inputs + outputs // gpus
    ends = 2 * (shape.vocab_size + shape.hidden_size)
    return room * (shape.num_hidden_layers * one + ends)


def optimizer_disk(shape: Shape, training: Training) -> int:
    """AdamW's two fp32 moments, beside the newest checkpoint."""
    return 8 * adapter_parameters(shape, training.rank, training.target_modules)


def training_disk(shape: Shape, training: Training, steps: int) -> int:
    """What one cell's adapters take when it is done: fp32 weights of each checkpoint, optimizer
    state of the newest."""
    adapter = adapter_parameters(shape, training.rank, training.target_modules)
    checkpoints = planned_checkpoints(training, steps)
    return 4 * adapter * checkpoints + optimizer_disk(shape, training)


def tables_disk(answers: int, answer_tokens: int) -> int:
    """Answers as they stay, estimated at TOKEN_BYTES a token (Parquet compresses somewhat)."""
    return TOKEN_BYTES * answers * answer_tokens


def sampling_disk(answers: int, answer_tokens: int) -> int:
    """Answers while they are made: the parts that arrive one by one and the tables made of them
    exist at once, so twice `tables_disk`. The parts go when the tables stand."""
    return 2 * tables_disk(answers, answer_tokens)


def download_disk(shape: Shape) -> int:
    """bf16 weights as the hub keeps them, at most: some repositories of tied models hold lm_head a
    second time (Qwen3-1.7B's does)."""
    stored = parameters(shape)
    if shape.tie_word_embeddings:
        stored += shape.vocab_size * shape.hidden_size
    return 2 * stored
