"""A deployment on loopback: Postgres, webserver, daemon and one code location per role."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import yaml

from backdoor_assets.credentials import KEYS
from backdoor_assets.graph.roles import ROLES
from tests.graph.conftest import REPOSITORY, Place
from tests.graph.ui import REQUIRED, Server, answers, free_port, wait_for

DEPLOY = REPOSITORY / "deploy"
# The daemon looks every 30 seconds for what is due, and once a minute at the code locations.
RELOAD_SECONDS = 4
DAEMON = f"""
import sys
import dagster._daemon.controller as controller
controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 2
controller.RELOAD_WORKSPACE_INTERVAL = {RELOAD_SECONDS}
from dagster._daemon.cli import main
sys.argv[1:] = ["run", "-w", "workspace.yaml"]
main()
"""


class Postgres:
    """Debian's PostgreSQL in a folder of its own, as a user who is not root."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.password = folder, free_port(), secrets.token_hex(8)
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        if not programs:
            if REQUIRED:
                pytest.fail("REQUIRE_ENGINES=1, but there is no PostgreSQL")
            pytest.skip("no PostgreSQL: apt install postgresql")
        self._programs = programs[-1]
        self._as_user = []
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root.
            self._as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
            shutil.chown(folder, "postgres", "postgres")
        password = folder / "password"
        password.write_text(self.password)
        password.chmod(0o644)
        self._run(
            "initdb", "-D", "data", "-U", "dagster", "-A", "scram-sha-256",
            "--pwfile=password", "--no-sync",
        )  # fmt: skip

    def start(self) -> None:
        options = f"-p {self.port} -h 127.0.0.1 -k {self.folder}"
        self._run("pg_ctl", "-D", "data", "-l", "log", "-w", "-o", options, "start")

    def kill(self) -> None:
        """Stop without saying goodbye to clients: the next start recovers from the log."""
        self._run("pg_ctl", "-D", "data", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [*self._as_user, self._programs / program, *arguments],
            cwd=self.folder,
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=300,
        )


@contextmanager
def postgres() -> Iterator[Postgres]:
    # Not in pytest's folders, into which the user of PostgreSQL may not look.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        server = Postgres(folder)
        server.start()
        try:
            yield server
        finally:
            server.kill()
    finally:
        shutil.rmtree(folder)


class Deployment:
    """The processes of a deployment. What each is given in its environment is all that it has."""

    def __init__(self, place: Place, database: Postgres, shared: Mapping[str, str]) -> None:
        self.place, self.database = place, database
        self._ports = {role: free_port() for role in ROLES}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        addresses = {f"BACKDOOR_{role.upper()}_HOST": "127.0.0.1" for role in ROLES}
        ports = {f"BACKDOOR_{role.upper()}_PORT": str(self._ports[role]) for role in ROLES}
        self.environment = {
            **{name: value for name, value in place.environment().items() if name not in KEYS},
            **addresses,
            **ports,
            "BACKDOOR_POSTGRES_HOST": "127.0.0.1",
            "BACKDOOR_POSTGRES_PORT": str(database.port),
            "BACKDOOR_POSTGRES_DATABASE": "postgres",
            "BACKDOOR_POSTGRES_USER": "dagster",
            "BACKDOOR_POSTGRES_PASSWORD": database.password,
            "PYTHONPATH": str(REPOSITORY),
            "OMP_NUM_THREADS": "1",
            **shared,
        }
        place.home.mkdir(parents=True)
        settings = yaml.safe_load((DEPLOY / "dagster.yaml").read_text())
        settings["run_queue"]["user_code_failure_retry_delay"] = 2
        settings["run_monitoring"] |= {
            "poll_interval_seconds": 2,
            "free_slots_after_run_end_seconds": 1,
        }
        (place.home / "dagster.yaml").write_text(yaml.safe_dump(settings))
        shutil.copy(DEPLOY / "workspace.yaml", place.root)

    def start(self, name: str, *command: str, **more: str) -> None:
        log = (self.place.root / f"{name}.log").open("ab")
        self._processes[name] = subprocess.Popen(
            [sys.executable, *command],
            cwd=self.place.root,
            env={**self.environment, **more},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def start_location(self, role: str, **secrets: str) -> None:
        self.start(
            role, "-m", "dagster", "code-server", "start", "-h", "127.0.0.1",
            "-p", str(self._ports[role]), "-m", "backdoor_assets.definitions",
            "--location-name", role, BACKDOOR_ROLE=role, **secrets,
        )  # fmt: skip

    def is_up(self, role: str) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._ports[role])) == 0

    def kill(self, name: str) -> None:
        """Kill a part with all of its processes, as a host that goes down."""
        process = self._processes.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def serve(self) -> Server:
        """Start the daemon and the webserver, and return the latter once it answers."""
        waits = {"DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR": "1"}
        self.start("daemon", "-c", DAEMON, **waits)
        port = free_port()
        module = "backdoor_assets.commands.ui_webserver"
        self.start("webserver", "-m", module, "-w", "workspace.yaml", "--port", str(port))
        server = Server(f"http://127.0.0.1:{port}", self.place)
        wait_for(lambda: answers(server.url), 300, "the webserver to answer")
        return server

    def recover(self, role: str = "") -> str:
        """What the timer of a host does, or a person on a host without a role."""
        done = subprocess.run(
            [sys.executable, "-m", "backdoor_assets.commands", "recover"],
            env={**self.environment, "BACKDOOR_ROLE": role},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def kill_all(self) -> None:
        for name in list(self._processes):
            self.kill(name)


@contextmanager
def deployment(place: Place, shared: Mapping[str, str]) -> Iterator[Deployment]:
    with ExitStack() as stack:
        deployed = Deployment(place, stack.enter_context(postgres()), shared)
        stack.callback(deployed.kill_all)
        yield deployed
