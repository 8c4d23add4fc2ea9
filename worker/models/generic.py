"""Any PyTorch module as a model, and modules that are defined in a recipe.

The protocol: ``forward`` is called with the entries of the batch that its signature names, or with the whole batch if
its only parameter is called ``batch``. It returns

- a tensor: the logits, [B, classes] or [B, positions, classes]; or
- a mapping, or an object with such attributes (as the models of transformers return), of which these are read:
  ``logits``; ``loss``, a scalar; ``losses``, a mapping of scalars by name. What is missing has no term. Other tensors
  of it, such as ``last_hidden_state`` and ``pooler_output``, can be compared by their names (``matched`` of a module in
  the recipe).

Hidden states are captured by hooks, so the model needs no change for them: an encoder without logits and losses is
distilled by its layers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from worker.errors import RecipeError
from worker.models.base import Adapter, Batch, Boundary, ModuleSpec, OwnForward
from worker.names import suggest

MODEL = "model"
"""The boundary tensors of the whole model have this name in place of a module's."""
_LOSS = "loss/"


class GenericAdapter(Adapter):
    """The adapter of any PyTorch module; it has no modules until a recipe defines them.

    Args:
        reason: Why a model of a known family has no other adapter; "" for all other models.

    Attributes:
        reason: The same.
    """

    logits = (MODEL, "logits")

    def __init__(self, reason: str = "") -> None:
        self.reason = reason

    def run_whole(self, model: nn.Module, batch: Batch) -> dict[str, Boundary]:
        """Run the whole model and return the boundary tensors."""
        arguments = _bind_arguments(model, batch)
        output = model(*arguments.args, **arguments.kwargs)
        if isinstance(output, Tensor):
            return {MODEL: {"logits": output}}
        fields = _fields(output)
        boundary = named_outputs(model, fields, self.outputs)
        if isinstance(fields.get("logits"), Tensor):
            boundary["logits"] = fields["logits"]
        losses = {"loss": fields.get("loss"), **(fields.get("losses") or {})}
        boundary |= {f"{_LOSS}{name}": loss for name, loss in losses.items() if isinstance(loss, Tensor)}
        # An encoder may put out nothing but hidden states, of which layers are compared.
        if not boundary and not _has_tensor(output, fields):
            raise RecipeError(
                f"the forward pass of {type(model).__name__} returns a {type(output).__name__} without logits, loss "
                "or losses; docs/bring-your-own-model.md says what it should return"
            )
        return {MODEL: boundary}

    def task_terms(self, model: nn.Module, batch: Batch, boundary: Mapping[str, Boundary]) -> dict[str, Tensor]:
        """Compute the task losses of these boundary tensors."""
        tensors = boundary.get(MODEL, {})
        return {name.removeprefix(_LOSS): tensor for name, tensor in tensors.items() if name.startswith(_LOSS)}

    def logits_mask(self, batch: Batch) -> Tensor | None:
        """Return which positions of the logits count."""
        return None

    def checkpoint_activations(self, model: Any) -> None:
        """Make the model recompute its layers in the backward pass."""
        if not hasattr(model, "gradient_checkpointing_enable"):
            super().checkpoint_activations(model)
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def adapter_or_generic(find: Callable[[], Adapter]) -> Adapter:
    """Return the adapter of a model's family; the generic one, with the reason, if the family has none for the model.

    Then a recipe can still define the modules.

    Args:
        find: Builds the adapter. It reads a model of which no more than its family is known, so it may fail in any way.
    """
    try:
        return find()
    except Exception as error:
        kind = "" if isinstance(error, RecipeError) else f"{type(error).__name__}: "
        return GenericAdapter(kind + str(error).strip().partition("\n")[0])


@dataclass(frozen=True)
class NamedModule:
    """A module that is defined in a recipe.

    Attributes:
        module: Its declaration.
        mask: The batch's entry [B, positions] that is not 0 at the positions of its hidden states that count; None if
            all count.
    """

    module: ModuleSpec
    mask: str | None = None


