"""The probe: fixed held-out batches on which the student is measured around each round.

The *bandit loss* is what rewards are made of. Under ``train: forced`` it is the sum of the modules' own losses, each
on the teacher's boundary tensors; a round can change those of its arm's modules only, so only they are measured
again. Under ``active`` and ``all`` it is the total distillation loss, end to end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from worker.data.base import Batch, DataModule, Judged, Measured, Rows
from worker.data.loader import fixed_batch
from worker.distill.modular import Outputs
from worker.distill.objective import Objective
from worker.distill.plan import Plan, Planner
from worker.distill.teacher import Teacher
from worker.engine.engine import Engine
from worker.engine.process_group import Ranks
from worker.evaluation.generation import Writer
from worker.recipe.sections import ProbeRecipe

Terms = dict[str, float]


@dataclass
class Evaluation:
    """Measured end to end with the student's own inputs.

    Attributes:
        total_loss: The total distillation loss.
        terms: Its unweighted terms.
        metrics: Task metrics on held-out data, shares in [0, 1]; CIDEr, which is none, may be above 1.
    """

    total_loss: float
    terms: Terms
    metrics: dict[str, float]


@dataclass
class Probe:
    """Measures the student; every method is collective and gives the same numbers on every rank.

    Attributes:
        terms: The terms the bandit loss is made of, unweighted, as last measured.
    """

    engine: Engine
    ranks: Ranks
    planner: Planner
    objective: Objective
    teacher: Teacher
    data: DataModule
    recipe: ProbeRecipe
    terms: Terms = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Rank r holds batches r, r + world, …; what the teacher says of them never changes.
        mine = range(self.ranks.rank, self._rounded(self.recipe.batches), self.ranks.world)
        self._batches: list[tuple[Batch, Outputs]] = []
        for index in mine:
            batch = self._batch(self.data.held_out, index)
            self._batches.append((batch, self.teacher.run(self.teacher.modules, batch)))

    @property
    def loss(self) -> float:
        """The bandit loss as last measured; NaN or infinite if the student diverged."""
        return sum(self.objective.weight(name) * value for name, value in self.terms.items())

    def measure(self, trained: Sequence[str]) -> float:
        """Measure what training these modules can have changed; returns the bandit loss."""
        self.terms.update(self._terms(self.planner.measured(trained)))
        return self.loss

    def evaluate(self) -> Evaluation:
        """The end-to-end loss on the probe and the task metrics on the held-out questions."""
        terms = self._terms(self.planner.joint())
        total = sum(self.objective.weight(name) * value for name, value in terms.items())
        return Evaluation(total, terms, self._metrics(student=True))

    def teacher_metrics(self) -> dict[str, float]:
        """The teacher's own task metrics, measured as the student's are."""
        return self._metrics(student=False)

    def _terms(self, plan: Plan) -> Terms:
        """Unweighted terms, averaged over the probe's batches."""
        rows = []
        for batch, teacher in self._batches:
            terms, _ = self.engine.measure(batch, teacher, plan)
            rows.append(torch.stack([term.double() for term in terms.values()]))
        # Gathered in the order of ranks: a sum whose order depends on the transport would differ between ranks.
        means = self.ranks.gather(torch.stack(rows).mean(0)).mean(0)
        return dict(zip(terms, means.tolist(), strict=True))

    @torch.no_grad()
    def _metrics(self, *, student: bool) -> dict[str, float]:
        if isinstance(self.data, Judged):
            return self._judged(self.data, student=student)
        data = cast(Measured, self.data)
        plan = self.planner.task()
        sums: dict[str, Tensor] = {}
        for index in self._asked(self.recipe.questions):
            batch = self._batch(data.questions, index)
            if student:
                _, logits = self.engine.measure(batch, Outputs({}, {}), plan)
            else:
                logits = self.teacher.run(self.teacher.modules, batch).logits
            if logits is None:
                # Such a model has no task metric.
                return {}
            for metric, pair in data.metrics(logits, batch).items():
                sums[metric] = sums.get(metric, torch.zeros(2, dtype=torch.float64)) + torch.tensor(pair)
        names = sorted(sums)
        totals = self.ranks.gather(torch.stack([sums[name] for name in names]).flatten()).sum(0).view(-1, 2)
        return {name: float(s / n) for name, (s, n) in zip(names, totals.tolist(), strict=True) if n}

    def _judged(self, judged: Judged, *, student: bool) -> dict[str, float]:
        """What the model writes is judged on rank 0: a metric may be one of the whole corpus."""
        if student:
            writer = Writer.student(self.engine, self.planner, self.ranks)
        else:
            writer = Writer.teacher(self.teacher, self.ranks)
        rows, size = self.data.questions, self.recipe.batch_size
        mine: dict[int, list[int]] = {}
        for index in self._asked(min(self.recipe.questions, len(rows))):
            numbers = [(index * size + i) % len(rows) for i in range(size)]
            written = writer.write(self._batch(rows, index), judged.writing, self.data.pad_id)
            mine |= dict(zip(numbers, written, strict=True))
        all_written = {row: text for written in self.ranks.collect(mine) for row, text in written.items()}
        found: dict[str, float] = self.ranks.broadcast(judged.judge(all_written) if self.ranks.rank == 0 else None)
        return found

    def _asked(self, questions: int) -> range:
        """This rank's batches of so many questions."""
        return range(self.ranks.rank, self._rounded(-(-questions // self.recipe.batch_size)), self.ranks.world)

    def _batch(self, rows: Rows, index: int) -> Batch:
        batch = fixed_batch(self.data, rows, index * self.recipe.batch_size, self.recipe.batch_size)
        return self.engine.to_device(batch)

    def _rounded(self, batches: int) -> int:
        """Batches, so many that every rank has the same number: ZeRO 3 hangs otherwise."""
        return -(-batches // self.ranks.world) * self.ranks.world
