"""Files as a dataset's authors publish them: JSON, or one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

Made = TypeVar("Made")

GUIDE = "docs/reproduce-the-paper.md says where each file comes from and goes"


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises ValueError in a sentence."""
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def read_lines(path: Path) -> Iterator[Any]:
    """The JSON objects of a file's lines. Raises ValueError in a sentence."""
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} of {path} is not JSON: {error}") from error


def made(path: Path, records: Callable[[], Iterable[Any]], make: Callable[[Any], Made | None]) -> list[Made]:
    """What ``make`` makes of a file's records, None left out.

    Raises:
        ValueError: A record lacks a field, or is none; or nothing is left.
    """
    found = []
    entries = 0
    try:
        for record in records():
            entries += 1
            one = make(record)
            if one is not None:
                found.append(one)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        lacks = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} is not as published: its entry {entries} has {lacks}; {GUIDE}") from error
    if not found:
        raise ValueError(f"{path} has no example that can be used; {GUIDE}")
    return found


def first_there(folder: Path, *names: str) -> str:
    """The first of these names that is in a folder; the first of all if none is."""
    return next((name for name in names if (folder / name).exists()), names[0])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"there is no {path}; {GUIDE}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
