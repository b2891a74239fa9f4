"""Fake model hub: serves the requests of a download, with the errors of a real hub."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MEMBER, STRANGER = "hf_member", "hf_stranger"
"""Tokens that the hub accepts; only the member may read gated and private repositories."""


@dataclass(frozen=True)
class Repository:
    """Files at one commit, which the branch "main" points to."""

    folder: Path
    gated: bool = False
    private: bool = False


@dataclass
class Hub:
    """The repositories of the hub, and the requests (`METHOD path`) and tokens it received."""

    repositories: Mapping[str, Repository]
    address: str = ""
    requests: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    down: bool = False
    echo: int = 0
    """Status of every reply, which then repeats the authorization header; 0: usual replies."""


@contextmanager
def serve(repositories: Mapping[str, Repository]) -> Iterator[Hub]:
    """Run the hub in a thread of this process."""
    hub = Hub(repositories)
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield hub
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer /api/models/<id>/revision/<revision>, /api/models/<id>/tree/<commit> and
        /<id>/resolve/<commit>/<file>, where an id has two parts."""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if path.startswith("/api/") and not path.startswith("/api/models/"):
            return self._refuse(404)  # the library's own requests
        self.hub.tokens.add(token)
        if self.hub.echo:
            return self._refuse(self.hub.echo, message=f"bad headers {dict(self.headers)}")
        owner, name, what, *rest = path.removeprefix("/api/models").strip("/").split("/")
        repository = self.hub.repositories.get(f"{owner}/{name}")
        if self.hub.down:
            self._refuse(503)
        elif token not in (None, MEMBER, STRANGER):
            self._refuse(401, message="Invalid credentials in Authorization header")
        elif repository is None or (repository.private and token != MEMBER):
            self._refuse(404 if token else 401, "RepoNotFound")
        elif rest[0] not in ("main", COMMIT):
            self._refuse(404, "RevisionNotFound")
        elif what == "revision":
            self._answer(_json({"id": f"{owner}/{name}", "sha": COMMIT, "siblings": []}))
        elif what == "tree":
            self._answer(_json([_entry(file) for file in sorted(repository.folder.iterdir())]))
        elif repository.gated and token != MEMBER:
            self._refuse(403 if token else 401, "GatedRepo")
        else:
            self._answer((repository.folder / rest[1]).read_bytes())

    do_HEAD = do_GET

    def _answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def _refuse(self, status: int, code: str = "", message: str = "") -> None:
        self.send_response(status)
        for name, value in (("X-Error-Code", code), ("X-Error-Message", message)):
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


def _entry(file: Path) -> dict[str, object]:
    content = file.read_bytes()
    oid = hashlib.sha1(content).hexdigest()
    return {"type": "file", "path": file.name, "size": len(content), "oid": oid}


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
