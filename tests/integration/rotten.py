"""A data module whose images are NaN in some rounds: ``data: {name: tests.integration.rotten:rotten, …}``."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import Dataset

from worker.data import Batch, Rows, build
from worker.data.digits.dataset import DigitsData


class RottenRows(Dataset[Batch]):
    """Rows whose images are NaN in some rounds."""

    def __init__(self, rows: Rows, rows_per_round: int, rounds: Sequence[int]) -> None:
        self._rows, self._rows_per_round, self._rounds = rows, rows_per_round, set(rounds)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        items = self._rows.__getitems__(indices)
        for index, item in zip(indices, items, strict=True):
            if index // self._rows_per_round in self._rounds:
                item["image"] = item["image"] * float("nan")
        return items


def rotten(options: Mapping[str, Any]) -> DigitsData:
    """Return the digits; a round has ``rows`` rows, and ``rounds`` are the rotten ones."""
    data = build("digits")
    assert isinstance(data, DigitsData)
    data.train = RottenRows(data.train, options["rows"], options["rounds"])  # type: ignore[assignment]
    return data
