"""A model that runs some of its modules and records their outputs."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from worker.data.base import entries_for
from worker.distill.stand_ins import StandIns
from worker.errors import RecipeError
from worker.models.base import Adapter, Batch, Boundary
from worker.models.paths import check_owned, layer_names


@dataclass(frozen=True)
class Outputs:
    """The outputs of a forward pass.

    Attributes:
        boundary: Boundary tensors by module.
        hidden: Hidden states by the name of their layer.
        logits: The logits, or None if the modules that were run do not compute them.
        embeddings: The embeddings of two towers whose similarities are the logits, see `Adapter.embeddings_of`.
    """

    boundary: dict[str, Boundary]
    hidden: dict[str, Tensor]
    logits: Tensor | None = None
    embeddings: Boundary | None = None


class ModularModel:
    """A model with its adapter and hooks on its layers.

    Args:
        model: The bare model, before any engine wraps it.
        adapter: Its adapter.
        layers: Globs of a module's layers that replace the adapter's.
        teacher: Whether it is the teacher, which reads entries of the batch that are made for it.

    Attributes:
        layers: Names of the layers by module, in order.
        stand_ins: The model's units, if its adapter does not say how to run one module alone and ``forced`` needs it.

    Raises:
        RecipeError: A path or glob matches nothing.
    """

    stand_ins: StandIns | None = None

    def __init__(self, model: nn.Module, adapter: Adapter, layers: Mapping[str, str], *, teacher: bool = False) -> None:
        self.model = model
        self.adapter = adapter
        self._teacher = teacher
        for module in adapter.modules:
            check_owned(model, module.path)
        self.layers = layer_names(model, adapter, layers)
        self._capture = Capture(model, [name for names in self.layers.values() for name in names])

    @property
    def calls(self) -> Mapping[str, int]:
        """How often each layer was called in the last run, by name."""
        return self._capture.calls

    def entries(self, batch: Batch) -> Batch:
        """Return the entries of a batch that this model reads, by their plain names."""
        return entries_for(batch, teacher=self._teacher)

    def filter_layers(self, layers: Iterable[str]) -> None:
        """Record the hidden states of these layers only, from now on."""
        self._capture.filter(layers)

    def run(
        self,
        modules: Sequence[str],
        batch: Batch,
        inputs: Mapping[str, Boundary] | None = None,
        known: Mapping[str, Boundary] | None = None,
    ) -> Outputs:
        """Run modules in order.

        Args:
            modules: Names of the modules, each after its inputs. If the adapter does not declare inputs, the whole
                model is run.
            batch: The model's inputs.
            inputs: The teacher's boundary tensors, which every module reads instead of the model's own (``forced``).
            known: The model's own boundary tensors of modules that need not be run again.
        """
        outputs = self._run(modules, batch, inputs, known)
        # Once: from then on, what is written into later is copied.
        return self._run(modules, batch, inputs, known) if self._capture.written else outputs

    def _run(
        self,
        modules: Sequence[str],
        batch: Batch,
        inputs: Mapping[str, Boundary] | None,
        known: Mapping[str, Boundary] | None,
    ) -> Outputs:
        batch = self.entries(batch)
        if self.stand_ins is not None:
            return self._run_forward(self.stand_ins, modules, batch, inputs, known or {})
        boundary: dict[str, Boundary] = dict(known or {})
        with self._capture.recording() as hidden:
            if not self.adapter.declared:
                boundary = self.adapter.run_whole(self.model, batch) if modules else {}
            else:
                for module in modules:
                    boundary[module] = self.adapter.run(
                        self.model, module, batch, boundary if inputs is None else inputs
                    )
        return self._outputs(boundary, dict(hidden))

    def _run_forward(
        self,
        stand_ins: StandIns,
        modules: Sequence[str],
        batch: Batch,
        inputs: Mapping[str, Boundary] | None,
        known: Mapping[str, Boundary],
    ) -> Outputs:
        """Run modules by the model's own forward pass, in which the others stand in."""
        # Teacher-forced modules have a pass each: two of them may read each other.
        passes = [modules] if inputs is None else [[module] for module in modules]
        answers = known if inputs is None else inputs
        boundary = dict(known)
        hidden: dict[str, Tensor] = {}
        for computed in passes if modules else []:
            recomputing = stand_ins.recomputing(computed, answers, several=len(passes) > 1)
            # A layer that stands in puts out what need not be a hidden state.
            layers = {layer for module in computed for layer in self.layers[module]}
            with self._capture.recording(layers) as recorded, recomputing:
                boundary |= stand_ins.run(computed, batch, answers)
            hidden |= recorded
        return self._outputs(boundary, hidden)

    def _outputs(self, boundary: dict[str, Boundary], hidden: dict[str, Tensor]) -> Outputs:
        logits = self.adapter.logits_of(self.model, boundary)
        return Outputs(boundary, hidden, logits, self.adapter.embeddings_of(self.model, boundary))

    def renew_hooks(self) -> None:
        """Register all hooks again, behind those of an engine, which may change what a PyTorch module puts out."""
        self._capture.renew()
        if self.stand_ins is not None:
            self.stand_ins.renew_hooks()

    @property
    def enclosing(self) -> list[nn.Module]:
        """The PyTorch modules that a forward pass may leave before it has come to their end."""
        return [] if self.stand_ins is None else self.stand_ins.enclosing


