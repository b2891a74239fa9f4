"""Check what a server sent as a message before anything is read from it."""

from __future__ import annotations

import json
from typing import Any

from backdoor_assets.credentials import without_secrets

Message = dict[str, Any]
"""A message of the Messages API that `checked` has passed."""
_BLOCKS = {"text", "thinking", "redacted_thinking"}
_MOST_TOKENS = 10_000_000
"""More than any call can take: a count above is no count."""


class NotAMessage(ValueError):
    """A reply of status 200 that is not a message. Says what it is."""


def parsed(body: bytes) -> Any:
    """Parse JSON that a server sent. Raises NotAMessage."""
    if not body.strip():
        raise NotAMessage("an empty reply")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        kind = "HTML" if body.lstrip()[:1] == b"<" else "no JSON, or cut off"
        raise NotAMessage(f"a reply that is {kind}") from None


def checked(value: Any) -> Message:
    """Return a message whose parts are what the API documents. Raises NotAMessage.

    At most one block of text: a verdict in pieces may have lost one.
    """
    if not isinstance(value, dict):
        raise NotAMessage(f"a reply that is a JSON {type(value).__name__}, not an object")
    if value.get("type") == "error" or "error" in value:
        raise NotAMessage("an error of status 200")
    model, blocks, usage = value.get("model"), value.get("content"), value.get("usage")
    if not isinstance(model, str) or not model.strip() or not model.isprintable():
        raise NotAMessage("a message without a model")
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise NotAMessage("a message without content")
    if unknown := [
        b for b in blocks if not isinstance(b.get("type"), str) or b["type"] not in _BLOCKS
    ]:
        raise NotAMessage(f"a message with a block of type {str(unknown[0].get('type'))[:40]!r}")
    texts = [block.get("text") for block in blocks if block["type"] == "text"]
    if not all(isinstance(text, str) for text in texts):
        raise NotAMessage("a message with a block that holds no text")
    if len(texts) > 1:
        raise NotAMessage("a message whose text is split over several blocks")
    if not isinstance(value.get("stop_reason"), str | None):
        raise NotAMessage("a message with an odd stop_reason")
    if not isinstance(usage, dict):
        raise NotAMessage("a message without usage")
    counts = [usage.get(name) for name in ("input_tokens", "output_tokens")]
    counts += [usage.get(f"cache_{kind}_input_tokens") or 0 for kind in ("creation", "read")]
    if not all(type(count) is int and 0 <= count <= _MOST_TOKENS for count in counts):
        raise NotAMessage("a message with an odd usage")
    return {**value, "model": without_secrets(model)[:200]}


def billed_tokens(message: Message) -> tuple[int, int]:
    """Return the (input, output) tokens of a checked message, input from a cache included."""
    usage = message["usage"]
    cached = (usage.get("cache_creation_input_tokens") or 0) + (
        usage.get("cache_read_input_tokens") or 0
    )
    return usage["input_tokens"] + cached, usage["output_tokens"]
