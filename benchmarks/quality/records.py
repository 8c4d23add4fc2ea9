"""Finished runs of the study and what its costs were calibrated to, in one JSON file; processes beside each other never
do one run twice."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

Section = Literal["calibrations", "runs"]


class Records:
    """What is known by name, in two sections; a line each. A run is held by a lock on a file, which the system lets go
    of when its process dies: an interrupted run is begun anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._locks = path.with_suffix(".locks")

    def all(self, section: Section) -> dict[str, Any]:
        """What is known, by name. Raises ValueError where the file is none of the study's."""
        if not self._path.exists():
            return {}
        try:
            found: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))[section]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self._path} holds no records of the study ({error!r}); give another file") from None
        return found

    def read(self, section: Section, name: str) -> Any | None:
        """What came of it; None if it is not finished."""
        return self.all(section).get(name)

    @contextmanager
    def claim(self, section: Section, name: str, *, wait: bool = False) -> Iterator[bool]:
        """Whether it is this process's to do: not finished, and held by no other."""
        with self._held(f"{section} {name}".replace("/", "-"), wait=wait) as held:
            yield held and self.read(section, name) is None

    def write(self, section: Section, name: str, record: Any) -> None:
        """It is finished; the file has it whole or not at all."""
        with self._held("file", wait=True):
            content = {each: self.all(each) for each in ("calibrations", "runs")}
            content[section][name] = record
            sections = []
            for each, known in content.items():
                lines = (f"  {json.dumps(key)}: {json.dumps(known[key], allow_nan=False)}" for key in sorted(known))
                sections.append(f' "{each}": {{\n' + ",\n".join(lines) + "\n }")
            draft = self._path.with_suffix(".tmp")
            draft.write_text("{\n" + ",\n".join(sections) + "\n}\n", encoding="utf-8")
            draft.replace(self._path)

    @contextmanager
    def _held(self, name: str, *, wait: bool) -> Iterator[bool]:
        self._locks.mkdir(exist_ok=True)
        with (self._locks / f"{name}.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
