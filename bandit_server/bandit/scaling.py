"""Rewards without their units: any scale, and any worker's scale, looks the same from behind this."""

from __future__ import annotations

import math

# Of a worker's scale: what an older reward's share in it is multiplied with for each later one of the worker.
_MEMORY = 0.98
# Scaled rewards stay below this power of two, so that their squares neither overflow nor, above its inverse, vanish.
_LARGEST = 256


class Units:
    """Divides rewards by a power of two, which costs no digit, and by their worker's own scale.

    A worker's scale is the mean of its |reward|, discounted by its own later rewards. The first worker's is the
    unit, so that with one worker nothing is divided at all; a late joiner, whose student has everything still to
    learn, may earn 100 times what a veteran does, and its rewards count as what they are worth to itself.

    Attributes:
        unit: What a scaled reward of 1 is in units of reward, a power of two.
    """

    def __init__(self) -> None:
        self._exponent: int | None = None
        # By worker, in the order of their first rewards: sum of the discounted |scaled reward|, and of the weights.
        self._sizes: dict[str, tuple[float, float]] = {}

    @property
    def unit(self) -> float:
        """See the class."""
        return math.ldexp(1.0, min(self._exponent or 0, 1023))

    def take(self, worker: str, reward: float) -> tuple[float, float]:
        """The scaled reward, and what everything scaled before must be multiplied with: almost always 1."""
        exponent = math.frexp(reward)[1]
        shrink = 1.0
        if self._exponent is None:
            if reward:
                self._exponent = exponent
        elif exponent - self._exponent > _LARGEST:
            shift = exponent - self._exponent
            self._exponent = exponent
            shrink = math.ldexp(1.0, -shift) if shift < 1000 else 0.0
            self._sizes = {name: (size * shrink, of) for name, (size, of) in self._sizes.items()}
        value = math.ldexp(reward, -(self._exponent or 0))
        size, of = self._sizes.get(worker, (0.0, 0.0))
        self._sizes[worker] = (_MEMORY * size + abs(value), _MEMORY * of + 1)
        if len(self._sizes) > 1:
            ours, first = self._size(worker), self._size(next(iter(self._sizes)))
            if ours > 0 and first > 0:
                # In this order nothing overflows: a reward is at most some fifty times its worker's scale.
                value = value / ours * first
        return value, shrink

    def _size(self, worker: str) -> float:
        size, of = self._sizes[worker]
        return size / of
