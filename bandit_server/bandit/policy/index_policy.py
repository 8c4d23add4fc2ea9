"""What policies that score arms have in common: units, noise, pulls in flight, arms without history."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np

from bandit_server.bandit.estimators import Evidence
from bandit_server.bandit.noise import Noise
from bandit_server.bandit.posterior import ArmPosterior, Floats, gaussian
from bandit_server.bandit.scaling import Units

# The arms' scores, [arms], given how many pulls of each are in flight, [arms].
Score = Callable[[Floats], Floats]

# Rewards that are worth less than this share of one, all together, are as good as none: their arm is explored again.
FORGOTTEN = 1e-9


class Scored(ABC):
    """Plays the arm with the highest score; first those without recent history, in random order.

    Rewards are remembered in units of their own (units.py), and their noise σ is learned (noise.py): no multiple of
    them changes a choice. A pull in flight counts as a reward that equals its arm's mean; so does each of several
    choices ahead for those after it, all made from what is known now. Among equal arms the choice is random.

    Args:
        arms: How many there are.
        evidence: What to keep of their rewards.
    """

    learns = True

    def __init__(self, arms: int, evidence: Evidence) -> None:
        self.arms = arms
        self.evidence = evidence
        self.pulls = 0
        self._units = Units()
        self._noise = Noise()

    @abstractmethod
    def scorer(self, rng: np.random.Generator) -> Score:
        """How arms are scored now; at least one has history."""

    @property
    def sigma(self) -> float:
        """The noise's standard deviation, scaled; above 0."""
        return self._noise.sigma

    def estimates(self) -> tuple[Floats, Floats]:
        """Each arm's mean, scaled, and how many rewards that is worth, both [arms]; at least one arm has history.

        Arms without are as the average of the others, and their count is 0.
        """
        mean, count = self.evidence.estimates()
        known = count > FORGOTTEN
        if known.all():
            return mean, count
        return np.where(known, mean, mean[known].mean()), np.where(known, count, 0.0)

    def pulled(self, number: int, arm: int) -> None:
        """See Policy."""
        if number >= self.pulls:
            self.evidence.slide(number + 1 - self.pulls)
            self.pulls = number + 1

    def rewarded(self, number: int, arm: int, worker: str, reward: float) -> None:
        """See Policy."""
        value, shrink = self._units.take(worker, reward)
        if shrink != 1.0:
            self.evidence.rescale(shrink)
            self._noise.rescale(shrink)
        self._noise.learn(arm, worker, value)
        self.evidence.put(arm, max(self.pulls - 1 - number, 0), value)

    def choose(
        self, *, in_flight: Sequence[int], active: Sequence[int], rng: np.random.Generator, count: int = 1
    ) -> list[int]:
        """See Policy."""
        known = self.evidence.estimates()[1] > FORGOTTEN
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
        if not (self.evidence.estimates()[1] > FORGOTTEN).any():
            return []
        mean, count = self.estimates()
        # An arm without history is as uncertain as one reward would leave it.
        return gaussian(mean, self.sigma / np.sqrt(np.where(count > 0, count, 1.0)), count, self._units.unit)


class ThompsonSampling(Scored):
    """Scores that are drawn (Thompson, Biometrika 1933), with Gaussian noise and no prior: θ ~ N(mean, σ²/count)."""

    def scorer(self, rng: np.random.Generator) -> Score:
        """See Scored."""
        return drawn(*self.estimates(), self.sigma, rng)


def drawn(mean: Floats, count: Floats, sigma: float, rng: np.random.Generator) -> Score:
    """Scores θ ~ N(mean, σ²/(count + in flight)), all [arms]."""

    def score(flying: Floats) -> Floats:
        sd = sigma / np.sqrt(np.maximum(count + flying, FORGOTTEN))
        return np.asarray(mean + sd * rng.standard_normal(len(mean)))

    return score


def bounds(mean: Floats, count: Floats, width: float) -> Score:
    """Scores mean + width/√(count + in flight), all [arms]: upper confidence bounds."""

    def score(flying: Floats) -> Floats:
        return np.asarray(mean + width / np.sqrt(np.maximum(count + flying, FORGOTTEN)))

    return score


def _least_flying(flying: Floats) -> Floats:
    """Nothing tells the arms apart but that."""
    return -flying
