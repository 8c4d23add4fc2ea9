"""The names of runs, workers, arms and modules, as the bandit server takes them."""

import re

NAME = r"[A-Za-z0-9._-]{1,64}"
"""As a regular expression for the whole of a name."""
EXPECTED = "1 to 64 of the characters A-Z a-z 0-9 . _ -"
"""The same in words."""


def is_run_name(text: str) -> bool:
    """Tell whether a text can name a run, and so its directory: ``.`` and ``..`` would be other directories."""
    return re.fullmatch(NAME, text) is not None and text not in (".", "..")
