"""Read what a person wrote, write files atomically, and say what is wrong with a disk or a path."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from pathlib import Path

from backdoor_assets.records import BadInput

_NOT_WRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM}


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


def refusal(error: BaseException, folder: Path) -> BadInput | None:
    """Return what a person can do when `folder` cannot be made because the disk is full or
    read-only; None for an error of another kind."""
    if isinstance(error, BadInput):
        return None
    there = nearest(folder.parent)
    of_disk = isinstance(error, OSError) and error.errno in _NOT_WRITABLE and error.filename
    if of_disk and Path(os.fsdecode(of_disk)).is_relative_to(there):
        return BadInput(
            f"{folder}: it cannot be written ({reason(error)}). What is finished there can still "
            "be read. To make more, set BACKDOOR_DATA to a folder that can be written."
        )
    if disk_is_full(error, there):
        return BadInput(
            f"{folder}: the disk is full. Nothing that was finished is lost: free some space, or "
            "set BACKDOOR_DATA to another disk, and run the same command again."
        )
    return None


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Write a text file atomically: to a file next to it, which then replaces it. What is durable
    is on the disk when this returns, whatever happens to the machine."""
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8") as out:
        out.write(text)
        if durable:
            out.flush()
            os.fsync(out.fileno())
    os.replace(part, path)
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder, such as that of a file just moved in, are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_text(path: Path, missing: str = "") -> str:
    """Read a file that a person wrote, in UTF-8 with or without a byte order mark.

    Raises BadInput for what is not a file that can be read, with the line that is not UTF-8;
    `missing` says what to do where there is no file.
    """
    try:
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            raise BadInput(f"{path}: this is a folder, not a file. Name a file in it.")
        if not stat.S_ISREG(kind):  # reading a FIFO would wait for ever
            raise BadInput(f"{path}: this is not a regular file. Write the content into a file.")
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file. {missing}".rstrip()) from error
    except OSError as error:
        raise BadInput(f"{path}: it cannot be read ({reason(error)})") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise BadInput(f"{path} line {line}: not UTF-8. Save the file as UTF-8.") from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise BadInput(
            f"{path} line {line}: it holds a NUL character; it may be UTF-16. Save the file as "
            "UTF-8."
        )
    return text


def given_path(value: str | Path, variable: str) -> Path:
    """Return the absolute path that a variable or an argument names, with `~` expanded. Raises
    BadInput that names it when there can be no such path."""
    try:
        path = Path(value).expanduser().resolve()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        shown = str(value) if len(str(value)) < 80 else f"{str(value)[:77]}..."
        raise BadInput(f"{variable}={shown!r}: this is no path ({reason(error)})") from error
    return path


def given_folder(value: str | Path, variable: str) -> Path:
    """Return the same for a folder, which need not exist yet. Raises BadInput when it is a file, or
    lies in one."""
    folder = given_path(value, variable)
    there = nearest(folder)
    if not there.is_dir():
        raise BadInput(f"{variable}={folder}: {there} is a file. Set {variable} to a folder.")
    return folder


def reason(error: BaseException) -> str:
    """Why the system refused, without the path."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def disk_free(folder: Path) -> int:
    """Return the free bytes on the disk of `folder`, which need not exist yet."""
    return shutil.disk_usage(nearest(folder)).free


def nearest(folder: Path) -> Path:
    """Return the folder, or its nearest parent that exists."""
    folder = folder.expanduser().absolute()
    return next(path for path in (folder, *folder.parents) if os.path.exists(path))
