"""Which module of a model reads which, found by experiment on a few rows.

All units answer with what they put out in the model's own forward pass, except for one tensor that is replaced by
noise: the units whose inputs change read it, and so do the outputs that change. Only the model's code between the units
is run for that, so it takes next to no time. (A constant in place of noise would show nothing behind a layer norm.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from worker.distill.stand_ins import Pass, StandIns
from worker.errors import RecipeError
from worker.models.base import Adapter, Batch, Boundary
from worker.models.paths import owned_modules

Output = tuple[str, str]
"""The keys of an entry of `Adapter.run_whole`."""
CLOSE = 1e-4
"""The largest relative difference of two outputs that are the same."""
LOGITS: Output = ("", "logits")
TASK = "\0task"
"""The first key of task terms among the outputs."""


@dataclass
class Reads:
    """The reading relation of a model's modules, and the tensors that they put out.

    Attributes:
        inputs: For each module, the modules whose tensors it reads.
        read: For each module, the tensors that others read, or that outputs are computed from which no module makes
            alone; in the order in which they are put out.
        needed: These, and others that the passes of other modules cannot miss.
        spare: For each module, the units of others whose tensors its pass cannot miss, but nothing reads.
        maker: The module that makes the logits alone or, in a model without logits, its losses; None if there is none.
        outputs: The entries of `Adapter.run_whole` that a module makes alone.
        boundary: The tensors that the modules put out on the rows.
    """

    inputs: dict[str, set[str]] = field(default_factory=dict)
    read: dict[str, list[str]] = field(default_factory=dict)
    needed: dict[str, list[str]] = field(default_factory=dict)
    spare: dict[str, set[str]] = field(default_factory=dict)
    maker: str | None = None
    outputs: dict[str, set[Output]] = field(default_factory=dict)
    boundary: dict[str, Boundary] = field(default_factory=dict)


def owners(model: nn.Module, adapter: Adapter) -> dict[str, str]:
    """Return the module that owns each PyTorch module which holds nothing of another module, by dotted path."""
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    owner: dict[str, str] = {}
    for module in adapter.modules:
        for root in owned_modules(model, module.path):
            for name in names:
                if name == root or name.startswith(f"{root}."):
                    owner.setdefault(name, module.name)
    mixed = {
        name.rsplit(".", depth)[0]
        for name in names
        for depth in range(1, name.count(".") + 1)
        if owner.get(name) != owner.get(name.rsplit(".", depth)[0])
    }
    # A shared PyTorch module has several paths.
    first = {
        id(module): name for name, module in reversed([*model.named_modules(remove_duplicate=False)]) if name in owner
    }
    return {name: owner[name] for name in first.values() if name not in mixed}


@torch.no_grad()
def find_reads(stand_ins: StandIns, batch: Batch) -> Reads:
    """Run a model and find out what its modules read.

    Args:
        stand_ins: The units of the model, which is in eval mode; they learn their order here.
        batch: A few rows.

    Raises:
        RecipeError: With all modules standing in, the model does not compute what it computes by itself.
    """
    return _Experiment(stand_ins, batch).reads()


class _Experiment:
    def __init__(self, stand_ins: StandIns, batch: Batch) -> None:
        self._stand_ins, self._batch = stand_ins, batch
        self._modules = [module.name for module in stand_ins.adapter.modules]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            own, whole = stand_ins.learn(batch)
        self._boundary = {module: own.boundary.get(module, {}) for module in self._modules}
        self._order = own.calls
        self._tensors: dict[Any, list[Tensor]] = {**(own.inputs or {}), **self._outputs(whole)}

    def reads(self) -> Reads:
        found = Reads(boundary=self._boundary)
        kind = type(self._stand_ins.model).__name__
        for module, put_out in self._boundary.items():
            if not put_out:
                raise RecipeError(
                    f"train: forced: the forward pass of {kind} calls no PyTorch module of {module}; name those that "
                    "it calls under `modules`, or use train: active or all"
                )
        different = self._changed(self._boundary)
        if different:
            raise RecipeError(
                f"train: forced: the modules of a {kind} pass each other more than "
                f"tensors (with recorded outputs in their place, {_words(next(iter(different)))} differs); use train: "
                "active or all, or declare the modules' inputs in an adapter (worker/models/base.py)"
            )
        readers = {module: self._readers(module) for module in self._modules}
        makers = {
            output: {module for module, tensors in readers.items() if any(output in seen for seen in tensors.values())}
            for output in self._tensors
            if isinstance(output, tuple)
        }
        found.maker = _maker(makers)
        for module in self._modules:
            ours = (
                set()
                if found.maker != module
                else {output for output, modules in makers.items() if modules <= {module}}
            )
            # An adapter may name outputs of its own that are compared.
            spec = next(spec for spec in self._stand_ins.adapter.modules if spec.name == module)
            ours |= {(module, name) for name in spec.matched}
            found.spare[module] = set()
            found.outputs[module] = {output for output in ours if output != LOGITS and output[0] != TASK}
            found.inputs[module] = set().union(*(makers.get(output, set()) for output in ours)) - {module}
        for module, tensors in readers.items():
            found.read[module] = []
            for name, seen in tensors.items():
                others = {self._stand_ins.module_of(call) for call in seen if isinstance(call, str)} - {module}
                for other in others:
                    found.inputs[other].add(module)
                outputs = {output for output in seen if isinstance(output, tuple)}
                if others or (outputs and found.maker != module):
                    found.read[module].append(name)
            found.needed[module] = found.read[module]
        for module in self._modules:
            self._settle(module, found)
        # What a module left in an attribute, its stand-in does not renew. The last is proved first: it reads of others.
        with torch.random.fork_rng(devices=[]):
            self._stand_ins.disturb(self._batch)
        for module in reversed(self._modules):
            self._prove(module, found)
        return found

    def _readers(self, module: str) -> dict[str, set[Any]]:
        """Return what changes with each tensor of a module: inputs of units, by call, and outputs."""
        tensors = self._boundary[module]
        noisy = [name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel()]
        everything = self._changed_by_noise(module, noisy)
        if not self._leaves_module(module, everything) or len(noisy) <= 1:
            found = dict.fromkeys(noisy, everything)
        else:
            found = {name: self._changed_by_noise(module, [name]) for name in noisy}
        # Numbers of another kind may be indices, so they are not replaced; they are read by whatever reads the rest.
        return {name: found.get(name, everything) for name in tensors}

    def _leaves_module(self, module: str, seen: set[Any]) -> bool:
        return any(isinstance(what, tuple) or self._stand_ins.module_of(what) != module for what in seen)

    def _changed_by_noise(self, module: str, names: Collection[str]) -> set[Any]:
        if not names:
            return set()
        generator = torch.Generator().manual_seed(0)
        noise = {}
        for name in names:
            tensor = self._boundary[module][name]
            scale = float(tensor.float().square().mean().sqrt()) or 1.0
            noise[name] = (scale * torch.randn(tensor.shape, generator=generator)).to(tensor)
        return self._changed({**self._boundary, module: {**self._boundary[module], **noise}})

    def _settle(self, module: str, found: Reads) -> None:
        """Check that a pass for a module does with the tensors that it reads; if not, add those that it cannot miss.

        They change nothing in it, but the model's code between the units computes with them all the same. The teacher
        puts out those that it computes for this pass anyway; the units of others are computed on the spot.
        """
        if not self._lacks(module, found):
            return
        computed = _closure(found.inputs, module)
        missed: dict[str, list[str]] = {}
        for other in self._modules:
            for name in self._boundary[other] if other != module else ():
                rest = {key: tensor for key, tensor in self._boundary[other].items() if key != name}
                if self._needs(
                    module, self._changed({**self._boundary, other: rest}, self._last(module, found)), found
                ):
                    missed.setdefault(other, []).append(name)
        for other, names in missed.items():
            if other in computed:
                self._answer(module, other, names, found)
            else:
                found.spare[module] |= {name.partition(":")[0].partition("#")[0] for name in names}
        if self._lacks(module, found):
            found.spare[module] = set()
            for other, names in missed.items():
                self._answer(module, other, names, found)
        if self._lacks(module, found):
            for other in self._modules:
                if other != module:
                    self._answer(module, other, self._boundary[other], found)

    def _answer(self, module: str, other: str, names: Collection[str], found: Reads) -> None:
        """Let a module's pass have these tensors of another module."""
        found.inputs[module].add(other)
        found.needed[other] = [name for name in self._boundary[other] if name in found.needed[other] or name in names]

    def _lacks(self, module: str, found: Reads) -> set[Any]:
        """Return what of a module's own pass differs if only the tensors that it reads are there."""
        answers = {**self._answers(module, found), module: self._boundary[module]}
        return self._needs(module, self._changed(answers, self._last(module, found), found.spare[module]), found)

    def _answers(self, module: str, found: Reads) -> dict[str, Boundary]:
        """Return the tensors that the pass of a module has."""
        return {
            other: {name: self._boundary[other][name] for name in found.needed[other]} for other in found.inputs[module]
        }

    def _prove(self, module: str, found: Reads) -> None:
        """Compute a module among stand-ins, and compare what it puts out with the model's own forward pass."""
        current = Pass([module], self._answers(module, found), self._last(module, found), found.spare[module])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                outputs = self._outputs(self._stand_ins.play(current, self._batch) or {})
            except Exception as error:
                raise self._unlike(module, f"{type(error).__name__}: {error}") from error
        computed = current.boundary.get(module, {})
        differs = [name for name, tensor in self._boundary[module].items() if not _close(tensor, computed.get(name))]
        differs += [
            "its output" for output in found.outputs[module] if not _close(self._tensors[output][0], outputs[output][0])
        ]
        if differs:
            raise self._unlike(module, f"{differs[0]} differs")

    def _unlike(self, module: str, why: str) -> RecipeError:
        return RecipeError(
            f"train: forced: {module} of a {type(self._stand_ins.model).__name__} computes something else when the "
            f"other modules are replaced by their recorded outputs ({why}); use train: active or all, or declare the "
            "modules' inputs in an adapter (worker/models/base.py)"
        )

    def _needs(self, module: str, changed: set[Any], found: Reads) -> set[Any]:
        calls = {call for call in self._order if self._stand_ins.module_of(call) == module}
        return changed & (calls | found.outputs[module])

    def _last(self, module: str, found: Reads) -> str | None:
        if found.outputs[module]:
            return None
        return next((call for call in reversed(self._order) if self._stand_ins.module_of(call) == module), None)

    def _changed(
        self, answers: Mapping[str, Boundary], last: str | None = None, spare: Collection[str] = ()
    ) -> set[Any]:
        """Let all units answer but the spare ones, and return the calls whose inputs change and the outputs that do."""
        current = Pass((), answers, last, spare, inputs={})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                whole = self._stand_ins.play(current, self._batch)
            except Exception:
                # The code between the units cannot do with these answers: what it has not reached depends on them.
                whole = None
        assert current.inputs is not None
        seen: dict[Any, list[Tensor]] = {**current.inputs, **self._outputs(whole or {})}
        return {what for what, tensors in self._tensors.items() if not _equal(tensors, seen.get(what))}

    def _outputs(self, whole: Mapping[str, Boundary]) -> dict[Output, list[Tensor]]:
        adapter, model = self._stand_ins.adapter, self._stand_ins.model
        outputs = {(key, name): [tensor] for key, tensors in whole.items() for name, tensor in tensors.items()}
        if whole:
            logits = adapter.logits_of(model, whole)
            outputs |= {} if logits is None else {LOGITS: [logits]}
            terms = adapter.task_terms(model, self._batch, whole)
            outputs |= {(TASK, name): [term] for name, term in terms.items()}
        return outputs


