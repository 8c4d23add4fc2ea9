"""Files: replaced whole, appended to line by line, and locked against other processes. Needs no torch."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from worker.errors import JournalError, WorkerError

ID_FILE = "worker-id"
"""In an output directory: the worker's id, and the lock of the process that works there."""


def replace(target: Path, write: Callable[[Path], object]) -> None:
    """Write a file in the place of ``target``: a reader sees the old one or the new one, never half of it.

    On return the new one is on the disk, and a power cut does not bring back the old one.

    Args:
        target: The file; its directory is created if it is not there.
        write: Called with the path of a file beside it, which is renamed afterwards.

    Raises:
        OSError: It cannot be written; ``target`` is as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    path = Path(name)
    try:
        write(path)
        path.chmod(0o644)
        with path.open("rb") as written:
            os.fsync(written.fileno())
        path.replace(target)
        sync_directory(target.parent)
    finally:
        path.unlink(missing_ok=True)


def replace_text(target: Path, text: str) -> None:
    """Write a text file (UTF-8) in the place of ``target``, as `replace` does."""
    replace(target, lambda path: path.write_text(text, encoding="utf-8"))


def sync_directory(directory: Path) -> None:
    """Write through to the disk which names a directory holds."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_all(directory: Path, write: Callable[[Path], object]) -> None:
    """Put the files that ``write`` makes in a directory of its own into this one, each whole; weights come last."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".export-") as name:
        write(Path(name))
        made = sorted(Path(name).iterdir(), key=lambda path: path.suffix == ".safetensors")
        for file in made:
            replace(directory / file.name, lambda path, file=file: shutil.copyfile(file, path))  # type: ignore[misc]


def lock(directory: Path, taken: str) -> int | None:
    """Keep every other process out of a directory until this one ends, however it ends, or closes the handle.

    Args:
        directory: The worker's output.
        taken: The sentence for where another process has it.

    Returns:
        The handle, which children do not inherit. None on a file system that knows no locks, as some network ones: the
        server's fencing is what is left.

    Raises:
        WorkerError: Another process has it.
    """
    handle = os.open(directory / ID_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise WorkerError(taken) from None
        return None
    return handle


class JsonLines:
    """An append-only file of JSON objects, one a line; a kill at any moment tears its last line at most.

    Not for two threads at once.

    Raises:
        JournalError: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Unbuffered: one line is one write, so that a kill tears the last line at most.
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise JournalError(f"the journal {path} cannot be opened: {error.strerror}") from error

    def read(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """All lines with their numbers from 1. A torn last line is cut off.

        Raises:
            JournalError: A line before the last is not a JSON object.
        """
        self._file.seek(0)
        content = self._file.read()
        end = 0
        for number, line in enumerate(content.splitlines(keepends=True), start=1):
            try:
                entry = json.loads(line)
                if not line.endswith(b"\n") or not isinstance(entry, dict):
                    raise ValueError("it is not a whole object")
            except ValueError as error:
                if end + len(line) < len(content):
                    raise JournalError(f"line {number} of the journal {self.path} cannot be read: {error}") from error
                os.truncate(self.path, end)
                return
            end += len(line)
            yield number, entry

    def append(self, entry: dict[str, Any]) -> None:
        """Write one line, whole or not at all.

        Raises:
            JournalError: It cannot be written, for example because the disk is full.
        """
        line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
        end = self._file.seek(0, os.SEEK_END)
        try:
            written = self._file.write(line)
        except (OSError, ValueError) as error:
            raise JournalError(f"the journal {self.path} cannot be written: {error}") from error
        if written != len(line):
            # Half a line, followed by others, would make the journal unreadable.
            os.truncate(self.path, end)
            raise JournalError(f"the journal {self.path} cannot be written: the disk is full")

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()
