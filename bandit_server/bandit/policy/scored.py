"""What policies that score arms have in common: units, noise, pulls in flight, arms without history."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np

from bandit_server.bandit.noise import Noise
from bandit_server.bandit.posterior import ArmPosterior, Floats, gaussian
from bandit_server.bandit.units import Units

# Rewards that count less than this, all together, are as good as none: their arm is explored again.
FORGOTTEN = 1e-9


class Scored(ABC):
    """Plays the arm with the highest score; first those without recent history, in random order.

    What is remembered is kept in units of its own (units.py), and σ is learned (noise.py), so no multiple of the
    rewards changes a choice. A pull in flight counts as a reward that equals its arm's mean. Equal arms are chosen
    among at random.

    Subclasses say what they remember of a reward (`learn`, `forget`, `rescale`), what that comes to (`estimates`) and
    how it is scored (`scorer`).

    Args:
        arms: How many there are.
    """

    learns = True

    def __init__(self, arms: int) -> None:
        self.arms = arms
        self._now = 0
        self._units = Units()
        self._noise = Noise()

    @abstractmethod
    def learn(self, arm: int, age: int, value: float) -> None:
        """A scaled reward of a pull that `age` others have followed."""

    @abstractmethod
    def rescale(self, factor: float) -> None:
        """All scaled rewards so far are to be multiplied with this."""

    @abstractmethod
    def estimates(self) -> tuple[Floats, Floats]:
        """Each arm's mean, scaled (anything where the count is 0), and how many rewards it rests on; both [arms]."""

    @abstractmethod
    def forget(self, pulls: int) -> None:
        """So many further pulls have been made."""

    @abstractmethod
    def scorer(self, rng: np.random.Generator) -> Callable[[Floats], Floats]:
        """The scores of the arms, [arms], as a function of how many pulls of each are in flight, [arms]."""

    @property
    def sigma(self) -> float:
        """The noise's standard deviation, scaled; above 0."""
        return self._noise.sigma

    def pulled(self, number: int, arm: int) -> None:
        """See Policy."""
        if number >= self._now:
            self.forget(number + 1 - self._now)
            self._now = number + 1

    def rewarded(self, number: int, arm: int, worker: str, reward: float) -> None:
        """See Policy."""
        value, shrink = self._units.take(worker, reward)
        if shrink != 1.0:
            self.rescale(shrink)
            self._noise.rescale(shrink)
        self._noise.learn(arm, worker, value)
        self.learn(arm, max(self._now - 1 - number, 0), value)

    def choose(
        self, *, in_flight: Sequence[int], active: Sequence[int], rng: np.random.Generator, count: int = 1
    ) -> list[int]:
        """See Policy."""
        known = self.estimates()[1] > FORGOTTEN
        flying = np.bincount(np.asarray(in_flight, dtype=np.intp), minlength=self.arms).astype(float)
        # Shuffled, so that of equal arms none is preferred.
        choices = rng.permutation(active) if len(active) > 1 else np.asarray(active)
        score = self.scorer(rng) if known.any() else _least_flying
        chosen: list[int] = []
        for _ in range(count):
            fresh = choices[~known[choices] & (flying[choices] == 0)]
            arm = int(fresh[0] if len(fresh) else choices[np.argmax(score(flying)[choices])])
            chosen.append(arm)
            flying[arm] += 1
        return chosen

    def posterior(self) -> list[ArmPosterior]:
        """See Policy."""
        mean, count = self.estimates()
        if not (count > FORGOTTEN).any():
            return []
        mean, count = filled(mean, count)
        return gaussian(mean, self.sigma / np.sqrt(np.where(count > 0, count, 1.0)), count, self._units.unit)


def filled(mean: Floats, count: Floats) -> tuple[Floats, Floats]:
    """Arms without history are as the average of the others; their count is 0. At least one has some."""
    known = count > FORGOTTEN
    if known.all():
        return mean, count
    return np.where(known, mean, mean[known].mean()), np.where(known, count, 0.0)


def gaussian_scorer(mean: Floats, count: Floats, sigma: float, rng: np.random.Generator) -> Callable[[Floats], Floats]:
    """Thompson sampling (Thompson, Biometrika 1933) with Gaussian noise and no prior: θ ~ N(mean, σ²/count)."""
    mean, count = filled(mean, count)

    def score(flying: Floats) -> Floats:
        sd = sigma / np.sqrt(np.maximum(count + flying, FORGOTTEN))
        return np.asarray(mean + sd * rng.standard_normal(len(mean)))

    return score


def _least_flying(flying: Floats) -> Floats:
    """Nothing tells the arms apart but that."""
    return -flying
