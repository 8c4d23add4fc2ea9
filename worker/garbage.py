"""Python's garbage collector, kept away from what stays to the end."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Nothing is looked through for garbage within, and what is there at the end never is again.

    What libraries make lives as long as the process. Looking through it again and again as they were imported, and once
    more at the exit, took 3 of the 11 CPU seconds in which a rank loads the built-in models and ends.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
