"""The plan of a round: what it trains and what is measured around it, by mode and arm.

======  ====================  =============  ========================  ======================  =====================
mode    student's inputs      moves          terms in the loss         computed                bandit loss (probe)
======  ====================  =============  ========================  ======================  =====================
forced  teacher's boundaries  the arm's      the arm's modules' own    the arm's modules, and  sum of all modules'
                              modules        terms                     the teacher's that      own terms, those of
                                                                       feed them               the arm measured anew
active  its own               the arm's      task, logits, layer       everything, gradient    total distillation
                              modules        terms of the arm's        from the arm's modules  loss, end to end
                                             modules                   on
all     its own               all modules    task, logits, layer       everything              total distillation
                                             terms of the arm's                                loss, end to end
                                             modules
joint   its own               all modules    all                       everything              as in the run's mode
======  ====================  =============  ========================  ======================  =====================

"joint" is the last row in every mode: it is played by an arm of that name and by the tail. The reward is the relative
decrement of the bandit loss; rounds of the tail have none. An adapter declares the inputs of its modules, or they are
found before training (worker/setup/forced.py). Under ``active`` and ``all`` they need not be known: then everything is
computed in every round.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from worker.models.base import ModuleSpec

Mode = Literal["forced", "active", "all"]


@dataclass(frozen=True)
class Plan:
    """The work of one round.

    Attributes:
        forced: Whether the student's modules read the teacher's boundary tensors.
        trained: Modules whose parameters are trained.
        student: Modules of the student to run, in order.
        teacher: Modules of the teacher to run, in order.
        layers: Modules whose layer terms are in the loss.
        task: Whether task terms are in the loss.
        logits: Whether the logit term is in the loss.
    """

    forced: bool
    trained: tuple[str, ...]
    student: tuple[str, ...]
    teacher: tuple[str, ...]
    layers: tuple[str, ...]
    task: bool
    logits: bool


class Planner:
    """Derives plans for one model.

    Args:
        specs: The model's modules; for ``forced`` with their inputs.
        logits_module: The module that computes the logits, which owns the task and logit terms; None if no module
            computes them alone, so that only joint rounds have such terms.
        mode: The recipe's ``train``.
        readers: The other modules that use a module's own (tied) parameters, by module.
    """

    def __init__(
        self,
        specs: Sequence[ModuleSpec],
        logits_module: str | None,
        mode: Mode,
        readers: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        if mode == "forced" and any(spec.inputs is None for spec in specs):
            raise ValueError("`forced` needs the inputs of every module; worker/setup/forced.py finds them")
        self._specs = tuple(specs)
        self._names = tuple(spec.name for spec in specs)
        self._logits_module = logits_module
        self._mode = mode
        self._readers = readers or {}

    @property
    def specs(self) -> tuple[ModuleSpec, ...]:
        """The model's modules, as they are declared."""
        return self._specs

    @property
    def modules(self) -> tuple[str, ...]:
        """The names of all modules, in order."""
        return self._names

    def joint(self) -> Plan:
        """Return the plan for layerwise distillation of all modules at once, end to end."""
        return self._own_inputs(trained=self._names, layers=self._names)

    def arm(self, modules: Sequence[str]) -> Plan:
        """Return the plan for an arm other than the joint one."""
        ordered = tuple(name for name in self._names if name in modules)
        if self._mode == "forced":
            return self.forced(ordered)
        return self._own_inputs(trained=ordered if self._mode == "active" else self._names, layers=ordered)

    def forced(self, modules: Sequence[str]) -> Plan:
        """Return the plan that runs each of the modules on the teacher's boundary tensors, with its own terms."""
        owns_logits = self._logits_module in modules
        return Plan(
            forced=True,
            trained=tuple(modules),
            student=tuple(modules),
            teacher=self._with_inputs(modules),
            layers=tuple(modules),
            task=owns_logits,
            logits=owns_logits,
        )

    def measured(self, trained: Sequence[str]) -> Plan:
        """Return the plan for the probe after a round: the terms of the bandit loss that its training can have changed.

        Args:
            trained: The modules that the round trained.
        """
        if self._mode != "forced":
            return self.joint()
        changed = {*trained, *(reader for module in trained for reader in self._readers.get(module, ()))}
        return self.forced([name for name in self._names if name in changed])

    def task(self) -> Plan:
        """Return the plan for task metrics: the student alone, end to end, without training."""
        return Plan(forced=False, trained=(), student=self._names, teacher=(), layers=(), task=True, logits=False)

    def look(self, modules: Sequence[str]) -> Plan:
        """Return the plan for the outputs of some of the student's modules, without teacher, terms or training."""
        return Plan(forced=False, trained=(), student=tuple(modules), teacher=(), layers=(), task=False, logits=False)

    def _own_inputs(self, trained: tuple[str, ...], layers: tuple[str, ...]) -> Plan:
        return Plan(
            forced=False,
            trained=trained,
            student=self._names,
            teacher=self._names,
            layers=layers,
            task=True,
            logits=True,
        )

    def _with_inputs(self, modules: Sequence[str]) -> tuple[str, ...]:
        """Return the modules and all of their direct and indirect inputs, in order."""
        inputs = {spec.name: spec.inputs or () for spec in self._specs}
        needed, pending = set(modules), list(modules)
        while pending:
            new = set(inputs[pending.pop()]) - needed
            needed |= new
            pending += new
        return tuple(name for name in self._names if name in needed)
