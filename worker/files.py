"""Files: atomic replacement, append-only files of JSON lines, and locks. Must not import torch."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from worker.errors import JournalError, WorkerError

ID_FILE = "worker-id"
"""The file in an output directory that holds the worker's id, and that its process locks."""


def replace(target: Path, write: Callable[[Path], object]) -> None:
    """Replace a file atomically: a reader sees the old file or the new one, never a part of it.

    On return the new file is on the disk: it survives a power cut.

    Args:
        target: The file. Its directory is created if it does not exist.
        write: Called with the path of a temporary file in the same directory, which is renamed afterwards.

    Raises:
        OSError: The file cannot be written; ``target`` is unchanged.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.parent / f".{target.name}.{secrets.token_hex(8)}"
    path.touch(exist_ok=False)
    # As the umask says; `write` may put another file in its place (safetensors makes one for its owner alone).
    mode = stat.S_IMODE(path.stat().st_mode)
    try:
        write(path)
        path.chmod(mode)
        with path.open("rb") as written:
            os.fsync(written.fileno())
        path.replace(target)
        sync_directory(target.parent)
    finally:
        path.unlink(missing_ok=True)


def replace_text(target: Path, text: str) -> None:
    """Replace a text file (UTF-8) as `replace` does."""
    replace(target, lambda path: path.write_text(text, encoding="utf-8"))


def sync_directory(directory: Path) -> None:
    """Flush a directory's entries to the disk."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_all(directory: Path, write: Callable[[Path], object]) -> None:
    """Replace several files of a directory and its folders, each atomically; weights come last.

    Args:
        directory: The directory. It is created if it does not exist.
        write: Called with the path of a temporary directory, to write the new files into.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".export-") as name:
        write(Path(name))
        written = [path for path in Path(name).rglob("*") if path.is_file()]
        for file in sorted(written, key=lambda path: path.suffix == ".safetensors"):
            target = directory / file.relative_to(name)
            replace(target, lambda path, file=file: shutil.copyfile(file, path))  # type: ignore[misc]


def lock(directory: Path, taken: str) -> int | None:
    """Lock a directory against other processes until this one ends, however it ends, or closes the handle.

    Args:
        directory: The worker's output directory.
        taken: The message if another process has locked it.

    Returns:
        The handle, which child processes do not inherit. None on a file system without locks, such as some network
        file systems; there only the server's fencing protects the worker.

    Raises:
        WorkerError: Another process has locked it.
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
    """An append-only file of JSON objects, one per line. If the process is killed, at most the last line is incomplete.

    Not thread-safe.

    Raises:
        JournalError: The file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Unbuffered: one line is one write, so that at most the last line can be incomplete.
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise JournalError(f"the journal {path} cannot be opened: {error.strerror}") from error

    def read(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield all lines with their numbers, from 1. An incomplete last line is cut off.

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
                    raise ValueError("it is not a complete JSON object")
            except ValueError as error:
                if end + len(line) < len(content):
                    raise JournalError(f"line {number} of the journal {self.path} cannot be read: {error}") from error
                os.truncate(self.path, end)
                return
            end += len(line)
            yield number, entry

    def append(self, entry: dict[str, Any]) -> None:
        """Write one line completely, or not at all.

        Raises:
            JournalError: The line cannot be written, for example because the disk is full.
        """
        line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
        end = self._file.seek(0, os.SEEK_END)
        try:
            written = self._file.write(line)
        except (OSError, ValueError) as error:
            raise JournalError(f"the journal {self.path} cannot be written: {error}") from error
        if written != len(line):
            # Lines after an incomplete one would make the journal unreadable.
            os.truncate(self.path, end)
            raise JournalError(f"the journal {self.path} cannot be written: the disk is full")

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()
