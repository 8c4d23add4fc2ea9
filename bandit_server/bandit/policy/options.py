"""Options as they come, plain numbers from a recipe or a request, checked and typed."""

from __future__ import annotations

# Of a window; what it holds is kept with every snapshot.
LONGEST_WINDOW = 10_000


def number(name: str, value: float, least: float, most: float) -> float:
    """An option that may be any number from `least` to `most`.

    Raises:
        ValueError: It is not.
    """
    if not least <= value <= most:
        raise ValueError(f"option {name} is {value:g}; expected a number from {least:g} to {most:g}")
    return float(value)


def whole(name: str, value: float, least: int, most: int) -> int:
    """An option that must be a whole number from `least` to `most`.

    Raises:
        ValueError: It is not.
    """
    if not (least <= value <= most and value == int(value)):
        raise ValueError(f"option {name} is {value:g}; expected a whole number from {least} to {most}")
    return int(value)


def share(name: str, value: float) -> float:
    """An option that must lie between 0 and 1, both excluded.

    Raises:
        ValueError: It does not.
    """
    if not 0 < value < 1:
        raise ValueError(f"option {name} is {value:g}; expected a number between 0 and 1")
    return float(value)
