"""Paired intervals of a difference between two methods: seeds and source images are both drawn again."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """A mean difference and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


def paired(ours: Floats, theirs: Floats, weights: Floats, *, draws: int = 2000, seed: int = 0) -> Interval:
    """The percentile bootstrap (Efron 1979) of the mean of ours − theirs over two crossed factors.

    Args:
        ours: What a method got, [seeds, images]: for each source image the sum over the items that show it.
        theirs: The same of the other method, the same seeds on the same items.
        weights: How many items show each image, [images].

    Raises:
        ValueError: The shapes differ.
    """
    if ours.shape != theirs.shape or ours.shape[1:] != weights.shape:
        raise ValueError(f"the methods do not pair: {ours.shape} and {theirs.shape}, weights {weights.shape}")
    gap = ours - theirs
    seeds, images = gap.shape
    rng = np.random.default_rng(seed)
    by_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), draws) / seeds
    by_image = rng.multinomial(images, np.full(images, 1 / images), draws)
    found = ((by_seed @ gap) * by_image).sum(1) / (by_image @ weights)
    low, high = np.quantile(found, (0.025, 0.975))
    return Interval(float(gap.mean(0).sum() / weights.sum()), float(low), float(high))
