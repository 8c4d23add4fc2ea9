"""Run by two ranks: averages gradients during the backward pass, and by hand.

Rank 0 prints one JSON line: the largest difference of each case, and the error where averaging is impossible.
"""

import json
import sys
from pathlib import Path

sys.path[0] = str(Path.cwd())

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from worker.engine.gradient_averaging import BUCKET_BYTES, GradientAverager  # noqa: E402
from worker.engine.process_group import ProcessGroup  # noqa: E402

ROWS, WIDTH = 4, 8


class Tower(nn.Module):
    """Layers, the second of which rank 1 never runs."""

    def __init__(self, reentrant: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.head = nn.Linear(WIDTH, WIDTH).to(torch.float64)
        self.reentrant = reentrant

    def forward(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        for at, layer in enumerate(self.layers):
            if at != 1 or rank == 0:
                x = torch.tanh(layer(x))
        if self.reentrant:
            # Both use the last layer: its gradient comes in two parts.
            for _ in range(2):
                x = checkpoint(self.layers[-1], x, use_reentrant=True)
        loss: torch.Tensor = self.head(x.double()).square().mean()
        return loss


def gradients(tower: Tower, rank: int, passes: int, averager: GradientAverager | None) -> list[torch.Tensor | None]:
    """Return every parameter's gradient after so many backward passes, the last of which is averaged."""
    tower.zero_grad()
    for number in range(passes):
        x = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(10 * rank + number), requires_grad=True)
        if averager is not None and number == passes - 1:
            with averager.averaging():
                tower(x, rank).backward()
        else:
            tower(x, rank).backward()
    return [None if p.grad is None else p.grad.clone() for p in tower.parameters()]


def difference(tower: Tower, rank: int, passes: int, averager: GradientAverager) -> float:
    """Return the largest difference to gradients that are averaged by hand."""
    by_hand = []
    for parameter, grad in zip(tower.parameters(), gradients(tower, rank, passes, None), strict=True):
        total = torch.zeros_like(parameter) if grad is None else grad
        if parameter.requires_grad:
            dist.all_reduce(total)
        by_hand.append(total / 2)
    averaged = gradients(tower, rank, passes, averager)
    trained = [p.requires_grad for p in tower.parameters()]
    assert [grad is not None for grad in averaged] == trained
    pairs = zip(averaged, by_hand, strict=True)
    return max(float((ours - theirs).abs().max()) for ours, theirs in pairs if ours is not None)


def main() -> None:
    process_group = ProcessGroup()
    differences: dict[str, object] = {}
    for bucket in (BUCKET_BYTES, WIDTH * WIDTH * 4):
        torch.manual_seed(0)
        tower = Tower()
        averager = GradientAverager(list(tower.parameters()), bucket)
        differences[f"one pass, {bucket}"] = difference(tower, process_group.rank, 1, averager)
        differences[f"three passes, {bucket}"] = difference(tower, process_group.rank, 3, averager)
        for layer in (tower.layers[0], tower.layers[3]):
            layer.requires_grad_(False)
        differences[f"some are frozen, {bucket}"] = difference(tower, process_group.rank, 2, averager)
    tower = Tower(reentrant=True)
    try:
        gradients(tower, process_group.rank, 1, GradientAverager(list(tower.parameters())))
    except RuntimeError as error:
        differences["refused"] = str(error)
    process_group.barrier()
    if process_group.rank == 0:
        print(json.dumps(differences), flush=True)
    process_group.close()


main()
