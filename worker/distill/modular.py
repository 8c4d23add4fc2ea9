"""A model taken apart: runs some of its modules and keeps what they put out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from worker.models.base import Adapter, Batch, Boundary, patterns
from worker.models.paths import check_owned, matching_modules


@dataclass(frozen=True)
class Outputs:
    """What a forward pass put out.

    Attributes:
        boundary: Boundary tensors by module.
        hidden: Hidden states by the name of their layer's module.
        logits: The logits, if what was run allows to have them.
    """

    boundary: dict[str, Boundary]
    hidden: dict[str, Tensor]
    logits: Tensor | None = None


class ModularModel:
    """A model, its adapter, and hooks on its layers.

    Args:
        model: The bare model, before any engine wraps it.
        adapter: How it is taken apart.
        layers: A glob for a module's layers, where it differs from the adapter's.

    Raises:
        RecipeError: A path or glob matches no module.
    """

    def __init__(self, model: nn.Module, adapter: Adapter, layers: Mapping[str, str]) -> None:
        self.model = model
        self.adapter = adapter
        for module in adapter.modules:
            check_owned(model, module.path)
        self.layers = {
            module.name: [
                name
                for glob in patterns(layers.get(module.name, module.layers))
                for name in matching_modules(model, glob)
            ]
            for module in adapter.modules
        }
        self._capture = Capture(model, [name for names in self.layers.values() for name in names])

    def keep(self, layers: Iterable[str]) -> None:
        """From now on keep the hidden states of these layers only."""
        self._capture.only(layers)

    def run(
        self,
        modules: Sequence[str],
        batch: Batch,
        given: Mapping[str, Boundary] | None = None,
        known: Mapping[str, Boundary] | None = None,
    ) -> Outputs:
        """Run modules in order.

        Args:
            modules: Their names; each after its inputs. Where the adapter declares no inputs the whole model is run.
            batch: The model's inputs.
            given: Boundary tensors that every module reads instead of those just computed (teacher forcing).
            known: This model's own, of modules that need not be run again.
        """
        boundary: dict[str, Boundary] = dict(known or {})
        with self._capture.recording() as hidden:
            if not self.adapter.declared:
                boundary = self.adapter.run_whole(self.model, batch) if modules else {}
            else:
                for module in modules:
                    inputs = boundary if given is None else given
                    boundary[module] = self.adapter.run(self.model, module, batch, inputs)
        return Outputs(boundary, dict(hidden), self.adapter.logits_of(self.model, boundary))


class Capture:
    """Records what named modules put out during one forward pass.

    Register it on the bare model, before any engine wraps it, so that names never carry a wrapper's prefix.
    Outside of :meth:`recording` the hooks do nothing; that also keeps out the second forward of activation
    checkpointing, which runs during the backward pass.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self._record: dict[str, Tensor] | None = None
        self._hooks = {name: model.get_submodule(name).register_forward_hook(self._hook(name)) for name in names}

    def only(self, names: Iterable[str]) -> None:
        """Let go of the others: what is recorded is kept in memory until the step is over."""
        for name in self._hooks.keys() - set(names):
            self._hooks.pop(name).remove()

    def _hook(self, name: str) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if self._record is not None:
                self._record[name] = _first(output)

        return keep

    @contextmanager
    def recording(self) -> Iterator[dict[str, Tensor]]:
        """Collect hidden states by module name until the block ends. Not reentrant."""
        record: dict[str, Tensor] = {}
        self._record = record
        try:
            yield record
        finally:
            self._record = None


def _first(output: Any) -> Any:
    """The hidden state in what a module put out, which may be a tuple, or a mapping as transformers' models make it."""
    if isinstance(output, Mapping):
        output = tuple(output.values())
    return output[0] if isinstance(output, tuple) else output