class RegroupedAdapter(Adapter):
    """The adapter of a model whose modules are defined in the recipe; their inputs are not known.

    Args:
        inner: The family's own adapter, which runs the model and computes its task losses.
        modules: The modules, in order.
        logits_mask: The batch's entry [B, positions] that masks the logits; None for the family's own mask.
    """

    def __init__(self, inner: Adapter, modules: list[NamedModule], logits_mask: str | None = None) -> None:
        self._masks = {named.module.name: named.mask for named in modules}
        self._logits_mask = logits_mask
        self.modules = tuple(replace(named.module, inputs=None) for named in modules)
        self._use(inner)

    def _use(self, inner: Adapter) -> None:
        self._inner = inner
        inner.outputs = {name for module in self.modules for name in module.matched}
        self.logits = inner.logits
        self.task_weights = inner.task_weights

    def with_modules(self, modules: Sequence[ModuleSpec]) -> RegroupedAdapter:
        """Return the same adapter with other globs for its modules."""
        named = [NamedModule(module, self._masks[module.name]) for module in modules]
        return RegroupedAdapter(self._inner, named, self._logits_mask)

    def fault(self, model: nn.Module, batch: Batch) -> str:
        """Return why the family's adapter cannot run the model on such batches; "" if it can."""
        if isinstance(self._inner, GenericAdapter):
            return ""
        try:
            boundary = self.run_whole(model, batch)
            self._inner.logits_of(model, boundary)
            self._inner.logits_mask(batch)
            self._inner.task_terms(model, batch, boundary)
        except Exception as error:
            return str(error).strip().partition("\n")[0] or type(error).__name__
        return ""

    def run_as_any_module(self) -> None:
        """Call the model with the entries of a batch that its forward pass names, as one of no known family."""
        self._use(GenericAdapter())

    def run_whole(self, model: nn.Module, batch: Batch) -> dict[str, Boundary]:
        """Run the whole model and return the boundary tensors, those that a module matches under its name too."""
        boundary = self._inner.run_whole(model, batch)
        outputs = {name: tensor for tensors in boundary.values() for name, tensor in tensors.items()}
        for module in self.modules:
            matched = named_outputs(model, outputs, module.matched)
            boundary[module.name] = {**boundary.get(module.name, {}), **matched}
        return boundary

    def mask(self, module: str, name: str, batch: Batch) -> Tensor | None:
        """Return which positions of a tensor count."""
        entry = self._masks.get(module)
        return None if entry is None else _entry(batch, entry).bool()

    def task_terms(self, model: nn.Module, batch: Batch, boundary: Mapping[str, Boundary]) -> dict[str, Tensor]:
        """Compute the task losses of these boundary tensors."""
        return self._inner.task_terms(model, batch, boundary)

    def logits_of(self, model: nn.Module, boundary: Mapping[str, Boundary]) -> Tensor | None:
        """Return the logits, if these boundary tensors are enough."""
        return self._inner.logits_of(model, boundary)

    def embeddings_of(self, model: nn.Module, boundary: Mapping[str, Boundary]) -> Boundary | None:
        """Return the embeddings of two towers whose similarities are the logits."""
        return self._inner.embeddings_of(model, boundary)

    def own_forward(self, model: nn.Module, batch: Batch) -> OwnForward | None:
        """Run the model by its own forward pass."""
        return self._inner.own_forward(model, batch)

    def logits_mask(self, batch: Batch) -> Tensor | None:
        """Return which positions of the logits count."""
        if self._logits_mask is None:
            return self._inner.logits_mask(batch)
        return _entry(batch, self._logits_mask).bool()

    def logits_mask_for(self, batch: Batch, logits: Tensor) -> Tensor | None:
        """Return the mask of these logits."""
        if self._logits_mask is None:
            return self._inner.logits_mask_for(batch, logits)
        mask = self.logits_mask(batch)
        # A mask of tokens, for logits that predict the next token: the first token is not predicted.
        return mask[:, 1:] if mask is not None and mask.shape[1:] == (logits.shape[1] + 1,) else mask

    def checkpoint_activations(self, model: nn.Module) -> None:
        """Make the model recompute its layers in the backward pass."""
        self._inner.checkpoint_activations(model)


def _has_tensor(output: Any, fields: Mapping[str, Any]) -> bool:
    """Return whether a model's output has tensors, by name or in a tuple."""
    values = output if isinstance(output, tuple | list) else fields.values()
    return any(isinstance(value, Tensor) and value.ndim > 1 for value in values)


def _fields(output: Any) -> dict[str, Any]:
    """Return the values of a mapping or an object by name."""
    if isinstance(output, Mapping):
        return dict(output)
    # An object may compute them: as properties.
    read = {name: getattr(output, name, None) for name in ("logits", "loss", "losses")}
    return {**(output._asdict() if hasattr(output, "_asdict") else getattr(output, "__dict__", {})), **read}


def named_outputs(model: nn.Module, output: Mapping[str, Any], names: Collection[str]) -> Boundary:
    """Return the tensors that have these names in what a forward pass returns.

    Raises:
        RecipeError: It has none of that name; the message has those it has.
    """
    tensors = {name: value for name, value in output.items() if isinstance(value, Tensor) and value.is_floating_point()}
    for name in names:
        if name not in tensors:
            raise RecipeError(
                f"`matched` of a module names {name!r}, which the forward pass of {type(model).__name__} does not "
                f"return{suggest(name, tensors, 'tensors that it returns')}"
            )
    return {name: tensors[name] for name in names}


def _entry(batch: Batch, name: str) -> Tensor:
    if name not in batch:
        raise RecipeError(
            f"the recipe names the mask {name!r}, which the data's batches do not have; they have {', '.join(batch)}"
        )
    return batch[name]


def _bind_arguments(model: nn.Module, batch: Batch) -> inspect.BoundArguments:
    """Bind the entries of a batch to the parameters of the forward pass."""
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
            f"the forward pass of {type(model).__name__} takes {', '.join(signature.parameters)}, but the data's "
            f"batches have {', '.join(batch)}: {error}"
        ) from None
