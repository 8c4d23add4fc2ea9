"""The frozen teacher: runs the parts a plan needs, without gradient."""

import torch

from worker.models.base import Batch
from worker.parted import Outputs, Parted


class Teacher:
    """A model that only answers. Never a child of the student, so no optimizer or checkpoint ever sees it.

    Args:
        parted: The teacher, taken apart; moved to the device and frozen here.
        device: Where it computes.
        dtype: What it computes in.
    """

    def __init__(self, parted: Parted, device: torch.device, dtype: torch.dtype) -> None:
        self.parted = parted
        parted.model.to(device, dtype).eval().requires_grad_(False)

    # no_grad, not inference_mode: tensors made under the latter cannot be a student's inputs or targets.
    @torch.no_grad()
    def run(self, parts: tuple[str, ...], batch: Batch) -> Outputs:
        """Outputs of the given parts; every part's inputs must be among them."""
        return self.parted.run(parts, batch)

    @property
    def parts(self) -> tuple[str, ...]:
        """All parts, in order."""
        return tuple(part.name for part in self.parted.adapter.parts)
