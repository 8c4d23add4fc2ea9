"""Random numbers as a pure function of (seed, index, draw): no state to save; any order, any subset."""

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]


def draws(seed: int, indices: npt.NDArray[np.int64], count: int) -> Words:
    """Return ``count`` independent random 64-bit words for each index, [len(indices), count].

    The mixing function is the finaliser of SplitMix64 (Steele, Lea and Flood 2014,
    doi:10.1145/2660193.2660195), applied to a chain of seed, index and draw number.
    """
    with np.errstate(over="ignore"):
        key = _mix(np.array(seed % 2**64, dtype=np.uint64) + _GOLDEN)
        rows = _mix(key ^ (indices.astype(np.uint64) * _GOLDEN))
        columns = (np.arange(count, dtype=np.uint64) + np.uint64(1)) * _GOLDEN
        return _mix(rows[:, None] + columns[None, :])


def below(words: Words, bound: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return integers 0 … bound - 1 from random words. The bias of the remainder is below bound / 2^64."""
    return (words % np.asarray(bound).astype(np.uint64)).astype(np.int64)


def unit(words: Words) -> npt.NDArray[np.float64]:
    """Return floats in [0, 1) with 53 bits from random words."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def shuffled(seed: int, epoch: int, size: int, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return which of ``size`` items is at each position of an epoch's order, without computing the whole order.

    A Feistel network over the next power of four with "cycle walking" (Black and Rogaway 2002,
    doi:10.1007/3-540-45760-7_9): a value outside the range is passed through again until it is inside, so the result
    is a permutation.
    """
    half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
    low = (np.uint64(1) << half) - np.uint64(1)
    keys = draws(seed, np.array([epoch], dtype=np.int64), _ROUNDS)[0]
    items = positions.astype(np.uint64)
    outside = np.ones(items.shape, dtype=np.bool_)
    while outside.any():
        left, right = items[outside] >> half, items[outside] & low
        for key in keys:
            left, right = right, left ^ (_mix(right ^ key) & low)
        items[outside] = (left << half) | right
        outside = items >= size
    return items.astype(np.int64)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = 6


def _mix(z: Words) -> Words:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)), dtype=np.uint64)
