"""Bandit problems with a known best player, by name.

Each is drawn with numpy's default_rng, keyed by (name, horizon T, arms K, seed). In the formulas t counts the run's
pulls and n the arm's own, both from 0; f = T/2000 scales times, so that a short run sees as much change as a long one.
The noise belongs to the number of the pull, not to the arm: all policies on one seed have the same noise, so that
their regrets can be compared in pairs. σ is the noise's standard deviation; it is Gaussian unless stated otherwise.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable

import numpy as np

from bandit_server.bandit.posterior import Floats
from bandit_server.bandit.simulation.environments import CommonTrend, LateWorker, Rested, Restless, Scenario

SEGMENTS = 6
# The shortest length of a segment, as a fraction of the horizon.
SHORTEST = 0.075


def piecewise(horizon: int, arms: int, rng: np.random.Generator) -> Scenario:
    """Mean a_ks in segment s of 6, a ~ U(0, 1); every segment lasts at least 0.075·T; σ = 0.2."""
    noise, segment = rng.standard_normal(horizon), _segments(horizon, rng)
    return Restless(noise, 0.2, rng.random((SEGMENTS, arms))[segment])


def abrupt_drift(horizon: int, arms: int, rng: np.random.Generator) -> Scenario:
    """Mean (a_ks + 0.2·sin(2πt/P_k + φ_k))·exp(−t/(3000·f)): abrupt, periodic and lasting change; σ = 0.2.

    a ~ U(0.2, 0.8) in segment s of 6, as in `piecewise`; P ~ U(300, 900)·f, φ ~ U(0, 2π).
    """
    noise, segment = rng.standard_normal(horizon), _segments(horizon, rng)
    levels = rng.uniform(0.2, 0.8, (SEGMENTS, arms))[segment]
    t = np.arange(horizon)[:, None]
    period, phase = rng.uniform(300, 900, arms) * _scale(horizon), rng.uniform(0, 2 * math.pi, arms)
    drift = 0.2 * np.sin(2 * math.pi * t / period + phase)
    return Restless(noise, 0.2, (levels + drift) * np.exp(-t / (3000 * _scale(horizon))))


def rotting(horizon: int, arms: int, rng: np.random.Generator) -> Scenario:
    """Mean a_k·exp(−n/(τ_k·f)), a ~ U(0.2, 1), log τ ~ U(log 100, log 3000); σ = 0.1."""
    return Rested(rng.standard_normal(horizon), 0.1, _rotting_curves(horizon, arms, rng))


def rotting_noisy(horizon: int, arms: int, rng: np.random.Generator) -> Scenario:
    """As `rotting`; σ = 0.3."""
    return Rested(rng.standard_normal(horizon), 0.3, _rotting_curves(horizon, arms, rng))


def rotting_fast(horizon: int, arms: int, rng: np.random.Generator) -> Scenario:
    """As `rotting`, log τ ~ U(log 50, log 600); σ = 0.1."""
    return Rested(rng.standard_normal(horizon), 0.1, _rotting_curves(horizon, arms, rng, tau=(50, 600)))


def eight_in_flight(horizon: int, arms: int, rng: np.random.Generator) -> Scenario:
    """As `rotting`; each reward is reported 8 pulls late, at every horizon; σ = 0.1."""
    return Rested(rng.standard_normal(horizon), 0.1, _rotting_curves(horizon, arms, rng), delay=8)


def heavy_tail(horizon: int, arms: int, rng: np.random.Generator) -> Scenario:
    """As `rotting`, with noise of Student's t with 3 degrees of freedom, scaled to σ = 0.1."""
    return Rested(rng.standard_t(3, horizon) / math.sqrt(3), 0.1, _rotting_curves(horizon, arms, rng))


def common_trend(horizon: int, arms: int, rng: np.random.Generator) -> Scenario:
    """Mean a_k·exp(−n/(τ_k·f))·exp(−t/(400·f)), σ = 0.1 of it: the trend is larger than the differences between arms.

    a ~ U(0.6, 1), τ as in `rotting`.
    """
    noise, curves = rng.standard_normal(horizon), _rotting_curves(horizon, arms, rng, pays=(0.6, 1))
    return CommonTrend(noise, 0.1, curves, np.exp(-np.arange(horizon) / (400 * _scale(horizon))))


def rising(horizon: int, arms: int, rng: np.random.Generator) -> Scenario:
    """One arm pays little, then much, then rots: mean b·(0.1 + x·exp(1 − x)), x = n/(4·m), m = max(m₀·f, 2).

    b ~ U(0.8, 1.2), m₀ ~ U(10, 40): it pays most after 4·m pulls. The other arms are as in `rotting`, but with
    a ~ U(0.14, 0.7): at first all pay more than it does; at its best, none does. σ = 0.1.
    """
    noise, curves = rng.standard_normal(horizon), _rotting_curves(horizon, arms, rng, pays=(0.14, 0.7))
    arm, height = int(rng.integers(arms)), rng.uniform(0.8, 1.2)
    x = np.arange(horizon) / (4 * max(rng.uniform(10, 40) * _scale(horizon), 2.0))
    curves[arm] = height * (0.1 + x * np.exp(1 - x))
    return Rested(noise, 0.1, curves, arm)


