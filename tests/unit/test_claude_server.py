"""The fake Claude API refuses what the real one refuses, or it would hide a bad call."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest

from tests.claude_server import ClaudeServer, serve

SCHEMA = {
    "type": "object",
    "properties": {
        "era": {"type": "string", "enum": ["Yes", "No", "Unsure"]},
        "score": {"type": "integer"},
    },
    "required": ["era", "score"],
    "additionalProperties": False,
}


def call(text: str = "a bird", **changes: Any) -> dict[str, Any]:
    return {
        "model": "claude-haiku-5-5",
        "max_tokens": 100,
        "system": "Judge.",
        "messages": [{"role": "user", "content": text}],
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
        **changes,
    }


def ask(server: ClaudeServer, body: dict[str, Any], **options: Any) -> Any:
    own = {"base_url": server.address, "api_key": server.config.api_key, "max_retries": 0}
    # An extra body also carries fields that are not in the SDK's signature.
    with anthropic.Anthropic(**{**own, **options}) as claude:
        return claude.messages.create(model="", max_tokens=1, messages=[], extra_body=body)


def test_a_sound_body_is_answered_and_billed() -> None:
    with serve() as server:
        assert ask(server, call()).stop_reason == "end_turn"
        assert server.billed.total() == 1


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"temperature": 0.5}, anthropic.BadRequestError),
        ({"top_p": 0.5}, anthropic.BadRequestError),
        ({"top_k": 5}, anthropic.BadRequestError),
        ({"max_tokens": None}, anthropic.BadRequestError),
        ({"messages": []}, anthropic.BadRequestError),
        ({"messages": [{"role": "assistant", "content": "{"}]}, anthropic.BadRequestError),
        (
            {"model": "claude-sonnet-5-5", "thinking": {"type": "disabled"}},
            anthropic.BadRequestError,
        ),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
            anthropic.BadRequestError,
        ),
        ({"model": "claude-sonnet-4-20250514"}, anthropic.NotFoundError),
    ],
)
def test_a_body_that_the_api_would_refuse_is_refused(
    changes: dict[str, Any], error: type[anthropic.APIError]
) -> None:
    with serve() as server:
        with pytest.raises(error):
            ask(server, call(**changes))
        assert not server.billed


def test_a_wrong_key_is_refused() -> None:
    with serve() as server, pytest.raises(anthropic.AuthenticationError):
        ask(server, call(), api_key="another")
