"""Linear maps between a student and a teacher of another width.

There are two kinds. A *hidden* projection maps a student layer's output to the width of the teacher layer it is
compared with. It is learned: it belongs to the layer's module, is trained with that module's arm, and is not exported.

A *boundary* projection maps the teacher's boundary tensor to the student's width. The student's own module is compared
with the result, and under ``train: forced`` the modules after it read it. It is fixed: the principal directions of the
teacher's tensor. A learned one would belong to one arm and be read by another, so that training one would change the
other's loss; and in the joint tail, where modules read each other directly, each would have learned a different space
between them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.models.base import Boundary


@dataclass(frozen=True)
class HiddenWidths:
    """The two widths of a pair of layers that differ in width."""

    module: str
    student: int
    teacher: int


class Projections(nn.Module):
    """All projections of one student; empty, and without cost, if every width equals the teacher's.

    Args:
        hidden: Widths by the student layer's name, for the pairs that need a projection.
        boundary: The map [student width, teacher width] by (module, boundary tensor).
    """

    def __init__(self, hidden: Mapping[str, HiddenWidths], boundary: Mapping[tuple[str, str], Tensor]) -> None:
        super().__init__()
        self._module_of = {layer: widths.module for layer, widths in hidden.items()}
        self.hidden = nn.ModuleDict(
            {_key(layer): nn.Linear(widths.student, widths.teacher, bias=False) for layer, widths in hidden.items()}
        )
        self._boundary = {pair: _key(f"boundary_{'_'.join(pair)}") for pair in boundary}
        for pair, name in self._boundary.items():
            self.register_buffer(name, boundary[pair].float())

    def owned(self, module: str) -> list[str]:
        """Return the names of the projections' parameters that are trained with a module of the student."""
        return [f"hidden.{_key(layer)}.weight" for layer, owner in self._module_of.items() if owner == module]

    def lift(self, hidden: dict[str, Tensor]) -> dict[str, Tensor]:
        """Project the student's hidden states to the teacher's widths."""
        if not self._module_of:
            return hidden
        return {
            layer: self.hidden[_key(layer)](state) if layer in self._module_of else state
            for layer, state in hidden.items()
        }

    def reduce(self, boundary: dict[str, Boundary]) -> dict[str, Boundary]:
        """Project the teacher's boundary tensors to the student's widths."""
        if not self._boundary:
            return boundary
        return {
            module: {name: self._reduced(module, name, tensor) for name, tensor in tensors.items()}
            for module, tensors in boundary.items()
        }

    def _reduced(self, module: str, name: str, tensor: Tensor) -> Tensor:
        if (module, name) not in self._boundary:
            return tensor
        # These are targets: compute them in fp32 whatever the model's type, with or without autocast.
        with torch.autocast(tensor.device.type, enabled=False):
            return (tensor.float() @ self.get_buffer(self._boundary[module, name]).float().T).to(tensor.dtype)


def principal_map(tensors: Iterable[Tensor], masks: Sequence[Tensor | None], width: int) -> Tensor:
    """Compute the map to ``width`` dimensions that preserves most of the tensors' energy.

    Its rows are the leading eigenvectors of the second-moment matrix (Eckart and Young 1936); if the student is wider
    than the teacher, all eigenvectors and rows of zeros.

    Args:
        tensors: Samples [B, …, teacher width].
        masks: For each sample, which positions count: [B, …] bool, or None for all.
        width: The student's width.

    Returns:
        [width, teacher width], float64, on the CPU.
    """
    moment = torch.zeros((), dtype=torch.float64)
    for tensor, mask in zip(tensors, masks, strict=True):
        rows = (tensor.flatten(0, -2) if mask is None else tensor[mask]).double().cpu()
        moment = moment + rows.T @ rows
    vectors = torch.linalg.eigh(moment).eigenvectors.flip(1).T
    # The sign of an eigenvector is arbitrary: make its largest entry positive.
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    vectors = vectors * largest.sign()
    padding = torch.zeros(max(width - len(vectors), 0), vectors.shape[1], dtype=torch.float64)
    return torch.cat([vectors[:width], padding])


def _key(name: str) -> str:
    """Return a dotted name as one that torch accepts for an entry or a buffer."""
    return name.replace(".", "/")