def two_workers(horizon: int, arms: int, rng: np.random.Generator) -> Scenario:
    """As `rotting`; from T/2 on, every other pull is a second worker's, on a new student.

    Its rewards and their noise are reported 100 times as large as the first worker's; σ = 0.1.
    """
    return LateWorker(rng.standard_normal(horizon), 0.1, _rotting_curves(horizon, arms, rng), units=100.0)


def coupled(horizon: int, arms: int, rng: np.random.Generator) -> Scenario:
    """Modules of one loss: an upstream arm u, which first raises the loss and then lowers what the others can reach.

    The reward is the decrement of the total loss, in the units of the loss, plus noise:

        L = h·x·exp(1 − x)  +  Σ_{k≠u} (0.45·exp(−max(0, n_u − m)/τ_u)  +  d_k·exp(−n_k/τ_k)),      x = n_u/m

    The first term is the harm: the others get inputs that they do not know; it grows until u was pulled m times, and
    then vanishes. The second is the level at which arm k saturates. The third pays at once, and ever less. Upstream:
    m ~ U(15, 40)·f, h ~ U(0.05, 0.3), τ_u ~ U(200, 600)·f: an equal share of the pulls does not exhaust it, or else a
    policy that ignores rewards would be the best one. Downstream: d ~ U(0.5, 1), log τ ~ U(log 20, log 200) + log f.
    σ = L₀/T with the loss L₀ at the beginning: the reward of every pull if all pulls paid the same and used up L₀.
    """
    scale = _scale(horizon)
    noise, upstream = rng.standard_normal(horizon), int(rng.integers(arms))
    n = np.arange(horizon + 1)
    saturation = np.exp(rng.uniform(math.log(20), math.log(200), arms)) * scale
    losses = rng.uniform(0.5, 1, arms)[:, None] * np.exp(-n / saturation[:, None])
    harmful = rng.uniform(15, 40) * scale
    x = n / harmful
    level = 0.45 * np.exp(-np.maximum(n - harmful, 0) / (rng.uniform(200, 600) * scale))
    losses[upstream] = rng.uniform(0.05, 0.3) * x * np.exp(1 - x) + (arms - 1) * level
    # Every term depends on one arm's pulls alone, so each arm has a curve of its own.
    return Rested(noise, float(losses[:, 0].sum()) / horizon, -np.diff(losses), upstream)


SCENARIOS: dict[str, Callable[[int, int, np.random.Generator], Scenario]] = {
    "piecewise": piecewise,
    "rotting": rotting,
    "rotting-noisy": rotting_noisy,
    "rotting-fast": rotting_fast,
    "abrupt+drift": abrupt_drift,
    "8-in-flight": eight_in_flight,
    "common-trend": common_trend,
    "rising": rising,
    "heavy-tail": heavy_tail,
    "two-workers-one-late": two_workers,
    "coupled": coupled,
}


def make(name: str, horizon: int, arms: int, seed: int) -> Scenario:
    """Draw a scenario.

    Args:
        name: One of SCENARIOS.
        horizon: The total number of pulls, T; at least 1.
        arms: The number of arms, K; at least 2.
        seed: The seed; at least 0.

    Raises:
        ValueError: The scenario does not exist, or a number is out of range.
    """
    if name not in SCENARIOS:
        raise ValueError(f"there is no scenario {name!r}; there are {', '.join(SCENARIOS)}")
    if horizon < 1 or arms < 2 or seed < 0:
        raise ValueError(f"{horizon} pulls of {arms} arms, seed {seed}: expected at least 1 pull, 2 arms and seed 0")
    return SCENARIOS[name](horizon, arms, np.random.default_rng([zlib.crc32(name.encode()), horizon, arms, seed]))


def _scale(horizon: int) -> float:
    return horizon / 2000


def _segments(horizon: int, rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Return the segment of every pull, [T], 0 to 5.

    Each segment has its shortest length, and random cuts divide the rest.
    """
    free = horizon * (1 - SEGMENTS * SHORTEST)
    cuts = np.sort(rng.random(SEGMENTS - 1)) * free + horizon * SHORTEST * np.arange(1, SEGMENTS)
    return np.searchsorted(cuts, np.arange(horizon), side="right")


def _rotting_curves(
    horizon: int,
    arms: int,
    rng: np.random.Generator,
    pays: tuple[float, float] = (0.2, 1.0),
    tau: tuple[float, float] = (100.0, 3000.0),
) -> Floats:
    """Return the means a·exp(−n/(τ·f)) by arm and own pulls, [K, T]; a is uniform in `pays`, log τ in log `tau`."""
    starts = rng.uniform(*pays, arms)
    times = np.exp(rng.uniform(math.log(tau[0]), math.log(tau[1]), arms)) * _scale(horizon)
    curves: Floats = starts[:, None] * np.exp(-np.arange(horizon) / times[:, None])
    return curves
