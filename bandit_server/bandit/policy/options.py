"""Validation of the options of policies, which arrive as plain numbers from a recipe or a request."""

from __future__ import annotations

# The largest window: its content is part of every snapshot.
MAX_WINDOW = 10_000


def number(name: str, value: float, least: float, most: float) -> float:
    """Return an option that may be any number from `least` to `most`.

    Raises:
        ValueError: The value is out of range.
    """
    if not least <= value <= most:
        raise ValueError(f"option {name} is {value:g}; expected a number from {least:g} to {most:g}")
    return float(value)


def whole_number(name: str, value: float, least: int, most: int) -> int:
    """Return an option that must be a whole number from `least` to `most`.

    Raises:
        ValueError: The value is out of range or not whole.
    """
    if not (least <= value <= most and value == int(value)):
        raise ValueError(f"option {name} is {value:g}; expected a whole number from {least} to {most}")
    return int(value)


def fraction(name: str, value: float) -> float:
    """Return an option that must lie between 0 and 1, both excluded.

    Raises:
        ValueError: The value is out of range.
    """
    if not 0 < value < 1:
        raise ValueError(f"option {name} is {value:g}; expected a number between 0 and 1")
    return float(value)
