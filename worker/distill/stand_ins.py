"""A model's own forward pass in which some modules stand in: they are not computed, and put out recorded tensors.

A module's *units* are the outermost PyTorch modules that it owns, that own nothing of another module, and that the
forward pass calls: a tower, or the embeddings and the layers of a third. In a pass for one module its units are
computed; every other unit returns a copy of what the teacher's same unit put out. Masks, the merging of pictures and
text, logits and losses come from the model's own code. The pass ends behind the last unit that it is for.

A call of a unit is named by the unit's dotted path, with ``#2`` and so on for further calls in the same pass. A tensor
in its output is named by the call and its place in the output: ``model.vision_tower:hidden_states.3``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from worker.errors import RecipeError
from worker.models.base import Adapter, Batch, Boundary

WHOLE = ""
"""The boundary tensors of a whole pass that no module makes alone have this name in place of a module's."""
CONSTANTS = (bool, int, float, str, torch.dtype, torch.device, torch.Size)
"""The plain values that an output may hold beside tensors. Anything else, such as a key-value cache, becomes None."""


class _Stop(Exception):
    """Raised behind the last unit of a pass. Not a BaseException: torch then runs hooks with ``always_call``."""


@dataclass(frozen=True)
class _Slot:
    """The place of a tensor in an output's structure."""

    name: str


@dataclass
class Pass:
    """A forward pass, while it runs.

    Attributes:
        computed: The modules whose units are computed.
        answers: The tensors that the other modules put out, by module and name; None in place of missing ones.
        last: The call behind which the pass ends; None for a whole one.
        spare: Units of other modules that are computed all the same, without gradient.
        boundary: The tensors that computed modules have put out so far.
        inputs: The tensors that each unit was called with, by call; None to not record them.
        disturbed: Whether units are computed on other rows and values than they are called with.
        calls: The calls so far, in order.
    """

    computed: Collection[str]
    answers: Mapping[str, Boundary] = field(default_factory=dict)
    last: str | None = None
    spare: Collection[str] = ()
    boundary: dict[str, Boundary] = field(default_factory=dict)
    inputs: dict[str, list[Tensor]] | None = None
    disturbed: bool = False
    calls: list[str] = field(default_factory=list)
    _count: Counter[str] = field(default_factory=Counter)
    _open: str | None = None
    _closed: str | None = None


