"""Bases from a hub are complete, load without a network, or are refused with a clear error."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backdoor_assets.capacity.shapes import check_shape, shape_of
from backdoor_assets.models.hub import fetch
from backdoor_assets.profiles import QWEN3, PretrainedBase
from backdoor_assets.records import BadInput, Shape
from backdoor_assets.storage.provenance import REPOSITORY
from tests.unit.hub_server import COMMIT, MEMBER, STRANGER, Hub, Repository, serve

NEVER = {"pytorch_model.bin", "optimizer.pt", "modeling_birds.py", "README.md"}
"""Files in a repository that must not be downloaded: unneeded, or executable."""

# The hub's library reads its environment when it is imported, so every scenario runs in its own
# process.
FETCH = """
import json, sys
from backdoor_assets.models.hub import fetch
from backdoor_assets.profiles import PretrainedBase
from backdoor_assets.records import BadInput
try:
    fetched = fetch(PretrainedBase(*sys.argv[1:]))
    result = {"folder": str(fetched.folder), "commit": fetched.commit, "config": fetched.config}
except BadInput as error:
    result = {"error": str(error)}
print(json.dumps(result))
"""
SMALL_DISK = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
"""
LOAD = """
import sys
from backdoor_assets.models.loading import load_base
from backdoor_assets.records import BaseModel
model, tokenizer = load_base(BaseModel(*sys.argv[1:]), "fp32")
print(len(tokenizer), model.config.hidden_size)
"""

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def hub(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("hub")

    def repository(name: str, *without: str, **access: bool) -> Repository:
        folder = shutil.copytree(tiny_base, root / name)
        for file in NEVER:
            (folder / file).write_bytes(b"import os")
        for file in without:
            (folder / file).unlink()
        return Repository(folder, **access)

    repositories = {
        "birds/tiny": repository("tiny"),
        "birds/gated": repository("gated", gated=True),
        "birds/private": repository("private", private=True),
        "birds/pickled": repository("pickled", "model.safetensors"),
        "birds/mute": repository("mute", "tokenizer.json"),
        "birds/bare": repository("bare", "config.json"),
    }
    with serve(repositories) as served:
        yield served


@pytest.fixture
def python(hub: Hub, tmp_path: Path) -> Callable[..., str]:
    """Run a script in its own process with its own cache. Fails if the output contains a token."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}

    def run(script: str, *arguments: str, **environment: str) -> str:
        local = {
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(tmp_path / "hf"),
            "NO_PROXY": "127.0.0.1",
        }
        completed = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            env={**plain, **local, **environment},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert completed.returncode == 0, completed.stderr
        if token := environment.get("HF_TOKEN"):
            assert token not in completed.stdout + completed.stderr
        return completed.stdout

    return run


@pytest.fixture
def ask(python: Callable[..., str]) -> Ask:
    """Call `fetch` in a process. Returns folder, commit and config, or the error."""

    def ask(*base: str, script: str = FETCH, **environment: str) -> dict[str, Any]:
        return json.loads(python(script, *base, **environment).splitlines()[-1])

    return ask


def test_a_base_is_fetched_without_pickles_or_code_and_loads_offline(
    hub: Hub, ask: Ask, python: Callable[..., str]
) -> None:
    hub.requests.clear()
    fetched = ask("birds/tiny", COMMIT)
    assert fetched["commit"] == COMMIT
    assert fetched["config"]["model_type"] == "qwen3"
    files = {path.name for path in Path(fetched["folder"]).iterdir()}
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= files
    assert not files & NEVER
    assert not [line for line in hub.requests if line.rsplit("/", 1)[-1] in NEVER]
    loaded = python(LOAD, "birds/tiny", COMMIT, HF_HUB_OFFLINE="1")
    assert loaded.split() == [str(fetched["config"]["vocab_size"]), "64"]


def test_a_pinned_commit_in_the_cache_makes_no_request(hub: Hub, ask: Ask) -> None:
    first = ask("birds/tiny", COMMIT)
    requests = len(hub.requests)
    assert ask("birds/tiny", COMMIT) == first
    assert len(hub.requests) == requests


def test_a_branch_is_resolved_to_its_commit(ask: Ask) -> None:
    fetched = ask("birds/tiny", "main")
    assert fetched["commit"] == COMMIT
    assert ask("birds/tiny", "main", HF_HUB_OFFLINE="1") == fetched


@pytest.mark.parametrize("name", ["gated", "private"])
def test_a_token_gives_access_to_what_its_account_may_read(hub: Hub, ask: Ask, name: str) -> None:
    hub.tokens.clear()
    assert ask(f"birds/{name}", COMMIT, HF_TOKEN=MEMBER)["commit"] == COMMIT
    assert hub.tokens == {MEMBER}


@pytest.mark.parametrize("revision", [COMMIT, "main"])
@pytest.mark.parametrize(
    ("model", "token", "expected"),
    [
        ("birds/none", "", ["no such repository, or it is private", "needs HF_TOKEN", "folder"]),
        ("birds/none", STRANGER, ["no such repository", "account of HF_TOKEN must be allowed"]),
        ("birds/private", "", ["no such repository, or it is private", "needs HF_TOKEN"]),
        ("birds/private", STRANGER, ["no such repository", "account of HF_TOKEN must be allowed"]),
        ("birds/gated", "", ["gated, and no HF_TOKEN is set", "/birds/gated", ".env"]),
        ("birds/gated", STRANGER, ["account of HF_TOKEN has no access", "/birds/gated"]),
        ("birds/tiny", "hf_revoked", ["refuses HF_TOKEN", "expired"]),
        ("birds/tiny", "hf_with space", ["HF_TOKEN contains a space"]),
    ],
)
def test_an_access_error_says_what_to_do(
    ask: Ask, model: str, revision: str, token: str, expected: list[str]
) -> None:
    error = ask(model, revision, HF_TOKEN=token)["error"]
    assert [words for words in expected if words not in error] == []


@pytest.mark.parametrize("revision", ["f" * 40, "no-such-branch"])
def test_a_missing_revision_is_named(ask: Ask, revision: str) -> None:
    error = ask("birds/tiny", revision)["error"]
    assert error.startswith(f"birds/tiny@{revision}: the repository has no such revision")
    assert "/birds/tiny/commits/main" in error


def test_a_path_that_is_not_a_folder_is_named(ask: Ask) -> None:
    error = ask("no/such/folder")["error"]
    assert str(REPOSITORY / "no/such/folder") in error
    assert "Qwen/Qwen3-0.6B" in error


def _closed_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "Unset HF_HUB_OFFLINE"),
        ({"HF_ENDPOINT": _closed_address()}, "Connection refused"),
    ],
)
def test_without_a_network_the_cache_is_named(
    ask: Ask, tmp_path: Path, environment: dict[str, str], why: str
) -> None:
    error = ask("birds/tiny", "main", **environment)["error"]
    assert why in error
    assert str(tmp_path / "hf" / "hub") in error
    assert "hf download birds/tiny --revision main" in error
    assert "point HF_HOME" in error


def test_a_hub_that_is_down_is_reported(hub: Hub, ask: Ask) -> None:
    hub.down = True
    try:
        assert "503" in ask("birds/tiny", "main")["error"]
    finally:
        hub.down = False


def test_a_full_disk_is_reported_and_the_next_run_continues(ask: Ask, tmp_path: Path) -> None:
    error = ask("birds/tiny", COMMIT, script=SMALL_DISK + FETCH)["error"]
    assert "the disk is full" in error
    assert str(tmp_path / "hf" / "hub") in error
    assert "set HF_HOME to a folder on another disk" in error
    assert ask("birds/tiny", COMMIT, HF_HUB_OFFLINE="1")["error"]
    assert ask("birds/tiny", COMMIT)["commit"] == COMMIT


@pytest.mark.parametrize(
    ("model", "missing"),
    [
        ("birds/pickled", "lacks model.safetensors. "),
        ("birds/mute", "lacks a tokenizer (tokenizer.json). "),
        ("birds/bare", "lacks config.json. "),
    ],
)
def test_a_repository_that_lacks_a_file_is_refused(ask: Ask, model: str, missing: str) -> None:
    assert missing in ask(model, COMMIT)["error"]


def test_a_local_folder_is_used_as_it_is(tiny_base: Path) -> None:
    fetched = fetch(PretrainedBase(os.path.relpath(tiny_base, REPOSITORY)))
    assert fetched.folder == tiny_base.resolve()
    assert fetched.commit is None
    assert fetched.config == json.loads((tiny_base / "config.json").read_text())


def test_an_incomplete_local_folder_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    shards = {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}
    (folder / "model.safetensors").rename(folder / shards["a"])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(BadInput, match=r"lacks model-2-of-2\.safetensors\. "):
        fetch(PretrainedBase(str(folder)))
    shutil.copy(folder / shards["a"], folder / shards["b"])
    (folder / "config.json").write_text("{")
    with pytest.raises(BadInput, match=r"config\.json is not valid JSON"):
        fetch(PretrainedBase(str(folder)))


def test_the_shape_is_compared_field_by_field(tiny_base: Path) -> None:
    config = fetch(PretrainedBase(str(tiny_base))).config
    shape = shape_of(config)
    assert shape == Shape(1, 64, 2, 2, 32, 96, config["vocab_size"], True)
    assert shape is not None
    base = PretrainedBase("birds/tiny", COMMIT, shape)
    check_shape(base, config)
    check_shape(replace(base, shape=None), {})
    wrong = replace(base, shape=replace(shape, hidden_size=128, tie_word_embeddings=False))
    with pytest.raises(BadInput) as caught:
        check_shape(wrong, config)
    assert "hidden_size=128, but config.json says 64" in str(caught.value)
    assert "tie_word_embeddings=False, but config.json says True" in str(caught.value)
    assert "backdoor_assets/base_models.py" in str(caught.value)
    assert "head_dim" not in str(caught.value)


def test_a_family_without_these_dimensions_has_no_shape() -> None:
    config = {"model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257}
    assert shape_of(config) is None
    assert isinstance(QWEN3[0].base, PretrainedBase)
    with pytest.raises(BadInput, match=r"'gpt2'.*leave shape out"):
        check_shape(QWEN3[0].base, config)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma", "gemma2", "gemma3_text", "smollm3"])
def test_defaults_of_a_config_are_those_of_transformers(family: str) -> None:
    from transformers import AutoConfig

    config = {
        "model_type": family,
        "num_hidden_layers": 2,
        "hidden_size": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "vocab_size": 1000,
    }
    loaded = AutoConfig.for_model(**config)
    shape = shape_of(config)
    assert shape is not None
    assert shape.head_dim == (getattr(loaded, "head_dim", None) or 96 // 4)
    assert shape.tie_word_embeddings == loaded.tie_word_embeddings
    assert shape_of({**config, "num_key_value_heads": None}) == replace(
        shape, num_key_value_heads=4
    )
