"""Compare what a run needs with what there is, and refuse with the parts and with advice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from backdoor_assets.capacity.memory import GIB
from backdoor_assets.host import Host
from backdoor_assets.records import BadInput

DATA_ADVICE = "Free some space, or set BACKDOOR_DATA to a folder on a larger disk."
_SMALLER = "a smaller model of the family"


def check_memory(
    what: str, parts: Mapping[str, int], limit: tuple[int, str], advice: Mapping[str, bool]
) -> None:
    """Raise BadInput when the parts do not fit into `limit`: bytes, and words for where they are.
    `advice` says of each change of the profile whether it would help."""
    needed, (available, where) = sum(parts.values()), limit
    if needed > available:
        smaller = [change for change, helps in advice.items() if helps]
        raise BadInput(
            f"{what} needs {gib(needed)} of memory, and there are {gib(available)} {where}\n"
            f"{_table(parts)}\n"
            f"To need less, change the profile: {'; '.join([*smaller, _SMALLER])}."
        )


def check_disk(
    what: str, parts: Mapping[str, int], folder: Path, host: Host, advice: str = DATA_ADVICE
) -> None:
    """Raise BadInput when the parts do not fit on the disk of `folder`."""
    needed = sum(parts.values())
    if needed > host.disk_free:
        raise BadInput(
            f"{what} needs {gib(needed)} of disk, and there are {gib(host.disk_free)} free under "
            f"{folder}\n{_table(parts)}\n{advice}"
        )


def gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"


def _table(parts: Mapping[str, int]) -> str:
    width = max(map(len, parts))
    return "\n".join(f"  {name:<{width}}  {gib(size):>12}" for name, size in parts.items())
