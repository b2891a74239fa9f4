"""The Dagster UI of a profile."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from backdoor_assets.commands.ui_guard import allowed_hosts
from backdoor_assets.graph.instance import recover_profile
from backdoor_assets.graph.study import find_studies
from backdoor_assets.profiles import Profile
from backdoor_assets.storage.provenance import REPOSITORY

_PATHS = "BACKDOOR_DATA", "BACKDOOR_PROFILES", "BACKDOOR_STUDIES"


def serve(profile: Profile, port: int) -> NoReturn:
    """Free what killed runs hold, then replace this process by `dagster dev` on 127.0.0.1, with a
    guard in front of its webserver. Raises BadInput for a wrong BACKDOOR_UI_HOSTS."""
    allowed_hosts()
    recover_profile(profile)
    # Dagster's processes start in the repository, wherever the command was typed.
    studies = find_studies().values()
    for name in (*_PATHS, *(name for study in studies for name in study.path_variables)):
        if value := os.environ.get(name):
            parts = (str(Path(part).expanduser().resolve()) for part in value.split(os.pathsep))
            os.environ[name] = os.pathsep.join(parts)
    os.chdir(REPOSITORY)
    services = [sys.executable, "-m", "backdoor_assets.commands.ui_services"]
    command = [*services, "-w", "workspace.yaml", "--port", str(port)]
    sys.stdout.flush()
    os.execv(sys.executable, command)
