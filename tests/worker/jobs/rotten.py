"""Run by DeepSpeed's launcher: worker/train.py with one more data module, whose images are not numbers in some rounds.

deepspeed tests/worker/jobs/rotten.py --recipe FILE …      # data: {name: rotten, options: {rows: …, rounds: […]}}
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path.cwd())

from torch.utils.data import Dataset  # noqa: E402

from worker.data import DATA_MODULES, Batch, Rows, build  # noqa: E402
from worker.data.digits import DigitsData  # noqa: E402
from worker.train import main  # noqa: E402


class RottenRows(Dataset[Batch]):
    """Rows of which those of some rounds are spoilt."""

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
    data = build("digits")
    assert isinstance(data, DigitsData)
    data.train = RottenRows(data.train, options["rows"], options["rounds"])  # type: ignore[assignment]
    return data


DATA_MODULES["rotten"] = rotten

if __name__ == "__main__":
    sys.exit(main())
