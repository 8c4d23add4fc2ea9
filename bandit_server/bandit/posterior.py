"""What recent rewards say about each arm: a windowed, discounted, unit-free Gaussian posterior.

Let arm k have the rewards r_i of its last `window` pulls, i counting pulls of the run, and let w_i = γ^(now − 1 − i).
Then n = Σ w_i is the arm's effective count and m = Σ w_i r_i / n its mean, and with the noise variance σ² and the
prior N(μ, τ²)

    precision = 1/τ² + n/σ²          mean = (μ/τ² + n·m/σ²) / precision          sd = precision^-½

the usual conjugate posterior of a Gaussian mean; discounting as in Raj & Kalyani, "Taming Non-stationary Bandits: A
Bayesian Approach" (2017), the window as in Trovò et al., "Sliding-Window Thompson Sampling" (2020). What is ours is
that no scale is given from outside:

- σ² is the mean of half the squared successive differences within (arm, worker), discounted likewise: a level that
  drifts slowly is no noise (von Neumann et al., "The Mean Square Successive Difference", 1941);
- μ and τ² are the mean of the arms' means and their spread around it, plus σ², so that an arm whose rewards have all
  grown old is as uncertain as the arms are different, and is tried again;
- rewards are divided by their worker's own scale first, the discounted mean of |r|, because a late joiner's
  decrements can be 100 times a veteran's.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from bandit_server.bandit.history import History

Floats = npt.NDArray[np.float64]

# P(best) is a mean over this many quantiles of each arm; its error is below one in twice as many.
_QUANTILES = np.array([NormalDist().inv_cdf((i + 0.5) / 128) for i in range(128)])
# A spread below this share of the rewards themselves is rounding, not information.
_ROUNDING = 1e-12
# A worker's scale is at least this share of its largest reward in the windows: where that one is so old that its
# weight has all but vanished, and zeros came since, squares would overflow.
_SMALLEST_SCALE = 2.0**-100


@dataclass(frozen=True, slots=True)
class ArmPosterior:
    """Belief about one arm's next reward.

    Attributes:
        mean: Its mean, in units of reward.
        sd: The standard deviation of that mean.
        effective_count: Recent rewards behind it, Σ w_i.
        p_best: Probability that this arm's mean is the highest, to 1 %.
    """

    mean: float
    sd: float
    effective_count: float
    p_best: float


@dataclass(frozen=True, slots=True)
class Posterior:
    """Beliefs about all arms, in units of `scale`.

    Attributes:
        mean, precision: Of each arm's mean reward, [arms]; precision is finite and above 0.
        count: Effective counts, [arms].
        noise: Precision that one more reward would add.
        scale: A power of two times the reward of a typical worker, above 0.
    """

    mean: Floats
    precision: Floats
    count: Floats
    noise: float
    scale: float

    @property
    def sd(self) -> Floats:
        """Standard deviations of the means, [arms]."""
        return np.asarray(self.precision**-0.5)

    def expecting(self, in_flight: Sequence[int]) -> Posterior:
        """As it will be when pulls in flight have returned just what is expected: the same means, less variance."""
        precision = self.precision.copy()
        np.add.at(precision, np.asarray(in_flight, dtype=np.intp), self.noise)
        return Posterior(self.mean, precision, self.count, self.noise, self.scale)

    def arms(self) -> list[ArmPosterior]:
        """The beliefs in units of reward."""
        best = p_best(self.mean, self.sd)
        return [
            ArmPosterior(_within(float(m) * self.scale), _within(float(s) * self.scale), float(n), float(p))
            for m, s, n, p in zip(self.mean, self.sd, self.count, best, strict=True)
        ]


def posterior(history: History, gamma: float) -> Posterior | None:
    """The posterior of every arm; None before the first reward. `gamma`: in (0, 1]."""
    if not any(history.rewards):
        return None
    values, scale = _in_worker_units(history, gamma)
    weights = [np.array([gamma ** (history.now - 1 - r.number) for r in arm]) for arm in history.rewards]
    count = np.array([w.sum() for w in weights])
    total = np.array([w @ v for w, v in zip(weights, values, strict=True)])
    # An arm whose weights have all vanished is one that was never pulled.
    seen = count > 0
    means = np.divide(total, count, out=np.zeros_like(total), where=seen)
    # Discounted, an old arm says less about what an arm is like.
    prior = float(total.sum() / count.sum()) if seen.any() else 0.0
    floor = _ROUNDING * max((float(np.abs(v).max()) for v in values if len(v)), default=1.0) or _ROUNDING
    noise = max(_noise(history, values, weights), floor**2)
    spread = float(np.mean((means[seen] - prior) ** 2)) if seen.any() else 0.0
    width = spread + noise
    precision = 1 / width + count / noise
    mean = (prior / width + total / noise) / precision
    return Posterior(mean, precision, count, 1 / noise, scale)


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


def _in_worker_units(history: History, gamma: float) -> tuple[list[Floats], float]:
    """Every arm's rewards divided by their worker's scale, and the scale of the typical worker.

    Powers of two come off first, so that squares neither overflow nor vanish; that loses no digit.
    """
    rewards = [reward for arm in history.rewards for reward in arm]
    exponents: dict[str, int] = {}
    for reward in rewards:
        if reward.value:
            at = math.frexp(reward.value)[1]
            exponents[reward.worker] = max(exponents.get(reward.worker, at), at)
    sums: dict[str, tuple[float, float]] = {}
    for reward in rewards:
        weight = gamma ** (history.now - 1 - reward.number)
        size, of = sums.get(reward.worker, (0.0, 0.0))
        unit = abs(math.ldexp(reward.value, -exponents.get(reward.worker, 0)))
        sums[reward.worker] = (size + weight * unit, of + weight)
    # The mean size of a worker's rewards, beside its power of two; a worker that earned nothing has none.
    sizes = {worker: max(size / of, _SMALLEST_SCALE) if size > 0 else 1.0 for worker, (size, of) in sums.items()}
    values = [
        np.array([math.ldexp(r.value, -exponents.get(r.worker, 0)) / sizes[r.worker] for r in arm])
        for arm in history.rewards
    ]
    scales = sorted(_scaled(sizes[worker], exponents.get(worker, 0)) for worker in sums)
    return values, scales[len(scales) // 2]


def _scaled(value: float, exponent: int) -> float:
    try:
        return math.ldexp(value, exponent) or math.ulp(0.0)
    except OverflowError:
        return sys.float_info.max


def _within(value: float) -> float:
    """Rewards at the end of the floating range have beliefs beyond it."""
    return max(-sys.float_info.max, min(sys.float_info.max, value))


def _noise(history: History, values: Sequence[Floats], weights: Sequence[Floats]) -> float:
    """Discounted mean of half the squared successive differences within (arm, worker); where no worker has two
    rewards of one arm, the spread of all rewards."""
    halves, of = 0.0, 0.0
    for arm, known in enumerate(history.rewards):
        previous: dict[str, float] = {}
        for reward, value, weight in zip(known, values[arm], weights[arm], strict=True):
            if reward.worker in previous:
                halves += float(weight) * (float(value) - previous[reward.worker]) ** 2 / 2
                of += float(weight)
            previous[reward.worker] = float(value)
    if of > 0:
        return halves / of
    everything = np.concatenate(list(values))
    return float(everything.var())
