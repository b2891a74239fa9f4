"""`python -m`: Dagster's webserver on 127.0.0.1, behind the guard.

Takes the options of `dagster-webserver`.
"""

from __future__ import annotations

import sys

from dagster_webserver.cli import main
from dagster_webserver.webserver import DagsterWebserver
from starlette.middleware import Middleware

from backdoor_assets.commands.ui_guard import guards

_dagsters = DagsterWebserver.build_middleware


def _guarded(self: DagsterWebserver) -> list[Middleware]:
    return [*guards(), *_dagsters(self)]


if __name__ == "__main__":
    DagsterWebserver.build_middleware = _guarded
    sys.argv += ["--host", "127.0.0.1"]
    main()
