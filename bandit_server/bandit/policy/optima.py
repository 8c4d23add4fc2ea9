"""``optima``, the default policy: recent history decides, and the data decide what is recent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import sqrt

import numpy as np

from bandit_server.bandit.filter_bank import FilterBank, Ints
from bandit_server.bandit.policy.options import fraction, number
from bandit_server.bandit.posterior import ArmPosterior, Floats, gaussian
from bandit_server.bandit.scaling import RewardScaler

# The factor on an arm's waiting time after each of its rewards.
GROWTH = 3.0
# The number of rewards after which an arm is known; it then waits twice as long.
KNOWN = 20
# In standard deviations: how far a promising reward is above its prediction, and a harmful arm's mean below 0.
PROMISING = 0.5
HARMFUL = 2.0


class Optima:
    """Thompson sampling of the arms' dynamics, and upper confidence bounds of their means.

    For each choice one hypothesis about change is drawn by its weight in the filter bank (filter_bank.py), which is
    Thompson's rule (Biometrika 1933). With m and s the mean and standard deviation of each arm's reward under that
    hypothesis, the arm with the highest

        max(m, 0) + exploration · s        is played

    (an upper confidence bound of the posterior: Kaufmann et al., "On Bayesian Upper Confidence Bounds for Bandit
    Problems", AISTATS 2012). A negative mean counts as 0: a module whose training raises the loss changes the inputs of
    the others, which passes when they have adapted.

    Untried arms come first, in random order, and then any arm that has waited too long: a module's reward can rise
    while it is not trained, which no posterior of old rewards shows. An arm with n rewards waits

        min(retry, settle · 3^(n−1))       pulls of the run per arm, and 2·retry from its twentieth reward on,

    but no longer than `settle` if its last reward was half a standard deviation above its prediction, and no longer
    than half of `settle` if its mean is two standard deviations below 0: these arms may be about to pay.

    Pulls in flight count as if they had returned their arm's mean.

    Args:
        arms: The number of arms.
        exploration: The number of standard deviations in an arm's upper confidence bound; 0 to 100.
        memory: The factor per reward by which the evidence for hypotheses and noise is discounted; in (0, 1).
        retry: The number of pulls of the run, per arm, after which an arm is tried again; 0 for never.
        settle: The same for a new or promising arm; 0 to treat it like the others.

    Raises:
        ValueError: An option is out of range.
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
        self._filters = FilterBank(arms, fraction("memory", memory))
        self._retry = number("retry", retry, 0, 1e9) * arms
        self._settle = number("settle", settle, 0, 1e9) * arms or self._retry
        self._scaler = RewardScaler()
        self._now = 0
        # By arm: the number of its last pull, the waiting time after it, and the pull from which the arm is due.
        self._pulled = [-1] * arms
        self._wait = [math.inf] * arms
        self._due = [math.inf] * arms

    def pulled(self, number: int, arm: int) -> None:
        """Record a pull."""
        self._pulled[arm] = max(number, self._pulled[arm])
        self._due[arm] = self._pulled[arm] + self._wait[arm]
        self._now = max(number + 1, self._now)

    def rewarded(self, number: int, arm: int, worker: str, reward: float) -> None:
        """Record the reward of a pull."""
        value, shrink = self._scaler.scale(worker, reward)
        if shrink != 1.0:
            self._filters.rescale(shrink)
        surprise, level = self._filters.update(number, arm, value)
        if self._retry:
            count = self._filters.count[arm]
            wait = min(self._retry, self._settle * GROWTH ** (count - 1)) if count < KNOWN else 2 * self._retry
            if surprise > PROMISING:
                wait = min(wait, self._settle)
            if level < -HARMFUL:
                wait = min(wait, self._settle / 2)
            self._wait[arm] = wait
            self._due[arm] = self._pulled[arm] + wait

    def choose(
        self, *, in_flight: Sequence[int], active: Sequence[int], rng: np.random.Generator, count: int = 1
    ) -> list[int]:
        """Choose the next `count` arms."""
        arms: list[int] = []
        tried = self._filters.count
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
        hypotheses = self._filters.draw(rng.random(count))
        flying = [0] * len(self._pulled)
        for arm in in_flight:
            flying[arm] += 1
        if count == 1:
            return [self._highest(self._terms(int(hypotheses[0])), flying, active)]
        return _choose_in_turn(*self._terms_ahead(hypotheses), flying, active)

    # For one choice of a few arms, Python floats take half the time of arrays. Each arm is a tuple: its mean, at least
    # 0, its variance in units of σ², and the square of its bonus while none of its pulls is in flight.

    @staticmethod
    def _highest(arms: Sequence[Sequence[float]], flying: Sequence[int], active: Sequence[int]) -> int:
        best, highest = -1, -1.0
        for arm in active:
            mean, variance, square = arms[arm]
            bound = mean + sqrt(square / (1.0 + flying[arm] * variance))
            if bound > highest:
                best, highest = arm, bound
        return best

    def _terms(self, hypothesis: int) -> list[tuple[float, float, float]]:
        noise = self._filters.noise_variance(hypothesis) * self._exploration**2
        predicted = zip(*self._filters.predict(self._now, hypothesis), strict=True)
        return [(max(mean, 0.0), variance, variance * noise) for mean, variance in predicted]

    def _terms_ahead(self, hypotheses: Ints) -> tuple[Floats, Floats, Floats]:
        means, variances, noise = self._filters.predict_ahead(self._now, hypotheses)
        if self._exploration != 1.0:
            noise *= self._exploration**2
        return np.maximum(means, 0.0, out=means), variances, variances * noise

    def posterior(self) -> list[ArmPosterior]:
        """Return the belief about each arm."""
        if not any(self._filters.count):
            return []
        mean, sd, count = self._filters.average(self._now)
        return gaussian(mean, sd, count, self._scaler.unit)


def _choose_in_turn(
    means: Floats, variances: Floats, squares: Floats, flying: list[int], active: Sequence[int]
) -> list[int]:
    """Make choices one after the other, each of which is in flight for those after it.

    For each choice only the arms that could win are compared: those whose bound without pulls in flight reaches the
    highest mean.

    Args:
        means: The mean of each arm at each choice, at least 0, [arms, choices].
        variances: The variances in units of σ², [arms, choices].
        squares: The squares of the bonuses without pulls in flight, [arms, choices].
        flying: The number of pulls in flight of each arm; it is updated.
        active: The arms to choose from.
    """
    if len(active) < len(means):
        means, variances, squares = means[active], variances[active], squares[active]
    bounds = np.sqrt(squares)
    bounds += means
    candidates = bounds >= np.maximum.reduce(means)
    turns, rows = candidates.T.nonzero()
    arms = [active[row] for row in rows.tolist()]
    if len(turns) == len(candidates[0]):
        # Each choice has one candidate, whatever is in flight.
        return arms
    chosen: list[int] = []
    terms = (values[rows, turns].tolist() for values in (means, variances, squares))
    turn, best, highest = 0, -1, -1.0
    for choice, arm, mean, variance, square in zip(turns.tolist(), arms, *terms, strict=True):
        if choice != turn:
            chosen.append(best)
            flying[best] += 1
            turn, highest = choice, -1.0
        bound = mean + sqrt(square / (1.0 + flying[arm] * variance))
        if bound > highest:
            best, highest = arm, bound
    chosen.append(best)
    return chosen
