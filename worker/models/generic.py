"""Models of which nothing is known but how they are called, and modules as a recipe names them.

The protocol: ``forward`` is called with the entries of the batch that its signature names, or with the whole batch if
its only parameter is called ``batch``. It puts out

- a tensor: the logits, [B, classes] or [B, positions, classes]; or
- a mapping, or an object with such attributes (as transformers' models put out), of which these are read: ``logits``;
  ``loss``, a scalar; ``losses``, a mapping of scalars by name. What is missing has no term.

Hidden states are seen by hooks, so nothing of the model needs to be changed for them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from worker.errors import RecipeError
from worker.models.base import Adapter, Batch, Boundary, ModuleSpec

MODEL = "model"
"""Under this name stands what a whole model puts out."""
_LOSS = "loss/"


class GenericAdapter(Adapter):
    """For any module; it has no modules until a recipe names them."""

    logits = (MODEL, "logits")

    def run_whole(self, model: nn.Module, batch: Batch) -> dict[str, Boundary]:
        given = _arguments(model, batch)
        output = model(*given.args, **given.kwargs)
        if isinstance(output, Tensor):
            return {MODEL: {"logits": output}}
        held: Any = {name: _held(output, name) for name in ("logits", "loss", "losses")}
        boundary: Boundary = {}
        if isinstance(held["logits"], Tensor):
            boundary["logits"] = held["logits"]
        losses = {"loss": held["loss"], **(held["losses"] or {})}
        boundary |= {f"{_LOSS}{name}": loss for name, loss in losses.items() if isinstance(loss, Tensor)}
        if not boundary:
            raise RecipeError(
                f"the forward pass of {type(model).__name__} puts out a {type(output).__name__} without logits, loss "
                "or losses: see docs/bring-your-own-model.md"
            )
        return {MODEL: boundary}

    def task_terms(self, model: nn.Module, batch: Batch, boundary: Mapping[str, Boundary]) -> dict[str, Tensor]:
        tensors = boundary.get(MODEL, {})
        return {name.removeprefix(_LOSS): tensor for name, tensor in tensors.items() if name.startswith(_LOSS)}

    def logits_mask(self, batch: Batch) -> Tensor | None:
        return None

    def checkpoint_activations(self, model: Any) -> None:
        if not hasattr(model, "gradient_checkpointing_enable"):
            super().checkpoint_activations(model)
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


@dataclass(frozen=True)
class NamedModule:
    """A module as a recipe names it.

    Attributes:
        module: Where it is in the model.
        mask: The batch's entry [B, positions] that says, where it is not 0, which positions of its hidden states count;
            None for all.
    """

    module: ModuleSpec
    mask: str | None = None


class RegroupedAdapter(Adapter):
    """A model taken apart as a recipe says instead of as its family would: what feeds what is no longer known.

    Args:
        inner: The family's own adapter, which runs the model and knows its task.
        modules: The modules, in order.
        logits_mask: The batch's entry [B, positions] for the logits; None for what the family says.
    """

    def __init__(self, inner: Adapter, modules: list[NamedModule], logits_mask: str | None = None) -> None:
        self._inner = inner
        self._masks = {named.module.name: named.mask for named in modules}
        self._logits_mask = logits_mask
        self.modules = tuple(replace(named.module, inputs=None) for named in modules)
        self.logits = inner.logits
        self.task_weights = inner.task_weights

    def run_whole(self, model: nn.Module, batch: Batch) -> dict[str, Boundary]:
        return {**{module.name: {} for module in self.modules}, **self._inner.run_whole(model, batch)}

    def mask(self, module: str, name: str, batch: Batch) -> Tensor | None:
        entry = self._masks.get(module)
        return None if entry is None else _entry(batch, entry).bool()

    def task_terms(self, model: nn.Module, batch: Batch, boundary: Mapping[str, Boundary]) -> dict[str, Tensor]:
        return self._inner.task_terms(model, batch, boundary)

    def logits_of(self, model: nn.Module, boundary: Mapping[str, Boundary]) -> Tensor | None:
        return self._inner.logits_of(model, boundary)

    def logits_mask(self, batch: Batch) -> Tensor | None:
        if self._logits_mask is None:
            return self._inner.logits_mask(batch)
        return _entry(batch, self._logits_mask).bool()

    def checkpoint_activations(self, model: nn.Module) -> None:
        self._inner.checkpoint_activations(model)


def _held(output: Any, name: str) -> Any:
    """What a mapping or an object has under a name; None if it has nothing."""
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)


def _entry(batch: Batch, name: str) -> Tensor:
    if name not in batch:
        raise RecipeError(
            f"a mask is called {name!r}, which the data's batches do not have; they have {', '.join(batch)}"
        )
    return batch[name]


def _arguments(model: nn.Module, batch: Batch) -> inspect.BoundArguments:
    """What of a batch the forward pass takes."""
    signature = inspect.signature(model.forward)
    if list(signature.parameters) == ["batch"]:
        return signature.bind(batch=batch)
    named = {
        name: batch[name]
        for name, parameter in signature.parameters.items()
        if name in batch and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    try:
        return signature.bind(**named)
    except TypeError as error:
        raise RecipeError(
            f"the forward pass of {type(model).__name__} takes {', '.join(signature.parameters)}, and the data's "
            f"batches have {', '.join(batch)}: {error}"
        ) from None
