"""Memory that is no longer used, given back to the system."""

from __future__ import annotations

import ctypes
import functools
import gc
import sys
from collections.abc import Callable


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """glibc's; other C libraries give memory back by themselves, or cannot."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back() -> None:
    """Give back what can be. It takes some tens of milliseconds where a thousand runs are at hand.

    One small object holds all the memory around it that is given back only together: a page of the C library's, if
    PYTHONMALLOC says `malloc`; else a megabyte of Python's own. Such objects are freed ones of every kind that Python
    keeps for the next, which a collection lets go of, and the names of the last thousands of attributes that were
    looked up, which are kept beside what was found until that is cleared.
    """
    # Python's own name for it may change; without it more is held, and nothing is wrong.
    clear = getattr(sys, "_clear_type_cache", None)
    if clear is not None:
        clear()
    gc.collect()
    trim = _trim()
    if trim is not None:
        trim(0)