def _closure(inputs: Mapping[str, set[str]], module: str) -> set[str]:
    """Return a module's direct and indirect inputs."""
    found, pending = set[str](), [module]
    while pending:
        new = inputs[pending.pop()] - found
        found |= new
        pending += new
    return found


def _maker(makers: Mapping[Output, set[str]]) -> str | None:
    """Return the only module that the logits change with; without logits, the only one that all task terms do."""
    counting = [makers[LOGITS]] if LOGITS in makers else [some for output, some in makers.items() if output[0] == TASK]
    modules = set().union(*counting)
    return modules.pop() if len(modules) == 1 and all(counting) else None


def _equal(ours: list[Tensor], theirs: list[Tensor] | None) -> bool:
    return (
        theirs is not None
        and len(ours) == len(theirs)
        and all(
            one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())
            for one, other in zip(ours, theirs, strict=True)
        )
    )


def _close(own: Tensor, computed: Tensor | None) -> bool:
    """Return whether two outputs are the same but for rounding: kernels may add in another order."""
    if computed is None or own.shape != computed.shape:
        return False
    own, computed = own.double().nan_to_num(), computed.double().nan_to_num()
    return bool((own - computed).abs().sum() <= CLOSE * own.abs().sum())


def _words(what: Any) -> str:
    return f"the input of {what}" if isinstance(what, str) else "its output"
