"""Recorded rewards of real distillations, replayed by each arm's own pulls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bandit_server.bandit.posterior import Floats
from bandit_server.bandit.simulation.environments import Rested

# The fraction at the end of a trace that is repeated after it.
_TAIL = 0.25


class Trace(Rested):
    """A scenario of recorded rewards: arm k's n-th pull pays the n-th of its recorded rewards, noise included.

    After the end of its recording an arm repeats the last quarter of it, each time half as large: its rewards there are
    unknown, but they were still falling. The arms were recorded in turn, and a relative reward depends a little on the
    progress of the other arms; a trace ignores that.

    The oracle knows every reward in advance: its gain is that of the best allocation of the pulls, noise included, so
    that even a perfect policy has regret. Compare policies with each other.

    Args:
        rewards: The rewards by arm, in the order of its own pulls; every arm has some.
        horizon: The total number of pulls, T.
    """

    def __init__(self, rewards: Sequence[Sequence[float]], horizon: int) -> None:
        curves = np.stack([_extend(np.asarray(arm, dtype=float), horizon) for arm in rewards])
        super().__init__(np.zeros(horizon), 0.0, curves)
        self.best = _best_allocation(curves)


def _extend(recorded: Floats, length: int) -> Floats:
    tail = recorded[-max(round(_TAIL * len(recorded)), 1) :]
    times = -(-max(length - len(recorded), 0) // len(tail))
    repeats = [tail / 2.0 ** (i + 1) for i in range(times)]
    return np.concatenate([recorded, *repeats])[:length]


def _best_allocation(curves: Floats) -> float:
    """Return the largest sum of T rewards of any curves [K, T], by dynamic programming over the arms."""
    best = np.full(curves.shape[1] + 1, -np.inf)
    best[0] = 0.0
    for curve in curves:
        sums = np.concatenate([[0.0], np.cumsum(curve)])
        best = np.array([(best[: pulls + 1] + sums[pulls::-1]).max() for pulls in range(len(best))])
    return float(best[-1])
