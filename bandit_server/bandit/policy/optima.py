"""``optima``, the default: recent history decides, and the data say what is recent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import sqrt

import numpy as np

from bandit_server.bandit.filter_bank import Bank, Ints
from bandit_server.bandit.policy.options import number, share
from bandit_server.bandit.posterior import ArmPosterior, Floats, gaussian
from bandit_server.bandit.scaling import Units

# How much longer an arm waits after each of its rewards.
GROWTH = 3.0
# How many rewards have shown an arm's course; after them it waits twice as long.
KNOWN = 20
# In standard deviations: how far above what was believed a promising reward is; how far below 0 a harmful arm.
PROMISING = 0.5
HARMFUL = 2.0


class Optima:
    """Thompson sampling of how the arms change, optimism about what they pay.

    For each choice one hypothesis about change is drawn by its weight in the bank of filters (bank.py); so far this is
    Thompson's rule (Biometrika 1933). With m and s the mean and standard deviation of each arm's reward under that
    hypothesis, the arm with the highest

        max(m, 0) + exploration · s        is played

    (an upper confidence bound of the posterior: Kaufmann et al., "On Bayesian Upper Confidence Bounds for Bandit
    Problems", AISTATS 2012). No arm counts as worth less than nothing: a module whose training raises the loss changes
    what the others see, and stops to when they have learned it.

    Arms that were never tried come before that, in random order, and then whichever has waited too long: what a module
    pays can rise while nobody looks, and no posterior of old rewards says so. An arm with n rewards waits

        min(retry, settle · 3^(n−1))       pulls of the run per arm, and 2·retry from its twentieth reward on,

    but no longer than `settle` if its last reward was better than believed, by half a standard deviation, and half of
    that if it is believed to do harm, by two: these are the arms that may be about to pay.

    Pulls in flight count as if they had returned their arm's mean.

    Args:
        arms: How many there are.
        exploration: How many standard deviations an arm is given for being unknown; 0 to 100.
        memory: How fast the evidence for hypotheses and noise is forgotten, per reward; in (0, 1).
        retry: Pulls of the run, per arm, after which an arm is tried again; 0 for never.
        settle: The same for an arm that is new or promising; 0 for no sooner than others.

    Raises:
        ValueError: An option is out of its range.
    """

    learns = True

    def __init__(
        self,
        arms: int,
        *,
        exploration: float = 1.0,
        memory: float = 0.98,
        retry: float = 20.0,
        settle: float = 3.0,
    ) -> None:
        self._exploration = number("exploration", exploration, 0, 100)
        self._bank = Bank(arms, share("memory", memory))
        self._retry = number("retry", retry, 0, 1e9) * arms
        self._settle = number("settle", settle, 0, 1e9) * arms or self._retry
        self._units = Units()
        self._now = 0
        # By arm: the number of its last pull, how long it waits after it, and until when.
        self._pulled = [-1] * arms
        self._wait = [math.inf] * arms
        self._due = [math.inf] * arms

    def pulled(self, number: int, arm: int) -> None:
        """See Policy."""
        self._pulled[arm] = max(number, self._pulled[arm])
        self._due[arm] = self._pulled[arm] + self._wait[arm]
        self._now = max(number + 1, self._now)

    def rewarded(self, number: int, arm: int, worker: str, reward: float) -> None:
        """See Policy."""
        value, shrink = self._units.take(worker, reward)
        if shrink != 1.0:
            self._bank.rescale(shrink)
        surprise, above = self._bank.learn(number, arm, value)
        if self._retry:
            count = self._bank.count[arm]
            wait = min(self._retry, self._settle * GROWTH ** (count - 1)) if count < KNOWN else 2 * self._retry
            if surprise > PROMISING:
                wait = min(wait, self._settle)
            if above < -HARMFUL:
                wait = min(wait, self._settle / 2)
            self._wait[arm] = wait
            self._due[arm] = self._pulled[arm] + wait

    def choose(
        self, *, in_flight: Sequence[int], active: Sequence[int], rng: np.random.Generator, count: int = 1
    ) -> list[int]:
        """See Policy."""
        arms: list[int] = []
        tried = self._bank.count
        if 0 in tried:
            untried = [arm for arm in active if not tried[arm] and arm not in in_flight]
            arms += rng.permutation(untried).tolist()[:count] if untried else []
        if min(self._due) < self._now and len(arms) < count:
            due = [arm for arm in active if self._due[arm] < self._now]
            arms += sorted(due, key=self._pulled.__getitem__)[: count - len(arms)]
        if len(arms) < count:
            arms += self._best([*in_flight, *arms], active, rng, count - len(arms))
        return arms

    def _best(self, in_flight: Sequence[int], active: Sequence[int], rng: np.random.Generator, count: int) -> list[int]:
        hypotheses = self._bank.draw(rng.random(count))
        flying = [0] * len(self._pulled)
        for arm in in_flight:
            flying[arm] += 1
        if count == 1:
            return [self._highest(self._now_under(int(hypotheses[0])), flying, active)]
        return _in_turn(*self._foreseen(hypotheses), flying, active)

    # Of each arm: its worth, its variance in units of σ², and the square of its bonus while no pull of it is in flight.
    # A few arms, one choice: plain numbers take half the time of arrays.

    @staticmethod
    def _highest(arms: Sequence[Sequence[float]], flying: Sequence[int], active: Sequence[int]) -> int:
        best, highest = -1, -1.0
        for arm in active:
            mean, variance, square = arms[arm]
            bound = mean + sqrt(square / (1.0 + flying[arm] * variance))
            if bound > highest:
                best, highest = arm, bound
        return best

    def _now_under(self, hypothesis: int) -> list[tuple[float, float, float]]:
        noise = self._bank.noise(hypothesis) * self._exploration**2
        known = zip(*self._bank.predict(self._now, hypothesis), strict=True)
        return [(max(mean, 0.0), variance, variance * noise) for mean, variance in known]

    def _foreseen(self, hypotheses: Ints) -> tuple[Floats, Floats, Floats]:
        means, variances, noise = self._bank.foresee(self._now, hypotheses)
        if self._exploration != 1.0:
            noise *= self._exploration**2
        return np.maximum(means, 0.0, out=means), variances, variances * noise

    def posterior(self) -> list[ArmPosterior]:
        """See Policy."""
        if not any(self._bank.count):
            return []
        mean, sd, count = self._bank.averaged(self._now)
        return gaussian(mean, sd, count, self._units.unit)


def _in_turn(worth: Floats, variances: Floats, squares: Floats, flying: list[int], active: Sequence[int]) -> list[int]:
    """Choices one after the other, each of which is in flight for those after it; the numbers are all [arms, choices].

    Of each choice only the arms are looked at that could win: whose whole bonus takes them to the highest worth.
    """
    if len(active) < len(worth):
        worth, variances, squares = worth[active], variances[active], squares[active]
    bounds = np.sqrt(squares)
    bounds += worth
    could = bounds >= np.maximum.reduce(worth)
    turns, rows = could.T.nonzero()
    arms = [active[row] for row in rows.tolist()]
    if len(turns) == len(could[0]):
        # Nothing in flight could change any.
        return arms
    chosen: list[int] = []
    known = (numbers[rows, turns].tolist() for numbers in (worth, variances, squares))
    turn, best, highest = 0, -1, -1.0
    for at, arm, mean, variance, square in zip(turns.tolist(), arms, *known, strict=True):
        if at != turn:
            chosen.append(best)
            flying[best] += 1
            turn, highest = at, -1.0
        bound = mean + sqrt(square / (1.0 + flying[arm] * variance))
        if bound > highest:
            best, highest = arm, bound
    chosen.append(best)
    return chosen
