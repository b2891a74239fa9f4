"""Refuses what a page of another site can send to the Dagster UI through a person's browser.

Dagster's server has no login, takes mutations by GET and by any content type, and asks neither for
whom nor from where. A page open in the same browser could therefore start runs or read results.
"""

from __future__ import annotations

import os
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from backdoor_assets.records import BadInput

HOSTS_VARIABLE = "BACKDOOR_UI_HOSTS"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:]+\]")


def allowed_hosts() -> list[str]:
    """Host names, without ports, under which the UI may be asked for: loopback, and what
    BACKDOOR_UI_HOSTS lists. Raises BadInput for what is no host name."""
    names = [name.strip().lower() for name in os.environ.get(HOSTS_VARIABLE, "").split(",")]
    for name in filter(None, names):
        if not _NAME.fullmatch(name):
            raise BadInput(
                f"{HOSTS_VARIABLE}: {name!r} is not a host name. Write names without scheme and "
                "port, with commas between them, such as lab.example.org"
            )
    return [*LOOPBACK, *filter(None, names)]


def guards() -> list[Middleware]:
    """The middleware to put around Dagster's app, outermost first."""
    # A foreign name that resolves to this machine (DNS rebinding) makes a foreign page look like
    # the UI's own, so that the Host comes first. The port may differ: ssh forwards from any.
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=allowed_hosts(), www_redirect=False)
    return [hosts, Middleware(SameOrigin)]


class SameOrigin:
    """ASGI middleware: lets the UI's own pages and programs that are no browser through (HTTP and
    websocket), and answers anything else with status 403, 405 or 415."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
        elif refused := _refusal(scope):
            status, reason = refused
            text = f"Refused by the guard of the UI: {reason}\n"
            http = scope["type"] == "http"
            refusal = PlainTextResponse(text, status) if http else WebSocketClose(1008, text)
            await refusal(scope, receive, send)
        else:
            await self.app(scope, receive, _unframed(send))


def _refusal(scope: Scope) -> tuple[int, str] | None:
    """Status and reason if the request must not reach Dagster."""
    headers = Headers(scope=scope)
    method = scope.get("method", "GET")  # A websocket has none: it is opened by a GET.
    host = headers.get("host", "").lower()
    own = (f"http://{host}", f"https://{host}")
    for origin in headers.getlist("origin"):
        if origin.lower() not in own:
            return 403, f"it comes from a page of {origin}, not of {host}"
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        fetch = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
        if method != "GET" or fetch != ("navigate", "document"):
            return 403, "it comes from a page of another site"
    if scope["type"] == "websocket":
        return None
    if method not in ("GET", "HEAD", "POST"):
        return 405, f"method {method}"
    if method == "POST":
        media_type = headers.get("content-type", "").split(";")[0].strip().lower()
        if media_type != "application/json":
            return 415, "a POST must have the content type application/json"
    # Dagster answers a GET that accepts HTML with a static page, and executes any other one. Its
    # router takes more spellings of the path than one (`/graphql%0A`).
    elif "graphql" in scope["path"] and "text/html" not in headers.get("accept", ""):
        return 405, "GraphQL is taken by POST only"
    return None


def _unframed(send: Send) -> Send:
    """Forbids other sites to show the UI in a frame, where clicks could be stolen."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["X-Frame-Options"] = "SAMEORIGIN"
        await send(message)

    return sending
