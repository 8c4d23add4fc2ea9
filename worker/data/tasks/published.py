"""Files as the authors of a dataset publish them: JSON, or one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

Parsed = TypeVar("Parsed")

GUIDE = "docs/reproduce-the-paper.md lists the files and where to get them"


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: It is missing, cannot be read, or is not JSON.
    """
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def read_lines(path: Path) -> Iterator[Any]:
    """Yield the JSON object of each line of a file.

    Raises:
        ValueError: The file is missing or cannot be read, or a line is not JSON.
    """
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} of {path} is not JSON: {error}") from error


def parse_records(
    path: Path, records: Callable[[], Iterable[Any]], make: Callable[[Any], Parsed | None]
) -> list[Parsed]:
    """Parse the records of a file.

    Args:
        path: The file, for messages.
        records: Reads the records.
        make: Parses one record; None leaves it out.

    Raises:
        ValueError: A record lacks a field or has another type, or no record is left.
    """
    parsed = []
    entries = 0
    try:
        for record in records():
            entries += 1
            result = make(record)
            if result is not None:
                parsed.append(result)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        fault = f"has no {error}" if isinstance(error, KeyError) else f"cannot be read ({error})"
        raise ValueError(f"{path} is not as published: its entry {entries} {fault}; {GUIDE}") from error
    if not parsed:
        raise ValueError(f"{path} has no example that can be used; {GUIDE}")
    return parsed


def first_existing(folder: Path, *names: str) -> str:
    """Return the first of these names that exists in a folder, or simply the first if none does."""
    return next((name for name in names if (folder / name).exists()), names[0])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; {GUIDE}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
