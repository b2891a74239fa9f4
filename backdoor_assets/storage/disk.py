"""Write files atomically, and recognize a full disk."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path


def disk_is_full(error: BaseException, folder: Path) -> bool:
    """Return whether the error, or one of its causes, was raised by a full disk.

    Checks the free space too: torch and safetensors do not say why they could not write.
    """
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    cause: BaseException | None = error
    while cause is not None:
        match = re.search(r"os error (\d+)", str(cause))
        number = cause.errno if isinstance(cause, OSError) else match and int(match[1])
        if number in full or os.strerror(errno.ENOSPC) in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    writing = isinstance(error, OSError | RuntimeError)
    return writing and shutil.disk_usage(folder).free < 2**20


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: to a file next to it, which then replaces it."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def disk_free(folder: Path) -> int:
    """Return the free bytes on the disk of `folder`, which need not exist yet."""
    return shutil.disk_usage(nearest(folder)).free


def nearest(folder: Path) -> Path:
    """Return the folder, or its nearest parent that exists."""
    folder = folder.expanduser().absolute()
    return next(path for path in (folder, *folder.parents) if os.path.exists(path))
