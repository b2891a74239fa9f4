"""Writing files whole, and knowing a full disk when one is met."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path


def disk_is_full(error: BaseException, folder: Path) -> bool:
    """torch and safetensors do not say why they could not write, so that the disk is asked too."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    cause: BaseException | None = error
    while cause is not None:
        told = re.search(r"os error (\d+)", str(cause))
        number = cause.errno if isinstance(cause, OSError) else told and int(told[1])
        if number in full or os.strerror(errno.ENOSPC) in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    writing = isinstance(error, OSError | RuntimeError)
    return writing and shutil.disk_usage(folder).free < 2**20


def write_text(path: Path, text: str) -> None:
    """Write beside the place, then move in."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def disk_free(folder: Path) -> int:
    """Free bytes on the disk on which `folder` lies or will lie: its nearest parent that exists."""
    return shutil.disk_usage(nearest(folder)).free


def nearest(folder: Path) -> Path:
    """The folder, or the nearest of its parents that exists."""
    folder = folder.expanduser().absolute()
    return next(path for path in (folder, *folder.parents) if os.path.exists(path))
