"""Finished runs of the study and its calibrated costs, in one JSON file that several processes may share.

No two processes do the same run.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

Section = Literal["calibrations", "runs"]


class Records:
    """Records by name, in two sections, one per line.

    A process claims a run by a file lock, which the system releases when the process dies: an interrupted run is
    started again.

    Args:
        path: The JSON file; its locks are in a directory beside it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._locks = path.with_suffix(".locks")

    def all(self, section: Section) -> dict[str, Any]:
        """Return all records of a section, by name; raise ValueError if the file holds something else."""
        if not self._path.exists():
            return {}
        try:
            records: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))[section]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self._path} holds no records of the study ({error!r}); give another file") from None
        return records

    def read(self, section: Section, name: str) -> Any | None:
        """Return a record; None if the run is not finished."""
        return self.all(section).get(name)

    @contextmanager
    def claim(self, section: Section, name: str, *, wait: bool = False) -> Iterator[bool]:
        """Claim a run for the block; yield whether it is this process's to do: not finished, and claimed by no other.

        With ``wait`` the claim waits for a process that has the run.
        """
        with self._locked(f"{section} {name}".replace("/", "-"), wait=wait) as locked:
            yield locked and self.read(section, name) is None

    def write(self, section: Section, name: str, record: Any) -> None:
        """Add a record to the file, atomically."""
        with self._locked("file", wait=True):
            content = {each: self.all(each) for each in ("calibrations", "runs")}
            content[section][name] = record
            sections = []
            for each, records in content.items():
                lines = (f"  {json.dumps(key)}: {json.dumps(records[key], allow_nan=False)}" for key in sorted(records))
                sections.append(f' "{each}": {{\n' + ",\n".join(lines) + "\n }")
            draft = self._path.with_suffix(".tmp")
            draft.write_text("{\n" + ",\n".join(sections) + "\n}\n", encoding="utf-8")
            draft.replace(self._path)

    @contextmanager
    def _locked(self, name: str, *, wait: bool) -> Iterator[bool]:
        self._locks.mkdir(exist_ok=True)
        with (self._locks / f"{name}.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
