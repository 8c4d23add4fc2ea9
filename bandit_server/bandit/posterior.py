"""What a policy believes of an arm, and the probability that it is the best."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# P(best) is a mean over this many quantiles of each arm; its error is below one in twice as many.
_QUANTILES = np.array([NormalDist().inv_cdf((i + 0.5) / 128) for i in range(128)])


@dataclass(frozen=True, slots=True)
class ArmPosterior:
    """Belief about one arm's next reward.

    Attributes:
        mean: Its mean, in units of reward.
        sd: The standard deviation of that mean.
        effective_count: Recent rewards that would say as much.
        p_best: Probability that this arm's mean is the highest, to 1 %.
    """

    mean: float
    sd: float
    effective_count: float
    p_best: float


def gaussian(mean: Floats, sd: Floats, count: Floats, unit: float = 1.0) -> list[ArmPosterior]:
    """Beliefs that are independent Gaussians.

    Args:
        mean, sd: Of each arm's mean reward, [arms], in some unit; every sd is above 0.
        count: Effective counts, [arms].
        unit: That unit, in units of reward.
    """
    best = p_best(mean, sd)
    return [
        ArmPosterior(_finite(float(m) * unit), _finite(float(s) * unit), float(n), float(p))
        for m, s, n, p in zip(mean, sd, count, best, strict=True)
    ]


def p_best(mean: Floats, sd: Floats) -> Floats:
    """For each arm the probability that its mean is the highest of all, [arms], summing to 1.

    The integral of one arm's density times the others' distribution functions, by the midpoint rule over the arm's
    quantiles.
    """
    points = mean[:, None] + sd[:, None] * _QUANTILES
    below = _normal_cdf((points[:, :, None] - mean) / sd)
    own = np.arange(len(mean))
    below[own, :, own] = 1.0
    shares = below.prod(axis=2).mean(axis=1)
    return np.asarray(shares / shares.sum())


def _normal_cdf(z: Floats) -> Floats:
    """To 1.5e-7: Abramowitz & Stegun, Handbook of Mathematical Functions, 7.1.26."""
    x = np.abs(z) / math.sqrt(2)
    t = 1 / (1 + 0.3275911 * x)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.asarray(0.5 + np.copysign(0.5, z) * (1 - series * np.exp(-np.minimum(x * x, 700.0))))


def _finite(value: float) -> float:
    """Infinite and undefined numbers are never sent."""
    return max(-sys.float_info.max, min(sys.float_info.max, value))
