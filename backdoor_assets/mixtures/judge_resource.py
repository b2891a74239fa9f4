"""The judge of a run as a resource of the graph."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from backdoor_assets.graph.materializing import RunLog
from backdoor_assets.mixtures.cells import JudgingSpec
from backdoor_assets.mixtures.judge_run import judge_together
from backdoor_assets.workers.tasks import Results, Task


class JudgeResource(dg.ConfigurableResource):
    """Judges the answers of all cells of a run together."""

    def run(self, tasks: Sequence[Task[JudgingSpec]], log: RunLog) -> Results[JudgingSpec]:
        return judge_together(tasks, log)
