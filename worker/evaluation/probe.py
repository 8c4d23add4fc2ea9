"""The probe: fixed held-out batches on which the student is measured around each round.

Rewards are computed from the *bandit loss*. Under ``train: forced`` it is the sum of the modules' own losses, each on
the teacher's boundary tensors; a round can change the losses of its arm's modules only, so only those are measured
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
from worker.engine.process_group import ProcessGroup
from worker.evaluation.generation import Generator
from worker.recipe.sections import ProbeRecipe

Terms = dict[str, float]


@dataclass
class Evaluation:
    """Measurements of the student end to end, on its own inputs.

    Attributes:
        total_loss: The total distillation loss.
        terms: Its unweighted terms.
        metrics: Task metrics on held-out data: shares in [0, 1], except for CIDEr, which may be above 1.
    """

    total_loss: float
    terms: Terms
    metrics: dict[str, float]


@dataclass
class Probe:
    """Measures the student. Every method is collective and returns the same numbers on every rank.

    Attributes:
        terms: The unweighted terms of the bandit loss, as last measured.
    """

    engine: Engine
    process_group: ProcessGroup
    planner: Planner
    objective: Objective
    teacher: Teacher
    data: DataModule
    recipe: ProbeRecipe
    terms: Terms = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Rank r takes batches r, r + ranks, …. The teacher's outputs on them never change, so they are computed once.
        self._batches: list[tuple[Batch, Outputs]] = []
        for index in self._indices(self.recipe.batches):
            batch = self._batch(self.data.held_out, index)
            self._batches.append((batch, self.teacher.run(self.teacher.modules, batch)))

    @property
    def loss(self) -> float:
        """The bandit loss as last measured; NaN or infinite if the student diverged."""
        return sum(self.objective.weight(name) * value for name, value in self.terms.items())

    def measure(self, trained: Sequence[str]) -> float:
        """Measure the terms that training these modules can have changed, and return the bandit loss."""
        plan = self.planner.measured(trained)
        # Under ``forced`` the terms of other modules are as they were.
        self.terms = {**(self.terms if plan.forced else {}), **self._terms(plan)}
        return self.loss

    def evaluate(self) -> Evaluation:
        """Measure the end-to-end loss on the probe's batches and the task metrics on the held-out questions."""
        terms = self._terms(self.planner.joint())
        total = sum(self.objective.weight(name) * value for name, value in terms.items())
        return Evaluation(total, terms, self._metrics(student=True))

    def teacher_metrics(self) -> dict[str, float]:
        """Measure the teacher's task metrics in the same way."""
        return self._metrics(student=False)

    def _terms(self, plan: Plan) -> Terms:
        """Return unweighted terms, averaged over the probe's batches."""
        rows = []
        for batch, teacher in self._batches:
            terms, _ = self.engine.measure(batch, teacher, plan)
            rows.append(torch.stack([term.double() for term in terms.values()]))
        # Gathered in the order of ranks: a sum whose order depends on the transport would differ between ranks.
        means = self.process_group.all_gather(torch.stack(rows).mean(0)).mean(0)
        return dict(zip(terms, means.tolist(), strict=True))

    @torch.no_grad()
    def _metrics(self, *, student: bool) -> dict[str, float]:
        if isinstance(self.data, Judged):
            return self._generated_metrics(self.data, student=student)
        data = cast(Measured, self.data)
        plan = self.planner.task()
        sums: dict[str, Tensor] = {}
        for index in self._question_indices(self.recipe.questions):
            batch = self._batch(data.questions, index)
            if student:
                _, logits = self.engine.measure(batch, Outputs({}, {}), plan)
            else:
                logits = self.teacher.run(self.teacher.modules, batch).logits
            if logits is None:
                # A model without logits has no task metric.
                return {}
            for metric, pair in data.metrics(logits, batch).items():
                sums[metric] = sums.get(metric, torch.zeros(2, dtype=torch.float64)) + torch.tensor(pair)
        if not sums:
            return {}
        names = sorted(sums)
        totals = self.process_group.all_gather(torch.stack([sums[name] for name in names]).flatten())
        pairs = totals.sum(0).view(-1, 2).tolist()
        return {name: float(total / count) for name, (total, count) in zip(names, pairs, strict=True) if count}

    def _generated_metrics(self, judged: Judged, *, student: bool) -> dict[str, float]:
        """Return metrics of generated text. They are computed on rank 0, since some are of the corpus as a whole."""
        if student:
            generator = Generator.for_student(self.engine, self.planner, self.process_group)
        else:
            generator = Generator.for_teacher(self.teacher, self.process_group)
        rows, size = self.data.questions, self.recipe.batch_size
        local: dict[int, list[int]] = {}
        for index in self._question_indices(min(self.recipe.questions, len(rows))):
            numbers = [(index * size + i) % len(rows) for i in range(size)]
            texts = generator.generate(self._batch(rows, index), judged.writing, self.data.pad_id)
            local |= dict(zip(numbers, texts, strict=True))
        texts_by_row = {
            row: text for texts in self.process_group.all_gather_objects(local) for row, text in texts.items()
        }
        metrics: dict[str, float] = self.process_group.broadcast(
            judged.judge(texts_by_row) if self.process_group.is_rank0 else None
        )
        return metrics

    def _question_indices(self, questions: int) -> range:
        """Return the indices of this rank's batches of questions."""
        return self._indices(-(-questions // self.recipe.batch_size))

    def _indices(self, batches: int) -> range:
        """Return the indices of this rank's batches: equally many on every rank, since ZeRO 3 would hang otherwise."""
        ranks = self.process_group.world_size
        return range(self.process_group.rank, -(-batches // ranks) * ranks, ranks)

    def _batch(self, rows: Rows, index: int) -> Batch:
        batch = fixed_batch(self.data, rows, index * self.recipe.batch_size, self.recipe.batch_size)
        return self.engine.to_device(batch)
