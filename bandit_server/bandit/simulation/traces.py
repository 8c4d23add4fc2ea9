"""Rewards that a real distillation has paid, replayed by each arm's own pulls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bandit_server.bandit.posterior import Floats
from bandit_server.bandit.simulation.environments import Rested

# Of a trace, the part at its end that stands for what comes after it.
_LAST = 0.25


class Trace(Rested):
    """Arms that pay what was recorded: arm k's n-th pull brings the n-th of its recorded rewards, noise and all.

    Past the end of its recording an arm plays the last quarter of it again and again, each time half as large: what it
    would have paid is not known, but it was still falling. In truth the arms were recorded in turn, and a relative
    reward depends a little on what the others had reached by then; that is not in a trace.

    The oracle knows every reward beforehand: its gain is that of the best division of the pulls, luck included, so
    even a perfect policy has regret here. Compare policies with each other.

    Args:
        rewards: By arm, in the order of its own pulls; every arm has some.
        horizon: Pulls in all, T.
    """

    def __init__(self, rewards: Sequence[Sequence[float]], horizon: int) -> None:
        curves = np.stack([_continued(np.asarray(arm, dtype=float), horizon) for arm in rewards])
        super().__init__(np.zeros(horizon), 0.0, curves)
        self.best = _best_division(curves)


def _continued(recorded: Floats, length: int) -> Floats:
    last = recorded[-max(round(_LAST * len(recorded)), 1) :]
    times = -(-max(length - len(recorded), 0) // len(last))
    more = [last / 2.0 ** (i + 1) for i in range(times)]
    return np.concatenate([recorded, *more])[:length]


def _best_division(curves: Floats) -> float:
    """The most that T pulls can bring, of any curves [K, T]: arm by arm, for every number of pulls so far."""
    best = np.full(curves.shape[1] + 1, -np.inf)
    best[0] = 0.0
    for curve in curves:
        sums = np.concatenate([[0.0], np.cumsum(curve)])
        best = np.array([(best[: pulls + 1] + sums[pulls::-1]).max() for pulls in range(len(best))])
    return float(best[-1])
