"""The belief about each arm's reward, and the probability that an arm is the best."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# P(best) is a mean over the quantiles of each arm; with 128 of them its error is below 1/256.
_QUANTILES = np.array([NormalDist().inv_cdf((i + 0.5) / 128) for i in range(128)])


@dataclass(frozen=True, slots=True)
class ArmPosterior:
    """The belief about one arm's next reward.

    Attributes:
        mean: The expected reward, in units of reward.
        sd: The standard deviation of that mean.
        effective_count: The number of recent rewards that would carry the same information.
        p_best: The probability that this arm's mean is the highest, to 1 %.
    """

    mean: float
    sd: float
    effective_count: float
    p_best: float


def gaussian(mean: Floats, sd: Floats, count: Floats, unit: float = 1.0) -> list[ArmPosterior]:
    """Return the beliefs about arms whose mean rewards are independent Gaussians.

    Args:
        mean: The expectation of each arm's mean reward, [arms], in multiples of `unit`.
        sd: The standard deviation of each arm's mean reward, [arms], in multiples of `unit`; above 0.
        count: The effective counts, [arms].
        unit: The size of a scaled reward of 1, in units of reward.
    """
    best = p_best(mean, sd)
    return [
        ArmPosterior(_finite(float(m) * unit), _finite(float(s) * unit), float(n), float(p))
        for m, s, n, p in zip(mean, sd, count, best, strict=True)
    ]


def p_best(mean: Floats, sd: Floats) -> Floats:
    """Return the probability of each arm that its mean is the highest, [arms]; they sum to 1.

    It is the integral of the arm's density times the other arms' distribution functions, by the midpoint rule over the
    arm's quantiles.
    """
    points = mean[:, None] + sd[:, None] * _QUANTILES
    below = _normal_cdf((points[:, :, None] - mean) / sd)
    own = np.arange(len(mean))
    below[own, :, own] = 1.0
    shares = below.prod(axis=2).mean(axis=1)
    return np.asarray(shares / shares.sum())


def _normal_cdf(z: Floats) -> Floats:
    """Approximate the normal distribution function to 1.5e-7.

    Abramowitz & Stegun, Handbook of Mathematical Functions, 7.1.26.
    """
    x = np.abs(z) / math.sqrt(2)
    t = 1 / (1 + 0.3275911 * x)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.asarray(0.5 + np.copysign(0.5, z) * (1 - series * np.exp(-np.minimum(x * x, 700.0))))


def _finite(value: float) -> float:
    """Clip to the floating range: infinities are never sent."""
    return max(-sys.float_info.max, min(sys.float_info.max, value))
