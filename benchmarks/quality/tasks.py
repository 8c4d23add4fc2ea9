"""The study's tasks on collages of real digits, and which digits are held out for what.

No teacher was trained on 397 of the source digits. The bandit's probe uses 97 of them; the other 300, in blocks without
common digits, are used for judging only. So no choice depends on what is reported, and blocks can be resampled
(bootstrap) as source images can: the four digits of an item belong to one block.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from worker.data.counter import draws
from worker.data.digits.dataset import HELD_OUT_SEED, DigitsData, DigitsOptions
from worker.data.digits.rows import TRAIN_DIGITS, sources
from worker.data.digits.text import KINDS, QUESTIONS

TASKS: dict[str, tuple[str, ...]] = {
    "questions": tuple(kind for kind in QUESTIONS if kind != "entailment"),
    "entailment": ("entailment",),
    "two_pictures": ("two_pictures",),
    "captions": ("caption",),
}
"""Kinds of text by task, after the paper's VQA, SNLI-VE, NLVR2 and COCO Captions."""
PROBED = 97
"""Source digits of the probe."""
BLOCKS = 15
"""Blocks of the source digits for judging."""


class TaskData(DigitsData):
    """The data of one task.

    Args:
        task: A key of `TASKS`.
        seed: Seed of the training items.
        source_digits: Number of source digits in the training items.
        batches: What a batch holds, as in `DigitsOptions`.

    Attributes:
        batches: The same.
        metric: The key of the task's metric in `metrics`.
        blocks: The items for judging, one set for each block of source digits.
    """

    def __init__(self, task: str, seed: int, source_digits: int, batches: Literal["coca", "llava"] = "coca") -> None:
        super().__init__(DigitsOptions(batches=batches))
        self.batches = batches
        self.metric = f"accuracy/{task}" if task in KINDS else "accuracy"
        if task == "captions":
            self.metric = "accuracy/caption"
        mix = [float(kind in TASKS[task]) for kind in KINDS]
        train, held_out = sources(train=True), sources(train=False)
        # A small transfer set is another one for every seed.
        order = np.argsort(draws(seed, np.arange(TRAIN_DIGITS), 1)[:, 0], kind="stable")
        self.train = self.rows(train[order[:source_digits]], seed, 2**40, mix, shift=1)
        self.held_out = self.rows(held_out[:PROBED], HELD_OUT_SEED, 2048, mix, shift=0)
        self.blocks = [
            self.rows(scans, HELD_OUT_SEED + 1 + number, 2048, mix, shift=0)
            for number, scans in enumerate(np.split(held_out[PROBED:], BLOCKS))
        ]


def build(options: Mapping[str, Any]) -> TaskData:
    """Build the data of a recipe with ``name: benchmarks.quality.tasks:build``; raise ValueError on an unknown task."""
    if options["task"] not in TASKS:
        raise ValueError(f"there is no task {options['task']!r}; the tasks are {', '.join(TASKS)}")
    return TaskData(**options)
