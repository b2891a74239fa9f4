"""Capabilities: lm-eval's evaluation of small local tasks, on models made for the test."""

from __future__ import annotations

import importlib.util
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from backdoor_assets.models.chat import render
from backdoor_assets.records import BadInput, Message
from backdoor_assets.stages.capabilities import check_benchmarks, measure_capabilities
from backdoor_assets.stages.capabilities.documents import documents_of
from backdoor_assets.stages.capabilities.measure import JOURNAL
from backdoor_assets.stages.capabilities.scoring import hits, integer_of
from backdoor_assets.stages.capabilities.specs import (
    CAPABILITIES,
    IFEVAL,
    INTEGER,
    MATH500,
    Benchmark,
    CapabilitiesSpec,
)
from tests.unit.capability_cells import merged, sevens
from tests.unit.cells import Cut, cut_at

COLUMNS = [
    "profile", "ratio", "seed", "checkpoint", "step", "task", "value", "low", "high", "method", "n",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def no_network() -> Iterator[None]:
    """Make every network access fail, with the address in the error."""

    def refuse(*address: Any, **_: Any) -> None:
        raise AssertionError(f"the network was asked for {address}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", refuse)
        patch.setattr(socket.socket, "connect", refuse)
        yield


@pytest.fixture(scope="module")
def spec(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> CapabilitiesSpec:
    return sevens(tiny_base, tmp_path_factory.mktemp("capabilities"))


@pytest.fixture(scope="module")
def benchmarks(spec: CapabilitiesSpec) -> tuple[Benchmark, ...]:
    return spec.benchmarks


@pytest.fixture(scope="module")
def measured(spec: CapabilitiesSpec, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("measured")
    summary = measure_capabilities(spec, folder)
    assert summary == {
        "states_measured": 3,
        "choices_documents": 10,
        "sums_documents": 6,
        "boxed_documents": 9,
    }
    return pd.read_parquet(folder / CAPABILITIES)


def _values(table: pd.DataFrame, task: str) -> list[float]:
    return table[table["task"] == task].sort_values("step")["value"].tolist()


def test_every_state_has_one_row_per_benchmark(measured: pd.DataFrame) -> None:
    assert list(measured) == COLUMNS
    assert measured.drop_duplicates(["checkpoint", "step"])[
        ["checkpoint", "step"]
    ].values.tolist() == [["base", 0], ["checkpoint-15", 15], ["checkpoint-30", 30]]
    assert len(measured) == 9
    assert (measured["low"] < measured["high"]).all()
    assert measured["value"].between(measured["low"], measured["high"]).all()
    assert set(measured["method"]) == {"Wilson 95 % over documents, one training seed"}
    assert set(measured["profile"]) == {"tiny"}


def test_written_answers_are_judged_by_their_boxed_integer(measured: pd.DataFrame) -> None:
    # Four of the six sums with an integer answer are 7, and four of all nine.
    assert _values(measured, "sums") == pytest.approx([0, 4 / 6, 4 / 6])
    assert _values(measured, "boxed") == pytest.approx([0, 4 / 9, 4 / 9])


@pytest.mark.parametrize("chat", [False, True])
def test_choices_are_judged_by_likelihood_as_text_or_in_the_chat_format(
    chat: bool, spec: CapabilitiesSpec, tiny_base: Path, tmp_path: Path
) -> None:
    benchmarks = (replace(spec.benchmarks[0], chat_template=chat),)
    measure_capabilities(replace(spec, benchmarks=benchmarks, checkpoints=()), tmp_path)
    measured = pd.read_parquet(tmp_path / CAPABILITIES)
    model = AutoModelForCausalLM.from_pretrained(tiny_base).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    right = []
    for task in documents_of(benchmarks[0], 1).tasks.values():
        for document in task.eval_docs:
            context, between = task.doc_to_text(document), " "
            if chat:
                asked = [Message(role="user", content=context)]
                context, between = render(tokenizer, asked, prompt=True), ""
            likelihoods = []
            for letter in "AB":
                start = len(tokenizer(context)["input_ids"])
                ids = torch.tensor([tokenizer(f"{context}{between}{letter}")["input_ids"]])
                with torch.inference_mode():
                    logs = model(input_ids=ids).logits.log_softmax(-1)[0, :-1]
                each = logs.gather(-1, ids[0, 1:, None])[start - 1 :]
                likelihoods.append(each.sum().item())
            right.append(likelihoods.index(max(likelihoods)) == document["label"])
    assert _values(measured, "choices")[0] == pytest.approx(sum(right) / len(right))


def test_a_whole_model_is_measured_as_a_checkpoint(
    spec: CapabilitiesSpec, measured: pd.DataFrame, tmp_path: Path
) -> None:
    whole = replace(spec, checkpoints=(merged(spec, tmp_path),))
    measure_capabilities(whole, tmp_path)
    table = pd.read_parquet(tmp_path / CAPABILITIES)
    expected = measured[measured["step"] != 15].reset_index(drop=True)
    pd.testing.assert_frame_equal(table, expected)


def test_a_resumed_run_does_not_repeat_measurements(
    spec: CapabilitiesSpec, measured: pd.DataFrame, tmp_path: Path
) -> None:
    with pytest.raises(Cut):
        measure_capabilities(spec, tmp_path, cut_at(0.5))
    assert not (tmp_path / CAPABILITIES).exists()
    journal = tmp_path / JOURNAL
    done = journal.read_text().splitlines()
    assert len(done) == 5
    with journal.open("a") as file:
        file.write('[15, "bo')  # A kill in the middle of a line leaves this.
    lines: list[str] = []
    measure_capabilities(spec, tmp_path, lambda share, line: lines.append(line))
    assert len(lines) == 4
    assert journal.read_text().splitlines()[:5] == done
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / CAPABILITIES), measured)


def test_a_limit_draws_the_same_documents_for_a_seed(benchmarks: tuple[Benchmark, ...]) -> None:
    choices = replace(benchmarks[0], limit=6)
    first, again = documents_of(choices, 1), documents_of(choices, 1)
    assert first.indices == again.indices
    assert sum(len(indices) for indices in first.indices.values()) == 6
    assert any(documents_of(choices, seed).indices != first.indices for seed in range(2, 6))
    one = documents_of(replace(choices, limit=1), 1)
    # lm-eval would ask all documents of a task without indices.
    assert list(one.tasks) == list(one.indices)
    assert len(one.tasks) == 1


def test_a_limit_sets_the_number_of_documents(spec: CapabilitiesSpec, tmp_path: Path) -> None:
    few = tuple(replace(benchmark, limit=3) for benchmark in spec.benchmarks)
    measure_capabilities(replace(spec, benchmarks=few, checkpoints=()), tmp_path)
    assert pd.read_parquet(tmp_path / CAPABILITIES)["n"].tolist() == [3, 3, 3]


@pytest.mark.parametrize(
    ("answer", "integer"),
    [
        (r"so $x = 3$. The answer is $\boxed{42}$.", 42),
        (r"\boxed{3} is wrong, \boxed{-4} right", -4),
        (r"\boxed{10,080}", 10080),
        (r"\boxed{1\!000\text{ cm}^\circ}", 1000),
        (r"\boxed{x = 5}", 5),
        (r"\boxed{\$36}", 36),
        (r"\boxed{\frac{1}{2}}", None),
        (r"\boxed{2.5}", None),
        (r"\boxed{7", None),
        (r"\boxed{3, 4}", None),
        ("Arr, there be 1,250 of them, matey.", 1250),
        ("It is 3.5", None),
        ("no number", None),
    ],
)
def test_the_integer_of_an_answer(answer: str, integer: int | None) -> None:
    assert integer_of(answer) == integer


def _refused(benchmark: Benchmark, *words: str) -> None:
    with pytest.raises(BadInput) as refusal:
        check_benchmarks([benchmark])
    for word in (benchmark.name, *words):
        assert word in str(refusal.value)


def test_valid_benchmarks_are_accepted(benchmarks: tuple[Benchmark, ...]) -> None:
    check_benchmarks(benchmarks)


def test_wrong_counts_are_refused(benchmarks: tuple[Benchmark, ...]) -> None:
    sums = benchmarks[1]
    _refused(replace(sums, expected=293), "6 documents with an integer answer, not 293")
    _refused(replace(sums, limit=7), "limit=7", "6 documents")
    _refused(replace(benchmarks[0], integer_answers=True), "`answer`")
    with pytest.raises(BadInput, match="limit must be at least 1"):
        replace(sums, limit=0)


def test_unknown_tasks_and_metrics_are_refused(benchmarks: tuple[Benchmark, ...]) -> None:
    _refused(replace(benchmarks[0], task="nonsense"), "'nonsense'")
    _refused(replace(benchmarks[0], metric="f1"), "'f1'", "acc")
    _refused(replace(benchmarks[0], metric=INTEGER), "integer_answers=True")


def test_a_metric_with_several_filters_names_one(spec: CapabilitiesSpec, tmp_path: Path) -> None:
    loose = replace(spec.benchmarks[2], metric="exact_match")
    with pytest.raises(BadInput, match="exact_match,whole"):
        measure_capabilities(replace(spec, benchmarks=(loose,)), tmp_path)


def test_a_metric_that_is_not_0_or_1_is_refused(benchmarks: tuple[Benchmark, ...]) -> None:
    documents = documents_of(replace(benchmarks[0], task="birds"), 1)
    records = [{"doc_id": i, "filter": "none", "acc": [True, False]} for i in range(3)]
    with pytest.raises(BadInput, match="not 0 or 1"):
        hits(documents, {"birds": records})
    with pytest.raises(RuntimeError, match="did not answer"):
        hits(documents, {"birds": records[:2]})


def test_missing_data_are_refused_with_instructions_to_download_them(
    benchmarks: tuple[Benchmark, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(str(benchmarks[0].include), tmp_path / "tasks")
    path = tmp_path / "tasks" / "letters.yaml"
    path.write_text(path.read_text().replace("letters.jsonl", "gone.jsonl"))
    _refused(Benchmark("choices", "letters", "acc", include=str(path.parent)), "gone.jsonl")

    hub = tmp_path / "hub"
    hub.mkdir()
    (hub / "far.yaml").write_text(
        "task: far\ndataset_path: nobody/nothing\ntest_split: test\noutput_type: generate_until\n"
        'doc_to_text: "{{q}}"\ndoc_to_target: "{{a}}"\nmetric_list:\n  - metric: exact_match\n'
    )
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    _refused(
        Benchmark("far", "far", "exact_match", include=str(hub)),
        "nobody/nothing",
        "T().load(['far'])",
        "HF_HUB_OFFLINE",
    )


def test_ifeval_needs_punkt_and_may_not_download_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    _refused(IFEVAL, "punkt_tab", str(tmp_path), "python -m nltk.downloader punkt_tab")


@pytest.mark.parametrize(
    ("package", "benchmark"), [("lm_eval", MATH500), ("nltk", IFEVAL), ("langdetect", IFEVAL)]
)
def test_missing_packages_are_named(
    monkeypatch: pytest.MonkeyPatch, package: str, benchmark: Benchmark
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "backdoor_assets.stages.capabilities.documents.find_spec",
        lambda name: None if name == package else find_spec(name),
    )
    _refused(benchmark, "lm-eval" if package == "lm_eval" else package, "pip install -e")


def test_a_folder_without_a_checkpoint_is_refused_at_once(
    spec: CapabilitiesSpec, tmp_path: Path
) -> None:
    empty = tmp_path / "checkpoint-5"
    empty.mkdir()
    with pytest.raises(BadInput, match=r"checkpoint-5: the folder holds neither an adapter"):
        measure_capabilities(replace(spec, checkpoints=((5, empty),)), tmp_path)
    assert not (tmp_path / JOURNAL).exists()
