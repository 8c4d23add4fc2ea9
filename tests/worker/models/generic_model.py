"""A model without declared inputs: two towers and a head, run by one forward pass."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from worker.models.base import Adapter, Batch, Boundary, ModuleSpec


class Net(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Linear(4, width), nn.Linear(width, width))
        self.right = nn.Sequential(nn.Linear(4, width), nn.Linear(width, width))
        self.head = nn.Linear(width, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.left(x) + self.right(x))
        return out


class GenericAdapter(Adapter):
    modules = (
        ModuleSpec("left", path="left", layers="left.*", inputs=None),
        ModuleSpec("right", path="right", layers="right.*", inputs=None),
        ModuleSpec("head", path="head", layers="head", inputs=None),
    )
    logits = ("head", "logits")

    def run_whole(self, model: nn.Module, batch: Batch) -> dict[str, Boundary]:
        # One position a row.
        return {"left": {}, "right": {}, "head": {"logits": model(batch["x"])[:, None]}}

    def task_terms(self, model: nn.Module, batch: Batch, boundary: Mapping[str, Boundary]) -> dict[str, Tensor]:
        return {"caption": boundary["head"]["logits"].square().mean()}


def rows(count: int = 4) -> dict[str, Tensor]:
    return {"x": torch.randn(count, 4, generator=torch.Generator().manual_seed(0))}
