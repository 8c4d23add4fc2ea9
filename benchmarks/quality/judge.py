"""Judges a student on held-out items, by the total distillation loss and the task's metric.

The loss has the same weights for all students, whatever weights they were trained with. Both are computed for each
block of source digits.
"""

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
"""Items per block for a point of a curve, and for a result."""

WEIGHTS = {
    "coca": LossWeights(task={"caption": 1.0, "contrastive": 0.1}, logits=1.0, temperature=2.0, layers=1.0),
    "llava": LossWeights(logits=1.0, temperature=2.0, layers=1.0),
}
"""Weights of the reported loss, by what a batch holds."""

Items = list[tuple[Batch, Outputs]]
_cache: dict[str, dict[int, Items]] = {}
"""The teacher's outputs on the items, cached for one problem, since its methods and seeds share them."""


@dataclass(frozen=True)
class Judgement:
    """Results on some items.

    Attributes:
        loss: Mean total loss of each block.
        right: Number of right answers in each block.
        items: Items per block.
    """

    loss: list[float]
    right: list[int]
    items: int

    @property
    def mean_loss(self) -> float:
        """The mean loss over the blocks."""
        return float(np.mean(self.loss))

    @property
    def score(self) -> float:
        """The task's metric: the share of right answers."""
        return sum(self.right) / (self.items * len(self.right))


class Judge:
    """Judges a student outside of the engine that trains it.

    Args:
        problem: Task and student; the items and the teacher's outputs on them are computed once for each.
        models: Teacher and student.
        data: The task.
        planner: The run's planner.
        teacher: The teacher.
    """

    def __init__(self, problem: str, models: Models, data: TaskData, planner: Planner, teacher: Teacher) -> None:
        objective = Objective(models.adapter, models.pairs, WEIGHTS[data.batches])
        self._student, self._weighted = Student(models.student, objective), objective.weighted
        self._data, self._plan, self._teacher = data, planner.joint(), teacher
        self._problem = problem

    def look(self, items: int) -> Judgement:
        """Judge the student as it is now, on so many items of each block."""
        losses, right = [], []
        self._student.eval()
        with torch.no_grad():
            for batch, targets in self._items(items):
                _, terms, outputs = self._student(batch, targets, self._plan)
                losses.append(float(self._weighted(terms)))
                right.append(int(self._data.metrics(outputs.logits, batch)[self._data.metric][0]))
        self._student.train()
        return Judgement(losses, right, items)

    def teacher(self) -> Judgement:
        """Judge the teacher by the same metric; its loss is 0."""
        right = [
            int(self._data.metrics(outputs.logits, batch)[self._data.metric][0])
            for batch, outputs in self._items(LOOK)
            if outputs.logits is not None
        ]
        return Judgement([0.0] * len(right), right, LOOK)

    def _items(self, count: int) -> Items:
        if self._problem not in _cache:
            _cache.clear()
        cached = _cache.setdefault(self._problem, {})
        if count not in cached:
            batches = [block.batch(np.arange(count)) for block in self._data.blocks]
            cached[count] = [(batch, self._teacher.run(self._teacher.modules, batch)) for batch in batches]
        return cached[count]
