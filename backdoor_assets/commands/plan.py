"""What the studies would take under a profile, what is finished, and what this host lacks."""

from __future__ import annotations

from backdoor_assets.graph.status import table
from backdoor_assets.graph.study import check_grids, find_studies, study_named
from backdoor_assets.host import Host, this_host
from backdoor_assets.profiles import Profile
from backdoor_assets.storage.artifact import data_root
from backdoor_assets.workers.processes import processes_for


def plan_text(profile: Profile, study: str | None, host: Host | None = None) -> str:
    """Return the plan of all studies, or of one. Raises BadInput for a name that no study has.

    Runs on any machine: it needs no GPU, key, network or weights, and changes nothing.
    """
    check_grids(profile)
    studies = list(find_studies().values()) if study is None else [study_named(study)]
    host = host or this_host(data_root())
    processes_for(1)
    parts = []
    for chosen in studies:
        if refusal := chosen.refusal(profile):
            parts.append(refusal)
            continue
        sections = {
            **chosen.plan(profile, host),
            f"Results of {chosen.name}": table(chosen, profile),
        }
        parts.append("\n\n".join(f"{title}\n{text}" for title, text in sections.items()))
    return "\n\n\n".join(parts)