class Capture:
    """Hooks that record the outputs of named PyTorch modules during one forward pass.

    Make it of the bare model, before any engine wraps it, so that names have no wrapper's prefix. Outside of
    :meth:`recording` the hooks do nothing; this also ignores the second forward pass of activation checkpointing,
    which runs during the backward pass. Of a module that is called several times, the last output is recorded.

    Attributes:
        calls: How often each module was called in the last :meth:`recording`, by name.
        written: Whether the model has written into an output that was recorded in the last :meth:`recording`, as an
            activation in place does. A copy of such an output is recorded from then on.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self.calls: dict[str, int] = {}
        self._record: dict[str, Tensor] | None = None
        self._wanted: Collection[str] | None = None
        self.written = False
        self._versions: dict[str, int] = {}
        self._copied: set[str] = set()
        self._model = model
        self._hooks = {name: model.get_submodule(name).register_forward_hook(self._hook(name)) for name in names}

    def renew(self) -> None:
        """Register the hooks again, behind all others."""
        names = list(self._hooks)
        self.filter([])
        self._hooks = {name: self._model.get_submodule(name).register_forward_hook(self._hook(name)) for name in names}

    def filter(self, names: Iterable[str]) -> None:
        """Remove the hooks of all other modules: a recorded output stays in memory until the step is over."""
        for name in self._hooks.keys() - set(names):
            self._hooks.pop(name).remove()

    def _hook(self, name: str) -> Any:
        def record(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if self._record is not None and (self._wanted is None or name in self._wanted):
                state = _hidden_state(name, output)
                self._record[name] = state.clone() if name in self._copied else state
                self._versions[name] = self._record[name]._version
                self.calls[name] = self.calls.get(name, 0) + 1

        return record

    @contextmanager
    def recording(self, layers: Collection[str] | None = None) -> Iterator[dict[str, Tensor]]:
        """Record hidden states by layer name until the block ends. Not reentrant.

        Args:
            layers: The layers to record; by default all.
        """
        record: dict[str, Tensor] = {}
        self._record, self._wanted, self.calls = record, layers, {}
        try:
            yield record
        finally:
            self._record = None
            written = {name for name, state in record.items() if state._version != self._versions[name]}
            self._copied |= written
            self.written = bool(written)


def _hidden_state(name: str, output: Any) -> Tensor:
    """Return the hidden state in a module's output. Raises RecipeError if there is none that can be compared."""
    state = _first_tensor(output)
    if state is None or not state.is_floating_point():
        scalar = isinstance(output, Tensor)
        nothing = "a tensor without dimensions" if scalar else f"a {type(output).__name__} without a tensor"
        kind = nothing if state is None else f"of the type {state.dtype}"
        raise RecipeError(
            f"the output of {name} is {kind}, so it cannot be compared with the teacher's; name PyTorch modules that "
            "put out floating-point tensors under `layers`"
        )
    return state


def _first_tensor(output: Any) -> Tensor | None:
    """Return the first tensor [B, …] in an output: a tensor, or any nesting of sequences, mappings and dataclasses.

    In the outputs of transformers ``last_hidden_state`` comes first; scalars, such as a loss, are left out.
    """
    if isinstance(output, Tensor):
        return output if output.ndim else None
    if isinstance(output, Mapping):
        entries = [output.get("last_hidden_state"), *output.values()]
    elif isinstance(output, list | tuple):
        entries = list(output)
    elif is_dataclass(output):
        entries = [getattr(output, field.name) for field in fields(output)]
    else:
        return None
    return next((state for state in map(_first_tensor, entries) if state is not None), None)
