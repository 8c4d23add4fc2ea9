"""Names of runs, workers, arms and modules, as the bandit server accepts them; and the nearest to an unknown name."""

import difflib
import re
from collections.abc import Iterable

NAME = r"[A-Za-z0-9._-]{1,64}"
"""A name as a regular expression, to be matched in full."""
EXPECTED = "1 to 64 of the characters A-Z a-z 0-9 . _ -"
"""The same in words."""
MOST_LISTED = 20
"""More names than this are not listed in a message."""


def is_run_name(text: str) -> bool:
    """Tell whether a text can name a run, and so its directory: ``.`` and ``..`` would be other directories."""
    return re.fullmatch(NAME, text) is not None and text not in (".", "..")


def nearest(name: str, known: Iterable[str], most: int = 1) -> str:
    """Return ``; did you mean 'tail'?`` for the names that are similar to an unknown one; "" if none is.

    Args:
        name: The unknown name.
        known: The names that are known.
        most: How many of the nearest names to give.
    """
    near = [repr(one) for one in difflib.get_close_matches(name, list(known), n=most, cutoff=0.5)]
    if not near:
        return ""
    *others, last = near
    return f"; did you mean {', '.join(others)} or {last}?" if others else f"; did you mean {last}?"


def suggest(name: str, known: Iterable[str], plural: str, most: int = 1) -> str:
    """Return the end of a message about an unknown name.

    Args:
        name: The unknown name.
        known: The names that are known.
        plural: Their kind in the plural, such as "fields".
        most: How many of the nearest names to give.

    Returns:
        ``; did you mean 'tail'?`` if a known name is similar; otherwise all of them (``; the fields are a, b``), or ""
        if there are more than 20.
    """
    names = list(known)
    hint = nearest(name, names, most)
    if hint:
        return hint
    if not names:
        return f"; there are no {plural}"
    return f"; the {plural} are {', '.join(names)}" if len(names) <= MOST_LISTED else ""
