"""A study from the command line, through the same definitions and instance as the UI."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from backdoor_assets.definitions import build_definitions
from backdoor_assets.graph.instance import opened, recover
from backdoor_assets.graph.runs import Runner
from backdoor_assets.graph.status import states
from backdoor_assets.graph.study import Step, Study, study_named
from backdoor_assets.profiles import Profile
from backdoor_assets.records import BadInput
from backdoor_assets.storage.artifact import data_root
from backdoor_assets.workers.processes import processes_for


def run(
    profile: Profile,
    study: str | Study,
    without: Sequence[str] = (),
    only: str | None = None,
    replace: bool = False,
) -> int:
    """Materialize a study, but for the cells of `without`, or one part of it (`only`), in the
    profile's Dagster instance.

    A cell that fails does not stop the others; the exit status is then 1. Raises BadInput for a
    study that the profile cannot run or names that it does not have, before any folder is made;
    for a step that failed as a whole; and before finished results would be replaced, unless that
    is asked for.
    """
    started = time.monotonic()
    study = study_named(study) if isinstance(study, str) else study
    if refusal := study.refusal(profile):
        raise BadInput(refusal)
    processes_for(1)
    steps = study.steps(profile, without, only)
    step: Step | None = next(steps)
    definitions = build_definitions(profile, [study])
    if not replace:
        _check_nothing_is_replaced(study, profile, without, only)
    with opened(profile.name) as instance:
        for run_id in recover(instance):
            print(f"run {run_id[:8]} had been killed; what it had finished is reused")
        runner = Runner(definitions, instance, study.name)
        while step is not None:
            failed = runner.run(step)
            try:
                step = steps.send(failed)
            except StopIteration:
                step = None
    if only is None or only.endswith("_figures"):
        print(f"\n{study.summary(profile)}")
    print(f"{time.monotonic() - started:.0f} s, under {data_root() / profile.name / study.name}")
    print("To see the graph and all of this in the browser:  make ui")
    if not runner.failures:
        return 0
    reasons = "\n".join(dict.fromkeys(runner.failures.values()))
    print(
        f"\n{len(runner.failures)} failed: {', '.join(runner.failures)}\n{reasons}",
        file=sys.stderr,
    )
    return 1


def _check_nothing_is_replaced(
    study: Study, profile: Profile, without: Sequence[str], only: str | None
) -> None:
    found = states(study, profile, without, only)
    replaced = [state for state in found if state.kind == "out of date"]
    if not replaced:
        return
    causes = [state for state in replaced if not state.inherited]
    lines = [f"  {state.place}: {state.why}" for state in causes[:12]]
    more = [f"  and {len(causes) - 12} more"] if len(causes) > 12 else []
    others = len(replaced) - len(causes)
    raise BadInput(
        f"This run would replace {len(causes)} finished results of {study.name}"
        + f", and {others} that were made from them" * bool(others)
        + ", because:\n"
        + "\n".join([*lines, *more])
        + "\nTo replace them, run it again with REPLACE=1 (--replace). To keep them, undo the "
        "change, or put it into a profile of its own. `make plan` lists the state of all results."
    )
