"""The study's tasks on collages of real digits, and what is held out for which purpose.

Of the 397 source digits that no teacher was trained on, the bandit's probe sees 97; the other 300, in blocks that share
no digit, only judge. So no choice was made by looking at what is reported, and blocks can be drawn again (bootstrap) as
source images can: an item's four digits are of one block.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from worker.data.counter import draws
from worker.data.digits.dataset import HELD_OUT_SEED, DigitsData, DigitsOptions
from worker.data.digits.rows import TRAIN_DIGITS, Collages, sources
from worker.data.digits.text import KINDS, QUESTIONS

TASKS: dict[str, tuple[str, ...]] = {
    "questions": tuple(kind for kind in QUESTIONS if kind != "entailment"),
    "entailment": ("entailment",),
    "two_pictures": ("two_pictures",),
    "captions": ("caption",),
}
"""Kinds of text by task: as VQA, SNLI-VE, NLVR2 and COCO Captions are the paper's."""
PROBED = 97
BLOCKS = 15


class TaskData(DigitsData):
    """One task.

    Attributes:
        metric: The name of the task's metric among `metrics`.
        blocks: Items to judge by, a set for each block of source digits.
    """

    def __init__(self, task: str, seed: int, source_digits: int) -> None:
        super().__init__(DigitsOptions())
        self.metric = f"accuracy/{task}" if task in KINDS else "accuracy"
        if task == "captions":
            self.metric = "accuracy/caption"
        mix = [float(kind in TASKS[task]) for kind in KINDS]
        every, unseen = sources(train=True), sources(train=False)
        # Little data is another little for every seed.
        order = np.argsort(draws(seed, np.arange(TRAIN_DIGITS), 1)[:, 0], kind="stable")
        self.train = Collages(every[order[:source_digits]], seed, 2**40, mix, shift=1)
        self.held_out = Collages(unseen[:PROBED], HELD_OUT_SEED, 2048, mix, shift=0)
        self.blocks = [
            Collages(scans, HELD_OUT_SEED + 1 + number, 2048, mix, shift=0)
            for number, scans in enumerate(np.split(unseen[PROBED:], BLOCKS))
        ]


def build(options: Mapping[str, Any]) -> TaskData:
    """A recipe's data: ``name: benchmarks.quality.tasks:build``. Raises ValueError on an unknown task."""
    if options["task"] not in TASKS:
        raise ValueError(f"there is no task {options['task']!r}; the tasks are {', '.join(TASKS)}")
    return TaskData(options["task"], options["seed"], options["source_digits"])
