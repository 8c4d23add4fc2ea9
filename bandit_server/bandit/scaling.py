"""Scaling of rewards, so that neither their unit nor a worker's own scale changes any choice."""

from __future__ import annotations

import math

# The weight of a reward in its worker's scale is multiplied by this for each later reward of the worker.
_DISCOUNT = 0.98
# Scaled rewards stay below 2 to this power, so that their squares do not overflow.
_MAX_EXPONENT = 256


class RewardScaler:
    """Divides rewards by a power of two, which is exact, and by their worker's own scale.

    A worker's scale is the discounted mean of its |reward|. Rewards are brought to the scale of the first worker, so
    that with one worker only the power of two divides. A worker that joins late, with a student that has everything
    still to learn, may earn 100 times as much as the others; its rewards count relative to its own scale.
    """

    def __init__(self) -> None:
        self._exponent: int | None = None
        # By worker, in the order of their first rewards: the discounted sum of |scaled reward|, and the sum of weights.
        self._sizes: dict[str, tuple[float, float]] = {}

    @property
    def unit(self) -> float:
        """The reward that is scaled to 1 for the first worker; a power of two."""
        return math.ldexp(1.0, min(self._exponent or 0, 1023))

    def scale(self, worker: str, reward: float) -> tuple[float, float]:
        """Scale a reward.

        Returns:
            The scaled reward, and the factor by which all rewards scaled before must be multiplied; almost always 1.
        """
        exponent = math.frexp(reward)[1]
        shrink = 1.0
        if self._exponent is None:
            if reward:
                self._exponent = exponent
        elif exponent - self._exponent > _MAX_EXPONENT:
            shift = exponent - self._exponent
            self._exponent = exponent
            shrink = math.ldexp(1.0, -shift) if shift < 1000 else 0.0
            self._sizes = {name: (size * shrink, weight) for name, (size, weight) in self._sizes.items()}
        value = math.ldexp(reward, -(self._exponent or 0))
        size, weight = self._sizes.get(worker, (0.0, 0.0))
        self._sizes[worker] = (_DISCOUNT * size + abs(value), _DISCOUNT * weight + 1)
        if len(self._sizes) > 1:
            own, first = self._size(worker), self._size(next(iter(self._sizes)))
            if own > 0 and first > 0:
                # Divide first, so that nothing overflows: a reward is at most about fifty times its worker's scale.
                value = value / own * first
        return value, shrink

    def _size(self, worker: str) -> float:
        size, weight = self._sizes[worker]
        return size / weight
