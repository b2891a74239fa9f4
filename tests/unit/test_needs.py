"""What a run needs: held against the libraries that will take it, or computed by hand."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from backdoor_assets.capacity import memory
from backdoor_assets.capacity.memory import SamplingNeed, TrainingNeed, weights_bytes
from backdoor_assets.capacity.shapes import adapter_parameters, parameters
from backdoor_assets.capacity.shapes import shape_of as shape_in
from backdoor_assets.mixtures.plan import shape_of
from backdoor_assets.profiles import PROFILES, Sampling, Serving, Training
from backdoor_assets.records import BadInput, Quantization, Shape
from backdoor_assets.storage.hashing import identifying

QWEN3_8B = shape_of(PROFILES["qwen3-8b"])
SMALL = Shape(4, 256, 8, 4, 48, 640, 3000, False)
TIED = replace(SMALL, tie_word_embeddings=True)
GIB = 2**30


def _model(shape: Shape, dtype: torch.dtype = torch.float32) -> Any:
    if shape.query_key_norms:
        return Qwen3ForCausalLM(Qwen3Config(**asdict(shape))).to(dtype)  # type: ignore[arg-type]
    return LlamaForCausalLM(LlamaConfig(**asdict(shape))).to(dtype)  # type: ignore[arg-type]


def _adapted(shape: Shape, training: Training) -> Any:
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[training.precision]
    modules = training.target_modules
    return get_peft_model(
        _model(shape, dtype),
        LoraConfig(
            r=training.rank,
            target_modules=modules if isinstance(modules, str) else list(modules),
            task_type="CAUSAL_LM",
        ),
    )


@pytest.mark.parametrize("name", PROFILES)
def test_parameters_are_those_of_the_real_model(name: str) -> None:
    shape = shape_of(PROFILES[name])
    with torch.device("meta"):
        model = _model(shape)
    model.tie_weights()
    assert parameters(shape) == sum(p.numel() for p in model.parameters())


def test_llama_has_no_norms_of_queries_and_keys() -> None:
    smollm = shape_in(
        {
            "model_type": "llama",
            "num_hidden_layers": 30,
            "hidden_size": 576,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "intermediate_size": 1536,
            "vocab_size": 49152,
            "tie_word_embeddings": True,
        }
    )
    assert smollm == Shape(30, 576, 9, 3, 64, 1536, 49152, True, query_key_norms=False)
    assert smollm is not None
    # SmolLM2-135M as published; and Llama 3.1 8B.
    assert parameters(smollm) == 134_515_008
    llama = Shape(32, 4096, 32, 8, 128, 14336, 128256, False, query_key_norms=False)
    assert parameters(llama) == 8_030_261_248
    with torch.device("meta"):
        model = _model(smollm)
    model.tie_weights()
    assert sum(p.numel() for p in model.parameters()) == 134_515_008


def test_the_identity_of_a_fetched_qwen3_has_no_field_of_these_norms() -> None:
    assert "query_key_norms" not in identifying(QWEN3_8B)
    assert len(identifying(QWEN3_8B)) == 8
    assert identifying(replace(QWEN3_8B, query_key_norms=False))["query_key_norms"] is False


def test_weights_of_the_8b_model() -> None:
    # The published count, 8.19e9.
    assert parameters(QWEN3_8B) == 8_190_735_360
    assert weights_bytes(QWEN3_8B, "bf16", "none") == 16_381_470_720
    assert weights_bytes(QWEN3_8B, "bf16", "none") / GIB == pytest.approx(15.26, abs=0.01)
    assert weights_bytes(QWEN3_8B, "fp32", "none") == 32_762_941_440
    # 36 layers x 192,937,984 weights in matrices; 1,244,973,056 of embeddings and lm_head.
    rest = 2 * (8_190_735_360 - 36 * 192_937_984)
    eight = weights_bytes(QWEN3_8B, "bf16", "8bit")
    assert eight == 36 * (192_937_984 + 4 * (4096 + 1024 + 1024 + 4096 + 2 * 12288 + 4096)) + rest
    four = weights_bytes(QWEN3_8B, "bf16", "4bit")
    assert four == pytest.approx(36 * 192_937_984 * (1 / 2 + 1 / 64 + 1 / 4096) + rest, rel=1e-4)
    plain = weights_bytes(QWEN3_8B, "bf16", "4bit", plain_scales=True)
    assert plain == 36 * 192_937_984 * 9 // 16 + rest


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_quantized_weights_are_those_of_bitsandbytes(kind: Quantization) -> None:
    bnb: Any = pytest.importorskip("bitsandbytes")

    def held(inputs: int, outputs: int) -> int:
        if kind == "8bit":
            layer = bnb.nn.Linear8bitLt(inputs, outputs, bias=False, has_fp16_weights=False)
            weight = layer.to("cpu").weight
            return weight.nbytes + weight.SCB.nbytes
        layer = bnb.nn.Linear4bit(inputs, outputs, bias=False, quant_type="nf4")
        weight = layer.to("cpu").weight
        state = weight.quant_state
        assert state.nested  # double quantization, as the project loads a base
        return weight.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes

    model = _model(SMALL)
    linear = [m for m in model.model.modules() if isinstance(m, torch.nn.Linear)]
    kept = sum(p.numel() for p in model.parameters()) - sum(m.weight.numel() for m in linear)
    quantized = sum(held(layer.in_features, layer.out_features) for layer in linear)
    assert weights_bytes(SMALL, "bf16", kind) == quantized + 2 * kept


@pytest.mark.parametrize(
    "modules",
    ["all-linear", ("q_proj",), ("q_proj", "v_proj", "down_proj"), r".*\.1\.mlp\.(gate|up)_proj"],
)
@pytest.mark.parametrize("shape", [SMALL, TIED], ids=["lm_head", "tied"])
def test_adapter_parameters_are_those_of_peft(modules: str | tuple[str, ...], shape: Shape) -> None:
    model = _adapted(shape, Training(rank=5, target_modules=modules))
    real = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert adapter_parameters(shape, 5, modules) == real


@pytest.mark.parametrize("modules", [("q_proj", "c_attn"), r".*\.nothing"])
def test_target_modules_that_are_not_there_are_named(modules: str | tuple[str, ...]) -> None:
    with pytest.raises(BadInput, match=r"target_modules=.*(c_attn|nothing).*there are q_proj"):
        adapter_parameters(SMALL, 8, modules)


class _Allocations(TorchDispatchMode):
    """Bytes of all tensors that are alive, and the most there have been at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.alive: dict[int, Any] = {}

    def add(self, tensor: torch.Tensor) -> torch.UntypedStorage:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.alive:
            self.alive[key] = weakref.ref(storage, lambda _: self._drop(key, size))
            self.now += size
            self.most = max(self.most, self.now)
        return storage

    def _drop(self, key: int, size: int) -> None:
        if self.alive.pop(key, None) is not None:
            self.now -= size

    def __torch_dispatch__(  # type: ignore[override]
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.mm.default:
            # Its size counts, not its values: a CPU without bf16 takes seconds for them.
            out = args[0].new_zeros(args[0].shape[0], args[1].shape[1])
        else:
            out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return out


def _most_in_training(shape: Shape, training: Training, tokens: int) -> int:
    """Bytes at the height of two optimizer steps, without what the process itself takes."""
    model = _adapted(shape, training)
    if training.gradient_checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights)
    ids = torch.zeros(training.batch_size, tokens).long()
    with _Allocations() as seen:
        held = [seen.add(p.data) for p in model.parameters()]
        for _ in range(2):
            logits = model(input_ids=ids, logits_to_keep=tokens).logits
            loss = cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    assert held
    return seen.most


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointing"])
@pytest.mark.parametrize("vocabulary", [600, 20_000])
@pytest.mark.parametrize("norms", [True, False], ids=["qwen", "llama"])
def test_training_memory_is_what_a_step_takes_and_little_more(
    precision: Any, checkpointing: bool, vocabulary: int, norms: bool
) -> None:
    shape = replace(SMALL, vocab_size=vocabulary, query_key_norms=norms)
    training = Training(
        batch_size=3, precision=precision, gradient_checkpointing=checkpointing, max_length=100
    )
    parts = TrainingNeed(shape, training).memory()
    estimate = sum(size for name, size in parts.items() if name != memory.CUDA_CONTEXT)
    real = _most_in_training(shape, training, tokens=100)
    assert real <= estimate <= 1.5 * real


