"""``optima``, the default: Thompson sampling on the windowed, unit-free posterior."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bandit_server.bandit.history import History
from bandit_server.bandit.policy.base import WINDOW
from bandit_server.bandit.posterior import ArmPosterior, Posterior, posterior


class Optima:
    """Thompson sampling (Thompson, Biometrika 1933): draw each arm's mean from its posterior, play the highest.

    The posterior is that of posterior.py. Arms that never brought a reward and are not in flight come first, in
    random order: until then nothing says what an arm is worth. Pulls in flight count as if they had returned their
    arm's mean.

    Args:
        window: Rewards of each arm that count; at least 2.
        gamma: What a reward's weight is multiplied with for each later pull of the run; in (0, 1].

    Raises:
        ValueError: An option is out of its range.
    """

    learns = True

    def __init__(self, window: float = WINDOW, gamma: float = 0.99) -> None:
        if not 2 <= window <= 10_000 or window != int(window):
            raise ValueError(f"option window is {window:g}; expected a whole number from 2 to 10000")
        if not 0 < gamma <= 1:
            raise ValueError(f"option gamma is {gamma:g}; expected a number above 0, up to 1")
        self.window = int(window)
        self.gamma = gamma

    def choose(
        self,
        history: History,
        *,
        in_flight: Sequence[int],
        active: Sequence[int],
        rng: np.random.Generator,
        count: int,
    ) -> list[int]:
        """See Policy."""
        busy = set(in_flight)
        untried = [arm for arm in active if not history.rewards[arm] and arm not in busy]
        arms = [int(arm) for arm in rng.permutation(untried)][:count]
        beliefs = posterior(history, self.gamma)
        if beliefs is not None:
            beliefs = beliefs.expecting([*in_flight, *arms])
        while len(arms) < count:
            arm = _sample(beliefs, active, rng)
            arms.append(arm)
            if beliefs is not None:
                beliefs = beliefs.expecting([arm])
        return arms

    def posterior(self, history: History) -> list[ArmPosterior]:
        """See Policy."""
        beliefs = posterior(history, self.gamma)
        return [] if beliefs is None else beliefs.arms()


def _sample(beliefs: Posterior | None, active: Sequence[int], rng: np.random.Generator) -> int:
    # Shuffled, so that of equal arms none is preferred.
    arms = rng.permutation(np.asarray(active))
    if beliefs is None:
        return int(arms[0])
    drawn = beliefs.mean[arms] + beliefs.sd[arms] * rng.standard_normal(len(arms))
    return int(arms[np.argmax(drawn)])
