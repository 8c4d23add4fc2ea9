"""Judges a student on held-out items: the total distillation loss with the same weights, whatever weights it was
trained with, and the task's metric; both block by block of source digits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.quality.tasks import TaskData
from worker.data.base import Batch
from worker.distill.modular import Outputs
from worker.distill.objective import LossWeights, Objective
from worker.distill.plan import Planner
from worker.distill.student import Student
from worker.distill.teacher import Teacher
from worker.setup.models import Models

GLANCE, LOOK = 24, 120
"""Items of each block, for a point of a curve and for a result."""

WEIGHTS = LossWeights(task={"caption": 1.0, "contrastive": 0.1}, logits=1.0, temperature=2.0, layers=1.0)
"""Of the loss that is reported."""

Items = list[tuple[Batch, Outputs]]
_known: dict[str, dict[int, Items]] = {}
"""What the teacher says of the items; those of one problem are kept, since methods and seeds share them."""


@dataclass(frozen=True)
class Judged:
    """By block: the mean total loss, and how many of `items` answers were right."""

    loss: list[float]
    right: list[int]
    items: int

    @property
    def mean_loss(self) -> float:
        """Over the blocks."""
        return float(np.mean(self.loss))

    @property
    def score(self) -> float:
        """The task's metric."""
        return sum(self.right) / (self.items * len(self.right))


class Judge:
    """Looks at a student outside of the engine that trains it.

    Args:
        problem: What is distilled: its items are made once.
    """

    def __init__(self, problem: str, models: Models, data: TaskData, planner: Planner, teacher: Teacher) -> None:
        objective = Objective(models.adapter, models.pairs, WEIGHTS)
        self._student, self._weighted = Student(models.student, objective), objective.weighted
        self._data, self._plan, self._teacher = data, planner.joint(), teacher
        self._problem = problem

    def look(self, items: int) -> Judged:
        """The student as it is now, on so many items of each block."""
        losses, right = [], []
        self._student.eval()
        with torch.no_grad():
            for batch, said in self._items(items):
                _, terms, seen = self._student(batch, said, self._plan)
                losses.append(float(self._weighted(terms)))
                right.append(int(self._data.metrics(seen.logits, batch)[self._data.metric][0]))
        self._student.train()
        return Judged(losses, right, items)

    def teacher(self) -> Judged:
        """The teacher by the same metric."""
        found = [self._data.metrics(said.logits, batch)[self._data.metric][0] for batch, said in self._items(LOOK)]
        return Judged([0.0] * len(found), [int(right) for right in found], LOOK)

    def _items(self, count: int) -> Items:
        if self._problem not in _known:
            _known.clear()
        mine = _known.setdefault(self._problem, {})
        if count not in mine:
            batches = [block.batch(np.arange(count)) for block in self._data.blocks]
            mine[count] = [(batch, self._teacher.run(self._teacher.modules, batch)) for batch in batches]
        return mine[count]