def test_training_memory_by_part() -> None:
    training = PROFILES["qwen3-8b"].training
    assert training.max_length == 256
    parts = TrainingNeed(QWEN3_8B, training).memory()
    # Rank 8: 36 layers x 8 x (sums of inputs and outputs) = 21,823,488 adapter parameters.
    assert parts["base weights"] == 16_381_470_720
    assert parts["adapter, gradients, AdamW"] == 16 * 21_823_488
    assert parts["logits (at most)"] == 256 * 151_936 * 14
    assert parts[memory.CUDA_CONTEXT] > 0
    four = TrainingNeed(QWEN3_8B, training, "4bit").memory()
    assert four["base weights"] == weights_bytes(QWEN3_8B, "bf16", "4bit")
    # A matrix is unpacked while it is used.
    unpacked = four["activations (estimate)"] - parts["activations (estimate)"]
    assert unpacked == 2 * 4096 * 12288
    twice = TrainingNeed(QWEN3_8B, replace(training, batch_size=2)).memory()
    assert twice["activations (estimate)"] == 2 * parts["activations (estimate)"]
    assert twice["logits (at most)"] == 2 * parts["logits (at most)"]


def test_kv_cache_is_that_of_transformers() -> None:
    sampling = Sampling(batch_size=3, max_new_tokens=7, precision="bf16")
    parts = SamplingNeed(SMALL, sampling, rank=8, longest_prompt=13).memory()
    with torch.inference_mode():
        out = _model(SMALL, torch.bfloat16)(torch.zeros(3, 20).long(), use_cache=True)
    real = sum(layer.keys.nbytes + layer.values.nbytes for layer in out.past_key_values.layers)
    assert parts[memory.KV_CACHE] == real
    assert parts["adapter"] == 4 * adapter_parameters(SMALL, 8, "all-linear")
    assert parts["base weights"] == weights_bytes(SMALL, "bf16", "none")


