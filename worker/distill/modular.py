"""A model taken apart: runs some of its parts and keeps what they put out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from worker.capture import Capture
from worker.distill.arms import check_owned, matching_modules
from worker.models.base import Adapter, Batch, Boundary, patterns


@dataclass(frozen=True)
class Outputs:
    """What a forward pass put out.

    Attributes:
        boundary: Boundary tensors by part.
        hidden: Hidden states by the name of their layer's module.
        logits: The logits, if what was run allows to have them.
    """

    boundary: dict[str, Boundary]
    hidden: dict[str, Tensor]
    logits: Tensor | None = None


class Parted:
    """A model, its adapter, and hooks on its layers.

    Args:
        model: The bare model, before any engine wraps it.
        adapter: How it is taken apart.
        layers: A glob for a part's layers, where it differs from the adapter's.

    Raises:
        RecipeError: A path or glob matches no module.
    """

    def __init__(self, model: nn.Module, adapter: Adapter, layers: Mapping[str, str]) -> None:
        self.model = model
        self.adapter = adapter
        for part in adapter.parts:
            check_owned(model, part.path)
        self.layers = {
            part.name: [
                name for glob in patterns(layers.get(part.name, part.layers)) for name in matching_modules(model, glob)
            ]
            for part in adapter.parts
        }
        self._capture = Capture(model, [name for names in self.layers.values() for name in names])

    def keep(self, layers: Iterable[str]) -> None:
        """From now on keep the hidden states of these layers only."""
        self._capture.only(layers)

    def run(
        self,
        parts: Sequence[str],
        batch: Batch,
        given: Mapping[str, Boundary] | None = None,
        known: Mapping[str, Boundary] | None = None,
    ) -> Outputs:
        """Run parts in order.

        Args:
            parts: Their names; each after its inputs. Where the adapter declares no inputs the whole model is run.
            batch: The model's inputs.
            given: Boundary tensors that every part reads instead of those just computed (teacher forcing).
            known: This model's own, of parts that need not be run again.
        """
        boundary: dict[str, Boundary] = dict(known or {})
        with self._capture.recording() as hidden:
            if not self.adapter.declared:
                boundary = self.adapter.run_whole(self.model, batch) if parts else {}
            else:
                for part in parts:
                    inputs = boundary if given is None else given
                    boundary[part] = self.adapter.run(self.model, part, batch, inputs)
        return Outputs(boundary, dict(hidden), self.adapter.logits_of(self.model, boundary))