class StandIns:
    """The units of a model, each of which can be computed or stand in.

    Args:
        model: The bare model, before any engine wraps it.
        adapter: Its adapter, whose `run_whole` is the model's own forward pass.
        owners: The module that owns each PyTorch module that may be a unit, by dotted path. `limit` leaves those that
            are.

    Attributes:
        order: All calls of a forward pass, in order; set by `learn`.
        names: The tensors that are recorded, each with the names that it gets; None for all, under their own names.
        spare: By module, the units of other modules that its pass computes although nothing reads what they put out:
            the code around them would fail without.
        outputs: The entries of `run_whole` that a module's pass returns, by module; a pass with such entries is a whole
            one. An entry is a pair of keys.
    """

    def __init__(self, model: nn.Module, adapter: Adapter, owners: Mapping[str, str]) -> None:
        self.model, self.adapter = model, adapter
        self.order: list[str] = []
        self.names: Mapping[str, Sequence[str]] | None = None
        self.spare: dict[str, set[str]] = {}
        self.outputs: dict[str, set[tuple[str, str]]] = {}
        self._owners = dict(owners)
        self._structures: dict[str, tuple[list[Any], pytree.TreeSpec]] = {}
        self._units = {name: model.get_submodule(name) for name in owners}
        self._forwards: dict[str, Any] = {}
        self._hooks: dict[str, Any] = {}
        self._pass: Pass | None = None
        # The modules that a pass has computed and the others' answers, while its layers are recomputed in the backward.
        self._recompute: tuple[Collection[str], Mapping[str, Boundary]] | None = None
        for name, unit in self._units.items():
            self._forwards[name] = unit.__dict__.get("forward")
            unit.forward = self._wrapped(name, unit.forward)
        self.renew_hooks()

    def renew_hooks(self) -> None:
        """Register the hooks again, behind those that an engine has registered since."""
        for hook in self._hooks.values():
            hook.remove()
        self._hooks = {name: unit.register_forward_hook(self._recorder(name)) for name, unit in self._units.items()}

    def limit(self, units: Iterable[str]) -> None:
        """Restore every PyTorch module that is not one of these units."""
        for name in self._units.keys() - set(units):
            unit, forward = self._units.pop(name), self._forwards.pop(name)
            self._hooks.pop(name).remove()
            del unit.forward
            if forward is not None:
                unit.forward = forward

    @property
    def enclosing(self) -> list[nn.Module]:
        """The PyTorch modules around the units, which a pass that ends early leaves in the middle of their forward."""
        names = {name.rsplit(".", depth)[0] for name in self._units for depth in range(1, name.count(".") + 1)}
        return [self.model, *(self.model.get_submodule(name) for name in sorted(names))]

    def module_of(self, call: str) -> str:
        """Return the module that a call belongs to."""
        return self._owners[call.partition("#")[0]]

    def last(self, modules: Collection[str]) -> str | None:
        """Return the call behind which nothing is needed by these modules; None if the pass must be a whole one."""
        if self._is_all(modules) or any(self.outputs.get(module) for module in modules):
            return None
        return next((call for call in reversed(self.order) if self.module_of(call) in modules), None)

    def _is_all(self, modules: Collection[str]) -> bool:
        return set(self._owners.values()) <= set(modules)

    def learn(self, batch: Batch) -> tuple[Pass, dict[str, Boundary]]:
        """Compute the whole model, and learn its units, their order and the structure of their outputs."""
        while True:
            self._structures.clear()
            current = Pass(set(self._owners.values()), inputs={})
            whole = self.play(current, batch)
            # One whose forward is called directly runs no hooks: its children are the units.
            silent = {call.partition("#")[0] for call in current.calls if call not in self._structures}
            if not silent:
                break
            self.limit(self._units.keys() - silent)
        self.order = current.calls
        self.limit(call.partition("#")[0] for call in current.calls)
        assert whole is not None
        return current, whole

    def disturb(self, batch: Batch) -> None:
        """Compute the whole model on disturbed inputs, so that what its modules remember is not of these rows."""
        # Values that make no sense may fail; what was computed before is remembered all the same.
        with suppress(Exception):
            self.play(Pass(set(self._owners.values()), disturbed=True), batch)

    def play(self, current: Pass, batch: Batch) -> dict[str, Boundary] | None:
        """Run a pass and return what the model's forward pass returns; None if the pass ended before."""
        self._pass = current
        try:
            return self.adapter.run_whole(self.model, batch)
        except _Stop:
            return None
        finally:
            self._pass = None

    def run(self, modules: Sequence[str], batch: Batch, answers: Mapping[str, Boundary]) -> dict[str, Boundary]:
        """Run modules in one pass and return their boundary tensors.

        Args:
            modules: The modules to compute; each reads the others' own tensors.
            batch: The model's inputs.
            answers: The boundary tensors of other modules. One without any is read by none of these: it answers None.
        """
        spare = set[str]().union(*(self.spare.get(module, ()) for module in modules))
        current = Pass(modules, answers, self.last(modules), spare)
        try:
            whole = self.play(current, batch)
        except Exception:
            self._check_calls(current, current.calls[-1] if current.calls else None)
            raise
        self._check_calls(current, current.last)
        boundary: dict[str, Boundary] = {module: {} for module in modules} | current.boundary
        if whole is not None:
            everything = {(key, name): tensor for key, tensors in whole.items() for name, tensor in tensors.items()}
            for module in modules:
                entries = everything.keys() & self.outputs.get(module, set())
                boundary[module] |= {encoded(*entry): everything[entry] for entry in sorted(entries)}
            if self._is_all(modules):
                boundary[WHOLE] = {encoded(*entry): tensor for entry, tensor in everything.items()}
        return boundary

    def _check_calls(self, current: Pass, last: str | None) -> None:
        """Raise RecipeError if a pass has left out a call whose output it would have passed on, or ended with.

        Args:
            current: The pass.
            last: The call up to which to check; None for all.
        """
        end = self.order.index(last) + 1 if last in self.order else len(self.order)
        for call in self.order[:end]:
            if call not in current.calls and (call == current.last or self.module_of(call) not in current.computed):
                raise RecipeError(
                    f"train: forced: the forward pass has left out {call}, which it called on the first rows of the "
                    "data; modules that are left out at random or on some rows cannot be trained alone: switch that "
                    "off in the model (layerdrop: 0), or use train: active or all"
                )

    @contextmanager
    def recomputing(
        self, modules: Collection[str], answers: Mapping[str, Boundary], *, several: bool
    ) -> Iterator[None]:
        """Make a pass whose backward pass may compute layers again, by activation checkpointing.

        Args:
            modules: The modules that the pass computes.
            answers: The boundary tensors of other modules.
            several: Whether other passes belong to the same step.
        """
        this = modules, answers
        if not torch.is_grad_enabled():
            yield
        elif not several:
            yield
            self._recompute = this
        else:
            # Checkpointing unpacks a region's inputs right before it runs the region again: this tells whose it is.

            def unpack(tensor: Tensor) -> Tensor:
                self._recompute = this
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
                yield

    def _wrapped(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Return the forward of a unit that may stand in."""

        # Models look at the signature of their modules' forward.
        @functools.wraps(forward)
        def stand_in(*args: Any, **kwargs: Any) -> Any:
            current = self._pass
            if current is None:
                return self._recomputed(name, forward, args, kwargs)
            if current._open is not None:
                return forward(*args, **kwargs)
            current._count[name] += 1
            call = name if current._count[name] == 1 else f"{name}#{current._count[name]}"
            current.calls.append(call)
            if current.inputs is not None:
                tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
                current.inputs[call] = [tensor.detach().clone() for tensor in tensors]
            is_computed = self._owners[name] in current.computed
            if not is_computed and name not in current.spare:
                return self._answer(call, current.answers)
            if current.disturbed:
                args, kwargs = pytree.tree_map(_disturbed, (args, kwargs))
            current._open = call
            try:
                with nullcontext() if is_computed else torch.no_grad():
                    return forward(*args, **kwargs)
            finally:
                current._open, current._closed = None, call

        return stand_in

    def _recorder(self, name: str) -> Callable[..., None]:
        """Return the hook of a unit: it records what the unit has put out, and ends the pass."""

        def record(_unit: nn.Module, _args: Any, output: Any) -> None:
            current = self._pass
            if current is None or current._closed is None or current._closed.partition("#")[0] != name:
                return
            call, current._closed = current._closed, None
            if self._owners[name] not in current.computed:
                return
            boundary = current.boundary.setdefault(self._owners[name], {})
            if self.names is None:
                self._structures[call] = _structure(call, output)
            for path, leaf in _leaves(output):
                own_name = f"{call}:{path}" if path else call
                names = [own_name] if self.names is None else self.names.get(own_name, ())
                if names:
                    # The code behind it may write into it.
                    boundary |= dict.fromkeys(names, leaf.clone())
            if call == current.last:
                raise _Stop

        return record

    def _answer(self, call: str, answers: Mapping[str, Boundary]) -> Any:
        """Return a copy of what a unit is said to put out."""
        if call not in self._structures:
            raise RecipeError(
                f"train: forced: {call.partition('#')[0]} is called more often than on the first rows of the data; use "
                "train: active or all"
            )
        tensors = answers.get(self.module_of(call), {})

        def fill(leaf: Any) -> Any:
            if not isinstance(leaf, _Slot):
                return leaf
            names = (leaf.name,) if self.names is None else self.names.get(leaf.name, ())
            tensor = tensors.get(names[0]) if names else None
            # A copy: models write into what they get, and the same answer serves several passes.
            return None if tensor is None else tensor.clone()

        leaves, structure = self._structures[call]
        return pytree.tree_unflatten([fill(leaf) for leaf in leaves], structure)

    def _recomputed(self, name: str, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call a unit outside of a pass; within the backward pass it does what it did in the last step."""
        in_backward = torch._C._current_graph_task_id() >= 0
        if not in_backward or self._recompute is None or self._owners[name] in self._recompute[0]:
            return forward(*args, **kwargs)
        return self._answer(name, self._recompute[1])


def _disturbed(leaf: Any) -> Any:
    """Return a tensor with its rows in another order and, if it has numbers, other ones."""
    if not isinstance(leaf, Tensor) or not leaf.ndim:
        return leaf
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(leaf.shape, generator=generator).to(leaf) if leaf.is_floating_point() else 0
    return leaf.flip(0) if leaf.dtype == torch.bool else leaf.flip(0) + noise


def encoded(key: str, name: str) -> str:
    """Return the name that an entry of `Adapter.run_whole` has among boundary tensors; `decoded` is the inverse."""
    return f"{key}>{name}"


def decoded(boundary: Mapping[str, Boundary]) -> dict[str, Boundary]:
    """Return the entries of `Adapter.run_whole` among boundary tensors."""
    whole: dict[str, Boundary] = {}
    for tensors in boundary.values():
        for encoded_name, tensor in tensors.items():
            key, is_entry, name = encoded_name.partition(">")
            if is_entry:
                whole.setdefault(key, {})[name] = tensor
    return whole


def _leaves(output: Any) -> list[tuple[str, Tensor]]:
    """Return the tensors of an output with their places in it."""
    _register(output)
    leaves, _ = pytree.tree_flatten_with_path(output)
    return [(_place(path), leaf) for path, leaf in leaves if isinstance(leaf, Tensor)]


def _structure(call: str, output: Any) -> tuple[list[Any], pytree.TreeSpec]:
    """Return the leaves of an output, with slots in place of its tensors, and its structure."""
    _register(output)

    def slot(path: Any, leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return _Slot(f"{call}:{_place(path)}" if path else call)
        return leaf if isinstance(leaf, CONSTANTS) else None

    leaves, structure = pytree.tree_flatten_with_path(output)
    return [slot(path, leaf) for path, leaf in leaves], structure


def _place(path: Any) -> str:
    return ".".join(str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path)


def _register(output: Any) -> None:
    """Let pytree look into dataclasses."""
    for leaf in pytree.tree_leaves(output):
        if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            pytree.register_dataclass(type(leaf))
            _register(leaf)
