"""Where each artifact lies, and what makes it whole.

An artifact is a folder. A hidden folder beside it holds the work in progress, so that an
interrupted run finds it again; the finished folder is moved into place with its manifest. The
manifest keeps what identifies a result (model, data, hyperparameters, code version, inputs) apart
from how it was made (packages, device, commit, time): only the first decides whether a finished
artifact is reused.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backdoor_assets.records import BadInput
from backdoor_assets.storage.disk import given_folder, refusal, sync_folder, write_text
from backdoor_assets.storage.hashing import canonical, digest, file_hash, hash_once, text_hash
from backdoor_assets.storage.identity import changes, same
from backdoor_assets.storage.manifest import MANIFEST, Made, Manifest, read_manifest, read_mark
from backdoor_assets.storage.provenance import REPOSITORY, provenance


def data_root() -> Path:
    """BACKDOOR_DATA, or data/ in the repository, wherever the command is typed. Raises BadInput
    when it is a file."""
    return given_folder(os.environ.get("BACKDOOR_DATA") or REPOSITORY / "data", "BACKDOOR_DATA")


class Busy(RuntimeError):
    """Another process is making the same artifact."""


@dataclass(frozen=True)
class Artifact:
    """A folder of one stage of one profile, such as miniature/birds/responses/<ratio>/<seed>."""

    profile: str
    folder: Path
    volatile: frozenset[str] = field(default=frozenset())
    """Names of files that do not count as content, such as optimizer state."""
    scratch: tuple[str, ...] = ()
    """Patterns of names of files that only a run under way needs: they go when it is finished."""

    @property
    def partial(self) -> Path:
        """Where it is made. Hidden, so that nobody reads a tree with half an artifact in it."""
        return self.folder.parent / f".{self.folder.name}.partial"

    def manifest(self) -> Manifest | None:
        """Return the manifest of a finished artifact, else None. Raises BadInput when it cannot be
        read or belongs to another profile."""
        path = self.folder / MANIFEST
        if not path.exists():
            return None
        manifest = read_manifest(path)
        if manifest.profile != self.profile:
            raise BadInput(
                f"{path}: made by profile {manifest.profile!r}, but this run is of profile "
                f"{self.profile!r}; results of two profiles never mix: set BACKDOOR_PROFILE, or "
                "put the folder under its own profile"
            )
        return manifest

    def require(self, *, edited: bool = False) -> Manifest:
        """Return the manifest. Raises BadInput that says what to materialize first, and for files
        that have changed since they were made, unless they may be `edited`."""
        manifest = self.manifest()
        if manifest is None:
            raise BadInput(
                f"{self.folder}: missing or incomplete; materialize {self._asset()} first"
            )
        if not edited and (harm := self.damage(manifest)):
            raise BadInput(
                f"{self.folder}: {harm}; materialize {self._asset()} for this cell again to "
                "rebuild it"
            )
        return manifest

    def _asset(self) -> str:
        """Key of the asset that makes it: what comes after the profile in its path."""
        before, found, after = str(self.folder).rpartition(f"/{self.profile}/")
        return "/".join((after if found else before).split("/")[:2])

    def damage(self, manifest: Manifest) -> str:
        """How the files differ from the manifest, in words; empty when they do not."""
        for name, entry in manifest.files.items():
            path = self.folder / name
            if not path.exists():
                return f"{name} is missing"
            if path.stat().st_size == entry["bytes"] and hash_once(path) == entry["sha256"]:
                continue
            # Other line ends change nothing that is read from a file of rows.
            if path.suffix != ".jsonl" or text_hash(path) != entry["sha256"]:
                return f"{name} has changed since it was made (edited or truncated)"
        return ""

    def find(self, identity: Mapping[str, Any]) -> Made | None:
        """Return the finished artifact of this identity, unless it is missing, damaged or marked
        to be made again."""
        manifest = self.manifest()
        if manifest is None or self.remake_requested or not same(manifest.identity, identity):
            return None
        if self.damage(manifest):
            return None
        return Made(manifest, self.folder, reused=True)

    @property
    def _request(self) -> Path:
        """Says that the artifact is to be made again. It holds a hash of the artifacts that were
        asked for together, and "begun" once a run works on it; it goes when the new one is whole.
        """
        return self.folder.parent / f".{self.folder.name}.force"

    @property
    def remake_requested(self) -> bool:
        return self._request.exists()

    @property
    def _begun(self) -> bool:
        return self._request.read_text().endswith("begun")

    def make(self, identity: Mapping[str, Any], work: Callable[[Path], dict[str, Any]]) -> Made:
        """Reuse the artifact of this identity, or let `work` make it in the partial folder.

        `work` finds there what an interrupted run of the same identity left, and returns a summary.
        Raises what `making` raises.
        """
        with self.making(identity) as making:
            return making.made or making.finish(work(making.folder))

    @contextmanager
    def making(self, identity: Mapping[str, Any]) -> Iterator[Making]:
        """Hold the artifact while it is made: `made` is set when a finished one can be reused,
        else the caller works in `folder` and calls `finish` with a summary.

        A failure leaves the earlier finished artifact and the partial work unchanged. Raises Busy
        when another process holds it, BadInput when the disk is full or read-only. A finished one
        is reused where nothing can be written.
        """
        if found := self.find(identity):
            yield Making(self, identity, found)
            return
        with self._lock():
            self._complete_swap(identity)
            if found := self.find(identity):
                yield Making(self, identity, found)
                return
            note = self.why_again(identity)
            try:
                self._begin(identity)
                yield Making(self, identity, None, note)
            except Exception as error:
                if refused := refusal(error, self.folder):
                    raise refused from error
                raise

    def why_again(self, identity: Mapping[str, Any]) -> str:
        """Return why a finished artifact cannot be reused, in words; "" if there is none, or if it
        can be."""
        before = self.manifest()
        if before is None:
            return ""
        if self.remake_requested:
            return "forced"
        if changed := changes(before.identity, identity):
            return f"changed: {', '.join(changed)}"
        return self.damage(before)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """A flock beside the artifact: it dies with its process."""
        path = self.folder.parent / f".{self.folder.name}.lock"
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+")
        except OSError as error:
            if refused := refusal(error, self.folder):
                raise refused from error
            raise
        with file as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.seek(0)
                raise Busy(
                    f"{self.folder}: another run is making it (process {lock.read().strip()}); "
                    "wait for it, then run again: what it finishes is reused"
                ) from error
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    def _complete_swap(self, identity: Mapping[str, Any]) -> None:
        """Move in what was finished when a kill came before or between the renames of `_swap`."""
        path = self.partial / MANIFEST
        if not path.exists():
            return
        try:
            finished = read_manifest(path)
        except BadInput:  # cut off when the machine went down: what it was about is made again
            path.unlink()
            return
        ours = not self.remake_requested or self._begun
        if not self.folder.exists() or (ours and same(finished.identity, identity)):
            self._swap()

    def _begin(self, identity: Mapping[str, Any]) -> None:
        """Keep the partial folder of the same identity; else start from an empty one. A request to
        make the artifact again starts from an empty one once."""
        mark = self.partial / ".identity.json"
        restart = self.remake_requested and not self._begun
        kept = same(read_mark(mark), identity) and not restart
        if not kept:
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir(parents=True)
            write_text(mark, canonical(identity))
        if restart:
            write_text(self._request, f"{self._request.read_text()} begun")

    def _finish(self, identity: Mapping[str, Any], summary: dict[str, Any]) -> Manifest:
        """Write the manifest and move in. Hidden files are the work's own, and no content."""
        for pattern in self.scratch:
            for path in list(self.partial.rglob(pattern)):
                path.unlink()
        files = [
            path
            for path in sorted(self.partial.rglob("*"))
            if path.is_file()
            and path.name not in self.volatile
            and not any(part.startswith(".") for part in path.relative_to(self.partial).parts)
        ]
        manifest = Manifest(
            profile=self.profile,
            identity=json.loads(canonical(identity)),
            files={
                str(path.relative_to(self.partial)): {
                    "bytes": path.stat().st_size,
                    "sha256": file_hash(path),
                }
                for path in files
            },
            summary=summary,
            provenance=provenance(),
            fingerprint=digest(identity),
        )
        write_text(self.partial / MANIFEST, json.dumps(vars(manifest), indent=1), durable=True)
        self._swap()
        return manifest

    def _swap(self) -> None:
        """Two renames, then the work's own files go: a kill in between loses nothing."""
        old = self.folder.parent / f".{self.folder.name}.replaced"
        shutil.rmtree(old, ignore_errors=True)
        if self.folder.exists():
            os.replace(self.folder, old)
        os.replace(self.partial, self.folder)
        sync_folder(self.folder.parent)
        self._request.unlink(missing_ok=True)
        shutil.rmtree(old, ignore_errors=True)
        for hidden in self.folder.glob(".*"):
            if hidden.is_dir():
                shutil.rmtree(hidden)
            else:
                hidden.unlink()


@dataclass(frozen=True)
class Making:
    """An artifact that this process holds: whole already (`made`), or being made in `folder`."""

    artifact: Artifact
    identity: Mapping[str, Any]
    made: Made | None
    note: str = ""

    @property
    def folder(self) -> Path:
        return self.artifact.partial

    def finish(self, summary: dict[str, Any]) -> Made:
        """Write the manifest and move the artifact in."""
        manifest = self.artifact._finish(self.identity, summary)
        return Made(manifest, self.artifact.folder, reused=False, note=self.note)


def request_remake(artifacts: Sequence[Artifact]) -> None:
    """Ask that finished artifacts are made again by whichever run comes to them next.

    The request is a file beside each artifact that stays until the new one is whole. Where some of
    the artifacts still carry one for the same selection, it was interrupted, or they failed: only
    those are left to make.
    """
    together = digest(sorted(str(artifact.folder) for artifact in artifacts))
    requests = [artifact._request for artifact in artifacts]
    if any(path.exists() and path.read_text().startswith(together) for path in requests):
        return
    for path in requests:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, together)
