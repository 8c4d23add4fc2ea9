"""The base of index policies: scaling, noise, pulls in flight, and arms without history."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np

from bandit_server.bandit.estimators import Estimator
from bandit_server.bandit.noise import Noise
from bandit_server.bandit.posterior import ArmPosterior, Floats, gaussian
from bandit_server.bandit.scaling import RewardScaler

# The index of each arm, [arms], as a function of the number of its pulls in flight, [arms].
IndexFunction = Callable[[Floats], Floats]

# An arm whose effective count is below this has no history, and is explored again.
NEGLIGIBLE = 1e-9


class IndexPolicy(ABC):
    """Plays the arm with the highest index, after the arms without recent history, in random order.

    Rewards are scaled (scaling.py) and their noise σ is estimated (noise.py), so that multiplying all rewards by a
    constant changes no choice. A pull in flight counts as a reward equal to its arm's mean; so does each of several
    choices ahead for the choices after it. Among equal arms the choice is random.

    Args:
        arms: The number of arms.
        estimator: The estimator of their means.
    """

    learns = True

    def __init__(self, arms: int, estimator: Estimator) -> None:
        self.arms = arms
        self.estimator = estimator
        self.pulls = 0
        self._scaler = RewardScaler()
        self._noise = Noise()

    @abstractmethod
    def index_function(self, rng: np.random.Generator) -> IndexFunction:
        """Return the current index function; at least one arm has history."""

    @property
    def sigma(self) -> float:
        """The standard deviation of scaled rewards; above 0."""
        return self._noise.sigma

    def estimates(self) -> tuple[Floats, Floats]:
        """Return each arm's scaled mean and effective number of rewards, both [arms]; at least one arm has history.

        Arms without history get the average of the other means and a count of 0.
        """
        mean, count = self.estimator.estimates()
        known = count > NEGLIGIBLE
        if known.all():
            return mean, count
        return np.where(known, mean, mean[known].mean()), np.where(known, count, 0.0)

    def pulled(self, number: int, arm: int) -> None:
        """Record a pull."""
        if number >= self.pulls:
            self.estimator.advance(number + 1 - self.pulls)
            self.pulls = number + 1

    def rewarded(self, number: int, arm: int, worker: str, reward: float) -> None:
        """Record the reward of a pull."""
        value, shrink = self._scaler.scale(worker, reward)
        if shrink != 1.0:
            self.estimator.rescale(shrink)
            self._noise.rescale(shrink)
        self._noise.update(arm, worker, value)
        self.estimator.add(arm, max(self.pulls - 1 - number, 0), value)

    def choose(
        self, *, in_flight: Sequence[int], active: Sequence[int], rng: np.random.Generator, count: int = 1
    ) -> list[int]:
        """Choose the next `count` arms."""
        known = self.estimator.estimates()[1] > NEGLIGIBLE
        flying = np.bincount(np.asarray(in_flight, dtype=np.intp), minlength=self.arms).astype(float)
        # Shuffled, so that none of several equal arms is preferred.
        choices = rng.permutation(active) if len(active) > 1 else np.asarray(active)
        index = self.index_function(rng) if known.any() else _fewest_in_flight
        chosen: list[int] = []
        for _ in range(count):
            fresh = choices[~known[choices] & (flying[choices] == 0)]
            arm = int(fresh[0] if len(fresh) else choices[np.argmax(index(flying)[choices])])
            chosen.append(arm)
            flying[arm] += 1
        return chosen

    def posterior(self) -> list[ArmPosterior]:
        """Return the belief about each arm."""
        if not (self.estimator.estimates()[1] > NEGLIGIBLE).any():
            return []
        mean, count = self.estimates()
        # An arm without history is as uncertain as one reward would leave it.
        return gaussian(mean, self.sigma / np.sqrt(np.where(count > 0, count, 1.0)), count, self._scaler.unit)


class ThompsonSampling(IndexPolicy):
    """Draws the index (Thompson, Biometrika 1933), with Gaussian noise and no prior: θ ~ N(mean, σ²/count)."""

    def index_function(self, rng: np.random.Generator) -> IndexFunction:
        """Return the current index function."""
        return sampled_index(*self.estimates(), self.sigma, rng)


def sampled_index(mean: Floats, count: Floats, sigma: float, rng: np.random.Generator) -> IndexFunction:
    """Return the index θ ~ N(mean, σ²/(count + in flight)), all [arms]."""

    def index(flying: Floats) -> Floats:
        sd = sigma / np.sqrt(np.maximum(count + flying, NEGLIGIBLE))
        return np.asarray(mean + sd * rng.standard_normal(len(mean)))

    return index


def ucb_index(mean: Floats, count: Floats, width: float) -> IndexFunction:
    """Return the upper confidence bound mean + width/√(count + in flight), all [arms]."""

    def index(flying: Floats) -> Floats:
        return np.asarray(mean + width / np.sqrt(np.maximum(count + flying, NEGLIGIBLE)))

    return index


def _fewest_in_flight(flying: Floats) -> Floats:
    """Prefer the arms with the fewest pulls in flight: the index while no arm has history."""
    return -flying
