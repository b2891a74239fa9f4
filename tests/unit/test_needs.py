"""What a run needs: held against the libraries that will take it, or computed by hand."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen3Config, Qwen3ForCausalLM

from backdoor_assets.capacity import needs
from backdoor_assets.commands.plan import shape_of
from backdoor_assets.profiles import PROFILES, Sampling, Serving, Training
from backdoor_assets.records import BadInput, Quantization, Shape
from backdoor_assets.settings import planned_checkpoints, planned_steps
from backdoor_assets.stages.specs import TRAINER_STATE
from tests.unit.cells import WEIGHTS, train, write_rows

QWEN3_8B = shape_of(PROFILES["qwen3-8b"])
SMALL = Shape(4, 256, 8, 4, 48, 640, 3000, False)
TIED = replace(SMALL, tie_word_embeddings=True)
GIB = 2**30


def _model(shape: Shape, dtype: torch.dtype = torch.float32) -> Any:
    return Qwen3ForCausalLM(Qwen3Config(**asdict(shape))).to(dtype)  # type: ignore[arg-type]


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
        model = Qwen3ForCausalLM(Qwen3Config(**asdict(shape)))
    model.tie_weights()
    assert needs.parameters(shape) == sum(p.numel() for p in model.parameters())


def test_weights_of_the_8b_model() -> None:
    # The published count, 8.19e9.
    assert needs.parameters(QWEN3_8B) == 8_190_735_360
    assert needs.weights_bytes(QWEN3_8B, "bf16", "none") == 16_381_470_720
    assert needs.weights_bytes(QWEN3_8B, "bf16", "none") / GIB == pytest.approx(15.26, abs=0.01)
    assert needs.weights_bytes(QWEN3_8B, "fp32", "none") == 32_762_941_440
    # 36 layers x 192,937,984 weights in matrices; 1,244,973,056 of embeddings and lm_head.
    rest = 2 * (8_190_735_360 - 36 * 192_937_984)
    eight = needs.weights_bytes(QWEN3_8B, "bf16", "8bit")
    assert eight == 36 * (192_937_984 + 4 * (4096 + 1024 + 1024 + 4096 + 2 * 12288 + 4096)) + rest
    four = needs.weights_bytes(QWEN3_8B, "bf16", "4bit")
    assert four == pytest.approx(36 * 192_937_984 * (1 / 2 + 1 / 64 + 1 / 4096) + rest, rel=1e-4)
    plain = needs.weights_bytes(QWEN3_8B, "bf16", "4bit", plain_scales=True)
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
    assert needs.weights_bytes(SMALL, "bf16", kind) == quantized + 2 * kept


@pytest.mark.parametrize(
    "modules",
    ["all-linear", ("q_proj",), ("q_proj", "v_proj", "down_proj"), r".*\.1\.mlp\.(gate|up)_proj"],
)
@pytest.mark.parametrize("shape", [SMALL, TIED], ids=["lm_head", "tied"])
def test_adapter_parameters_are_those_of_peft(modules: str | tuple[str, ...], shape: Shape) -> None:
    model = _adapted(shape, Training(rank=5, target_modules=modules))
    real = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert needs.adapter_parameters(shape, 5, modules) == real


@pytest.mark.parametrize("modules", [("q_proj", "c_attn"), r".*\.nothing"])
def test_target_modules_that_are_not_there_are_named(modules: str | tuple[str, ...]) -> None:
    with pytest.raises(BadInput, match=r"target_modules=.*(c_attn|nothing).*there are q_proj"):
        needs.adapter_parameters(SMALL, 8, modules)


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
def test_training_memory_is_what_a_step_takes_and_little_more(
    precision: Any, checkpointing: bool, vocabulary: int
) -> None:
    shape = replace(SMALL, vocab_size=vocabulary)
    training = Training(batch_size=3, precision=precision, gradient_checkpointing=checkpointing)
    parts = needs.training_memory(shape, training, "none", longest=100)
    estimate = sum(size for name, size in parts.items() if name != needs.CUDA_CONTEXT)
    real = _most_in_training(shape, training, tokens=100)
    assert real <= estimate <= 1.5 * real


def test_training_memory_by_part() -> None:
    training = PROFILES["qwen3-8b"].training
    parts = needs.training_memory(QWEN3_8B, training, "none", longest=256)
    # Rank 8: 36 layers x 8 x (sums of inputs and outputs) = 21,823,488 adapter parameters.
    assert parts["base weights"] == 16_381_470_720
    assert parts["adapter, gradients, AdamW"] == 16 * 21_823_488
    assert parts["logits (at most)"] == 256 * 151_936 * 14
    assert parts[needs.CUDA_CONTEXT] > 0
    four = needs.training_memory(QWEN3_8B, training, "4bit", longest=256)
    assert four["base weights"] == needs.weights_bytes(QWEN3_8B, "bf16", "4bit")
    # A matrix is unpacked while it is used.
    unpacked = four["activations (estimate)"] - parts["activations (estimate)"]
    assert unpacked == 2 * 4096 * 12288
    twice = needs.training_memory(QWEN3_8B, replace(training, batch_size=2), "none", longest=256)
    assert twice["activations (estimate)"] == 2 * parts["activations (estimate)"]
    assert twice["logits (at most)"] == 2 * parts["logits (at most)"]


def test_kv_cache_of_transformers_is_as_reckoned() -> None:
    sampling = Sampling(batch_size=3, max_new_tokens=7, precision="bf16")
    parts = needs.sampling_memory(SMALL, sampling, Serving(), "none", 8, longest_prompt=13)
    with torch.inference_mode():
        out = _model(SMALL, torch.bfloat16)(torch.zeros(3, 20).long(), use_cache=True)
    real = sum(layer.keys.nbytes + layer.values.nbytes for layer in out.past_key_values.layers)
    assert parts[needs.KV_CACHE] == real
    assert parts["adapter"] == 4 * needs.adapter_parameters(SMALL, 8, "all-linear")
    assert parts["base weights"] == needs.weights_bytes(SMALL, "bf16", "none")


def _vllm(serving: Serving, quantization: Quantization = "none", rank: int = 8) -> dict[str, int]:
    sampling = PROFILES["qwen3-8b"].sampling
    return needs.sampling_memory(QWEN3_8B, sampling, serving, quantization, rank, 30)


def test_vllm_needs_weights_slots_and_one_answer() -> None:
    parts = _vllm(Serving())
    assert parts["base weights"] == 16_381_470_720
    # 30 + 1024 tokens are 66 blocks of 16; 36 layers x 2 x 8 heads x 128 x 2 bytes a token.
    assert parts[needs.KV_CACHE] == 66 * 16 * 147_456
    # Room for embeddings and lm_head too: (151,936 + 4096) x 2 x rank 8.
    assert parts["8 adapters"] == 8 * 2 * (21_823_488 + 2 * 8 * (151_936 + 4096))
    assert _vllm(Serving(adapters_in_memory=2))["2 adapters"] == parts["8 adapters"] / 4
    # vLLM knows rank 16 and none between.
    assert _vllm(Serving(), rank=9)["8 adapters"] == 2 * parts["8 adapters"]
    plain = needs.weights_bytes(QWEN3_8B, "bf16", "4bit", plain_scales=True)
    assert _vllm(Serving(), "4bit")["base weights"] == plain


def test_vllm_slots_are_as_measured() -> None:
    # vLLM 0.32: bytes of all lora_a_stacked and lora_b_stacked of a model with three fp32 slots of
    # rank 16.
    shape = Shape(1, 64, 2, 2, 32, 96, 600, True)
    sampling = Sampling(engine="vllm", precision="fp32")
    parts = needs.sampling_memory(shape, sampling, Serving(adapters_in_memory=3), "none", 16, 20)
    assert parts["3 adapters"] == 445_440


def test_vllm_splits_what_it_can_between_gpus() -> None:
    one, two = _vllm(Serving()), _vllm(Serving(tensor_parallel=2))
    norms = 2 * (36 * (2 * 4096 + 2 * 128) + 4096)
    assert two["base weights"] == (one["base weights"] - norms) / 2 + norms
    assert two[needs.KV_CACHE] == one[needs.KV_CACHE] / 2
    # Halved: outputs of q, k, v, gate, up (6144 + 2 x 4608 + 2 x 10,240 are left), inputs of o and
    # down (6144 + 10,240); embeddings and lm_head are not.
    assert two["8 adapters"] == 8 * 2 * 8 * (36 * 52_224 + 2 * (151_936 + 4096))
    # Eight key-value heads cannot be shared by more than eight GPUs.
    sixteen = _vllm(Serving(tensor_parallel=16))[needs.KV_CACHE]
    assert sixteen == one[needs.KV_CACHE] / 8


def test_vllm_refuses_a_rank_it_does_not_serve() -> None:
    with pytest.raises(BadInput, match=r"rank=600.*512"):
        _vllm(Serving(), rank=600)


def test_planned_steps_and_checkpoints() -> None:
    epoch = PROFILES["qwen3-8b"].training
    assert planned_steps(epoch, 208) == 208
    assert planned_checkpoints(epoch, 208) == 11  # 20, ..., 200 and 208
    assert planned_checkpoints(epoch, 200) == 10
    batches = replace(epoch, epochs=1.5, batch_size=4, gradient_accumulation=2)
    assert planned_steps(batches, 101) == 19  # 151.5 / 8, rounded up
    assert planned_steps(Training(max_steps=160), 9) == 160


def test_adapters_on_disk_are_as_reckoned(tiny_base: Path, tmp_path: Path) -> None:
    training = Training(rank=64, max_steps=5, save_steps=2, batch_size=2)
    rows = write_rows(tmp_path / "train.jsonl", ("Barn Owl", "Wood Duck"))
    folder = train(tiny_base, rows, tmp_path / "run", training)
    config = PeftModel.from_pretrained(
        Qwen3ForCausalLM.from_pretrained(tiny_base), str(folder / "checkpoint-5")
    ).config
    shape = Shape(**{name: getattr(config, name) for name in asdict(SMALL)})
    weights = sum(path.stat().st_size for path in folder.rglob(WEIGHTS))
    state = sum(path.stat().st_size for path in folder.rglob(TRAINER_STATE))
    wanted = needs.training_disk(shape, training, 5)
    assert needs.optimizer_disk(shape, training) == pytest.approx(state, rel=0.05)
    assert wanted == pytest.approx(weights + state, rel=0.05)


def test_adapters_of_the_8b_profile_on_disk() -> None:
    training = PROFILES["qwen3-8b"].training
    assert needs.training_disk(QWEN3_8B, training, 208) == 21_823_488 * (11 * 4 + 8)


def test_answers_take_twice_their_tables_while_they_are_made() -> None:
    assert needs.tables_disk(1000, 600) == 3_000_000
    assert needs.sampling_disk(1000, 600) == 6_000_000


def test_download_is_bf16_and_may_hold_a_tied_head_twice() -> None:
    assert needs.download_disk(QWEN3_8B) == 16_381_470_720
    # 596,049,920 weights, and 151,936 x 1024 of lm_head once more.
    assert needs.download_disk(shape_of(PROFILES["qwen3-0.6b"])) == 1_503_264_768
