"""What became of the calls of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from backdoor_assets.claude.errors import refused
from backdoor_assets.claude.messages import Message, NotAMessage, checked
from backdoor_assets.claude.store import Batch
from backdoor_assets.credentials import without_secrets
from backdoor_assets.records import Rubric

TakeResult = Callable[[str, tuple[Rubric, ...], str, Message], bool]
"""`take(key, rubrics, model, message)` stores a reply and returns whether to send its call
again."""


@dataclass
class Fetched:
    """The calls of a batch that have no verdict, and why."""

    again: dict[str, str] = field(default_factory=dict)
    """Not billed, or with a reply that allows another try."""
    refused: dict[str, str] = field(default_factory=dict)
    """Of a content that the API refuses."""
    unread: dict[str, str] = field(default_factory=dict)
    """Perhaps billed, with a result that cannot be read."""

    def settle(self, batch: Batch, key: str, result: dict[str, Any], take: TakeResult) -> None:
        """Take one result. Raises NotAMessage for one that says nothing."""
        kind = result.get("type")
        if kind == "succeeded":
            message = checked(result.get("message"))
            if take(key, batch.rubrics[key], batch.model, message):
                self.again[key] = "the judge gave no verdict"
        elif kind == "errored":
            name, said = _error(result)
            if name in ("invalid_request_error", "request_too_large"):
                self.refused[key] = refused(said)
            else:
                self.again[key] = f"the API failed ({without_secrets(name)})"
        elif kind in ("canceled", "expired"):
            self.again[key] = f"the call was {kind} in its batch"
        else:
            raise NotAMessage("a result of no known type")


def _error(result: dict[str, Any]) -> tuple[str, str]:
    """Return type and message of a failed call of a batch."""
    outer = result.get("error")
    inner = outer.get("error") if isinstance(outer, dict) else None
    if not isinstance(inner, dict):
        raise NotAMessage("an error without a type")
    return str(inner.get("type"))[:60], str(inner.get("message"))
