"""Which file system a folder lies on: SQLite needs locks and shared memory that only a disk of the
same host gives."""

from __future__ import annotations

import re
from pathlib import Path

from backdoor_assets.records import BadInput
from backdoor_assets.storage.disk import nearest

MOUNTS = Path("/proc/self/mountinfo")
"""Where Linux lists what is mounted; on other systems nothing is known."""
NETWORK = re.compile(
    r"nfs4?|cifs|smb3?|smbfs|9p|afs|ceph|lustre|gpfs|beegfs\w*|glusterfs|orangefs|pvfs2|virtiofs|"
    r"fuse\.(sshfs|glusterfs|ceph\S*|s3fs|rclone|juicefs|gcsfuse|mount-s3|beegfs\w*)"
)
"""Types of file systems that several hosts may have mounted."""


def network_type(folder: Path) -> str | None:
    """Return the type of the file system that `folder`, or its nearest parent that exists, lies on
    if it is one of a network, else None."""
    where = nearest(folder).resolve()
    best, kind = -1, ""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        left, _, right = line.partition(" - ")
        point = Path(_unescaped(left.split(" ")[4]))
        # Of two file systems at one place, the later covers the earlier.
        if where.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), right.split(" ")[0]
    return kind if NETWORK.fullmatch(kind) else None


def refuse_network(folder: Path, what: str, remedy: str) -> None:
    """Raise BadInput for a folder on a file system of a network, where SQLite loses data."""
    if kind := network_type(folder):
        raise BadInput(
            f"{folder}: {what} cannot lie on a network file system ({kind}): SQLite may lose or "
            f"damage data there. {remedy}"
        )


def _unescaped(path: str) -> str:
    """Decode the octal escapes of /proc, such as \\040 for a space."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)
