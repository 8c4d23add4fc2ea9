"""Collages of real handwritten digits: scikit-learn's ``load_digits``, 1,797 scans of 8 × 8 pixels."""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from worker.data.base import Batch
from worker.data.counter import below, draws, unit
from worker.data.digits.text import KINDS, TEXT_DRAWS, compose_texts

TRAIN_DIGITS = 1400
CELL = 8
SIZE = 2 * CELL
SPLIT_SEED = 20231104
"""Fixed whatever the seed of the data, so that no digit is for training under one seed and held out under another."""
MEAN, STD = 0.305, 0.376
"""Mean and standard deviation of the pixels of all digits, scaled to 0 … 1."""

_DRAWS = 1 + 4 + 4 + TEXT_DRAWS


@cache
def _scans() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    table = _table()
    images, labels = table[:, :-1], table[:, -1]
    pixels = (images.reshape(-1, CELL, CELL) / 16.0 - MEAN) / STD
    return pixels.astype(np.float32), labels.astype(np.int64)


def _table() -> npt.NDArray[np.float64]:
    """Return one row per scan: its 64 pixels, 0 … 16, and its label."""
    # The file is read directly: importing scikit-learn and SciPy for it would take two seconds.
    package = find_spec("sklearn")
    path = Path((package and package.origin) or "").parent / "datasets" / "data" / "digits.csv.gz"
    if path.is_file():
        return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits

    return np.column_stack(load_digits(return_X_y=True))


@cache
def sources(train: bool) -> npt.NDArray[np.int64]:
    """Return the shuffled indices into ``load_digits`` of the training scans (1,400) or of the held-out ones (397)."""
    count = len(_scans()[1])
    order = np.argsort(draws(SPLIT_SEED, np.arange(count), 1)[:, 0], kind="stable")
    return order[:TRAIN_DIGITS] if train else order[TRAIN_DIGITS:]


class Collages(Dataset[Batch]):
    """Collages with texts. Item i is a function of i and of the arguments below alone.

    Args:
        scans: Indices into ``load_digits`` of the digits to draw from, [N].
        seed: Seed of everything random in an item.
        length: Number of items.
        mix: Share of each kind of text, in the order of KINDS; they need not sum to 1.
        shift: Each digit is shifted by up to this many pixels in each direction and cropped to its cell.
    """

    def __init__(self, scans: npt.NDArray[np.int64], seed: int, length: int, mix: Sequence[float], shift: int) -> None:
        pixels, labels = _scans()
        self.scans = scans
        self._labels = labels[scans]
        self._shifted = _shifts(pixels[scans], shift)
        self._seed = seed
        self._length = length
        self._edges = np.cumsum(mix) / np.sum(mix)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        batch = self.batch(np.asarray(indices, dtype=np.int64))
        return [{name: tensor[row] for name, tensor in batch.items()} for row in range(len(indices))]

    def batch(self, indices: npt.NDArray[np.int64]) -> Batch:
        """Return the items at these indices, stacked.

        Raises:
            IndexError: An index is not between 0 and len - 1.
        """
        if len(indices) and not (indices.min() >= 0 and indices.max() < self._length):
            raise IndexError(
                f"the indices {indices.tolist()} are out of range; items are numbered 0 to {self._length - 1}"
            )
        cells, labels, words = self._layout(indices)
        kind = np.searchsorted(self._edges, unit(words[:, 0]), side="right")
        text, answer = compose_texts(kind, labels, words[:, 9:])
        shift = below(words[:, 5:9], self._shifted.shape[1])
        grid = self._shifted[cells, shift].reshape(-1, 2, 2, CELL, CELL)
        image = torch.from_numpy(grid.transpose(0, 1, 3, 2, 4).reshape(-1, 1, SIZE, SIZE).copy())
        return {
            "image": image.expand(-1, 3, -1, -1).contiguous(),
            "text": torch.from_numpy(text),
            "answer": torch.from_numpy(answer),
            "paired": torch.from_numpy(kind == KINDS.index("caption")),
            "kind": torch.from_numpy(kind),
        }

    def labels(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the digit in each cell of the items at these indices, [B, 4]."""
        return self._layout(indices)[1]

    def _layout(
        self, indices: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
        words = draws(self._seed, indices, _DRAWS)
        cells = below(words[:, 1:5], len(self.scans))
        return cells, self._labels[cells], words


def _shifts(pixels: npt.NDArray[np.float32], most: int) -> npt.NDArray[np.float32]:
    """Shift every scan in every way, filling the gap with background: [N, 8, 8] -> [N, (2 · most + 1)², 8, 8]."""
    around = np.pad(pixels, ((0, 0), (most, most), (most, most)), constant_values=-MEAN / STD)
    steps = range(2 * most + 1)
    return np.stack([around[:, y : y + CELL, x : x + CELL] for y in steps for x in steps], axis=1)
