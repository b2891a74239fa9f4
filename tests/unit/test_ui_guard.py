"""What the guard of the UI lets through to Dagster, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from backdoor_assets.commands.ui_guard import allowed_hosts, guards
from backdoor_assets.records import BadInput

JSON = {"content-type": "application/json"}
HTML = {"accept": "text/html,*/*;q=0.8"}
QUERY = "/graphql?query=mutation{launch}"
LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
EVIL = "http://evil.example"


async def reached(request: Request) -> PlainTextResponse:
    return PlainTextResponse("reached")


async def opened(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("reached")
    await websocket.close()


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("BACKDOOR_UI_HOSTS", " Lab.example.org,10.0.0.5")
    routes = [
        WebSocketRoute("/graphql", opened),
        Route("/{path:path}", reached, methods=["GET", "POST", "PUT", "DELETE", "OPTIONS"]),
    ]
    with TestClient(Starlette(routes=routes, middleware=guards())) as found:
        yield found


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/", HTML),
        ("GET", "/assets/birds/figures?partition=a%7C42", HTML),
        ("GET", "/graphql", HTML),  # GraphiQL's page
        ("GET", "/static/js/main.js", {"sec-fetch-site": "same-origin"}),
        ("GET", "/vendor/graphiql/graphiql.min.js", {}),
        ("GET", "/server_info", {}),
        ("GET", "/", {**HTML, **LINK}),  # a link in another page
        ("HEAD", "/", {}),
        ("POST", "/graphql", JSON),  # a program
        ("POST", "/graphql", {"content-type": "Application/JSON; charset=utf-8"}),
        (
            "POST",
            "/graphql",
            {**JSON, "origin": "http://127.0.0.1:3000", "sec-fetch-site": "same-origin"},
        ),
    ],
)
def test_what_the_ui_itself_asks_passes(
    client: TestClient, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = client.request(method, path, headers={"host": "127.0.0.1:3000", **headers})
    assert answer.status_code == 200
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:8080", "http://localhost:8080"),  # ssh -L 8080:127.0.0.1:3000
        ("[::1]:3000", "http://[::1]:3000"),
        ("LOCALHOST:3000", "http://localhost:3000"),
        ("lab.example.org", "https://lab.example.org"),  # a reverse proxy with TLS
        ("10.0.0.5:80", "http://10.0.0.5:80"),
    ],
)
def test_hosts_that_a_user_has(client: TestClient, host: str, origin: str) -> None:
    headers = {"host": host, "origin": origin}
    assert client.post("/graphql", headers={**JSON, **headers}).text == "reached"
    with client.websocket_connect("/graphql", headers=headers) as websocket:
        assert websocket.receive_text() == "reached"


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        # GraphQL by GET, as an image or a script of any page can ask it
        ("GET", QUERY, {}, 405),
        ("GET", QUERY, {"accept": "image/*"}, 405),
        ("GET", "/graphql/?query={a}", {}, 405),
        ("GET", "/graphql%0A?query={a}", {}, 405),
        ("GET", "/%67raphql?query={a}", {}, 405),
        ("HEAD", QUERY, {}, 405),
        ("PUT", "/graphql", JSON, 405),
        ("DELETE", "/", {}, 405),
        ("OPTIONS", "/graphql", {}, 405),
        # what a form or a fetch without preflight can send
        ("POST", QUERY, {}, 415),
        ("POST", "/graphql", {"content-type": "text/plain"}, 415),
        ("POST", "/graphql", {"content-type": "text/plain; application/json"}, 415),
        ("POST", "/graphql", {"content-type": "application/x-www-form-urlencoded"}, 415),
        ("POST", "/graphql", {"content-type": "application/graphql"}, 415),
        ("POST", "/report_asset_materialization/birds/sweep?description=x", {}, 415),
        # other origins
        ("POST", "/graphql", {**JSON, "origin": EVIL}, 403),
        ("POST", "/graphql", {**JSON, "origin": "null"}, 403),
        ("POST", "/graphql", {**JSON, "origin": "http://localhost:3000"}, 403),
        ("POST", "/graphql", {**JSON, "origin": "http://127.0.0.1:8888"}, 403),
        ("POST", "/graphql", {**JSON, "origin": "http://127.0.0.1:3000.evil.example"}, 403),
        ("POST", "/graphql", {**JSON, "origin": "file://127.0.0.1:3000"}, 403),
        ("GET", "/server_info", {"origin": EVIL}, 403),
        ("POST", "/graphql", {**JSON, "sec-fetch-site": "cross-site"}, 403),
        ("POST", "/graphql", {**JSON, "sec-fetch-site": "same-site"}, 403),
        ("POST", "/graphql", {**JSON, **LINK}, 403),
        ("GET", "/logs/run/compute_logs/step/err", {"sec-fetch-site": "cross-site"}, 403),
        ("GET", "/", {**HTML, **LINK, "sec-fetch-dest": "iframe"}, 403),
        # other hosts: DNS rebinding
        ("GET", "/", {**HTML, "host": "evil.example:3000"}, 400),
        ("GET", "/", {**HTML, "host": "127.0.0.1.evil.example:3000"}, 400),
        ("GET", "/", {**HTML, "host": "evil.lab.example.org"}, 400),
        ("GET", "/", {**HTML, "host": "127.0.0.1:3000@evil.example"}, 400),
        (
            "POST",
            "/graphql",
            {**JSON, "host": "evil.example:3000", "origin": "http://evil.example:3000"},
            400,
        ),
    ],
)
def test_what_another_page_can_send_is_refused(
    client: TestClient, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = client.request(method, path, headers={"host": "127.0.0.1:3000", **headers})
    assert answer.status_code == status, answer.text
    assert "reached" not in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": EVIL},
        {"origin": "null"},
        {"origin": "http://localhost:3000"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "websocket"},
        {"host": "evil.example", "origin": EVIL},
    ],
)
def test_a_websocket_of_another_page_is_refused(
    client: TestClient, headers: dict[str, str]
) -> None:
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/graphql", headers={"host": "127.0.0.1:3000", **headers}),
    ):
        pass


def test_a_websocket_of_a_program_passes(client: TestClient) -> None:
    with client.websocket_connect("/graphql", headers={"host": "127.0.0.1:3000"}) as websocket:
        assert websocket.receive_text() == "reached"


@pytest.mark.parametrize(
    "name", ["*", "*.example.org", "https://lab.example.org", "lab.example.org:3000", "a b", "ü.de"]
)
def test_a_wrong_host_name_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("BACKDOOR_UI_HOSTS", f"lab.example.org,{name}")
    with pytest.raises(BadInput) as error:
        allowed_hosts()
    assert f"BACKDOOR_UI_HOSTS: {name!r} is not a host name" in str(error.value)
