"""The adapter of a model whose modules stand in for each other: it declares the inputs that were found."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from worker.distill.stand_ins import decoded, encoded
from worker.models.base import Adapter, Batch, Boundary, ModuleSpec


class FoundAdapter(Adapter):
    """The adapter of a model that `ModularModel.stand_ins` runs.

    Args:
        inner: The model's own adapter, which runs the whole model and does not declare inputs.
        modules: Its modules with the inputs that were found, and with the tensors to compare in ``matched``.
        maker: The module that makes logits and losses alone, if there is one.
    """

    def __init__(self, inner: Adapter, modules: tuple[ModuleSpec, ...], maker: str | None) -> None:
        self._inner = inner
        self.modules = modules
        self.logits = None if maker is None else (maker, encoded(*(inner.logits or (maker, ""))))
        self.task_weights = inner.task_weights

    def mask(self, module: str, name: str, batch: Batch) -> Tensor | None:
        """Return which positions of a tensor count."""
        key, is_entry, entry = name.partition(">")
        return self._inner.mask(key, entry, batch) if is_entry else self._inner.mask(module, "hidden", batch)

    def mask_for(self, module: str, name: str, batch: Batch, tensor: Tensor) -> Tensor | None:
        """Return the mask of a tensor; one that was found has that of the hidden states, if it has their positions."""
        key, is_entry, entry = name.partition(">")
        if is_entry:
            return self._inner.mask_for(key, entry, batch, tensor)
        mask = self._inner.mask_for(module, "hidden", batch, tensor)
        return mask if name == "hidden" or mask is None or mask.shape == tensor.shape[:-1] else None

    def task_terms(self, model: nn.Module, batch: Batch, boundary: Mapping[str, Boundary]) -> dict[str, Tensor]:
        """Compute the task losses that need no other boundary tensors than these."""
        return self._inner.task_terms(model, batch, decoded(boundary))

    def logits_of(self, model: nn.Module, boundary: Mapping[str, Boundary]) -> Tensor | None:
        """Return the logits, or None if these boundary tensors are not enough to compute them."""
        return self._inner.logits_of(model, decoded(boundary))

    def embeddings_of(self, model: nn.Module, boundary: Mapping[str, Boundary]) -> Boundary | None:
        """Return the embeddings of two towers whose similarities are the logits."""
        return self._inner.embeddings_of(model, decoded(boundary))

    def logits_mask(self, batch: Batch) -> Tensor | None:
        """Return which positions of the logits count."""
        return self._inner.logits_mask(batch)

    def logits_mask_for(self, batch: Batch, logits: Tensor) -> Tensor | None:
        """Return the mask of these logits."""
        return self._inner.logits_mask_for(batch, logits)

    def checkpoint_activations(self, model: nn.Module) -> None:
        """Make the model recompute its layers in the backward pass."""
        self._inner.checkpoint_activations(model)