def _vllm(serving: Serving, quantization: Quantization = "none", rank: int = 8) -> dict[str, int]:
    sampling = PROFILES["qwen3-8b"].sampling
    return SamplingNeed(QWEN3_8B, sampling, serving, quantization, rank, 30).memory()


def test_vllm_needs_weights_slots_and_one_answer() -> None:
    parts = _vllm(Serving())
    assert parts["base weights"] == 16_381_470_720
    # 30 + 1024 tokens are 66 blocks of 16; 36 layers x 2 x 8 heads x 128 x 2 bytes a token.
    assert parts[memory.KV_CACHE] == 66 * 16 * 147_456
    # Room for embeddings and lm_head too: (151,936 + 4096) x 2 x rank 8.
    assert parts["8 adapters"] == 8 * 2 * (21_823_488 + 2 * 8 * (151_936 + 4096))
    assert _vllm(Serving(adapters_in_memory=2))["2 adapters"] == parts["8 adapters"] / 4
    # vLLM knows rank 16 and none between.
    assert _vllm(Serving(), rank=9)["8 adapters"] == 2 * parts["8 adapters"]
    plain = weights_bytes(QWEN3_8B, "bf16", "4bit", plain_scales=True)
    assert _vllm(Serving(), "4bit")["base weights"] == plain


def test_vllm_slots_are_as_measured() -> None:
    # vLLM 0.32: bytes of all lora_a_stacked and lora_b_stacked of a model with three fp32 slots of
    # rank 16.
    shape = Shape(1, 64, 2, 2, 32, 96, 600, True)
    sampling = Sampling(engine="vllm", precision="fp32")
    parts = SamplingNeed(shape, sampling, Serving(adapters_in_memory=3), rank=16).memory()
    assert parts["3 adapters"] == 445_440


def test_vllm_splits_what_it_can_between_gpus() -> None:
    one, two = _vllm(Serving()), _vllm(Serving(tensor_parallel=2))
    norms = 2 * (36 * (2 * 4096 + 2 * 128) + 4096)
    assert two["base weights"] == (one["base weights"] - norms) / 2 + norms
    assert two[memory.KV_CACHE] == one[memory.KV_CACHE] / 2
    # Halved: outputs of q, k, v, gate, up (6144 + 2 x 4608 + 2 x 10,240 are left), inputs of o and
    # down (6144 + 10,240); embeddings and lm_head are not.
    assert two["8 adapters"] == 8 * 2 * 8 * (36 * 52_224 + 2 * (151_936 + 4096))
    # Eight key-value heads cannot be shared by more than eight GPUs.
    sixteen = _vllm(Serving(tensor_parallel=16))[memory.KV_CACHE]
    assert sixteen == one[memory.KV_CACHE] / 8


def test_vllm_refuses_a_rank_it_does_not_serve() -> None:
    with pytest.raises(BadInput, match=r"rank=600.*512"):
        _vllm(Serving(), rank=600)
