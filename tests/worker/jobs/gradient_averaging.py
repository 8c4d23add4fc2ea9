"""Run by two ranks: averages gradients while the backward pass goes on, and by hand, and prints from rank 0 as one JSON
line how they differ, case by case; and what is said where it cannot be done."""

import json
import sys
from pathlib import Path

sys.path[0] = str(Path.cwd())

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from worker.engine import gradient_averaging as gradient_mean  # noqa: E402
from worker.engine.gradient_averaging import GradientMean  # noqa: E402
from worker.engine.process_group import Ranks  # noqa: E402

ROWS, WIDTH = 4, 8


class Tower(nn.Module):
    """Layers, of which rank 1 never runs the second."""

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
        return self.head(x.double()).square().mean()


def gradients(tower: Tower, rank: int, passes: int, mean: GradientMean | None) -> list[torch.Tensor | None]:
    """Of every parameter, after so many backward passes of which the last is averaged."""
    tower.zero_grad()
    for number in range(passes):
        x = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(10 * rank + number), requires_grad=True)
        if mean is not None and number == passes - 1:
            with mean.averaging():
                tower(x, rank).backward()
        else:
            tower(x, rank).backward()
    return [None if p.grad is None else p.grad.clone() for p in tower.parameters()]


def difference(tower: Tower, rank: int, passes: int, mean: GradientMean) -> float:
    """The largest, between what was averaged meanwhile and what is averaged here."""
    by_hand = []
    for parameter, grad in zip(tower.parameters(), gradients(tower, rank, passes, None), strict=True):
        total = torch.zeros_like(parameter) if grad is None else grad
        if parameter.requires_grad:
            dist.all_reduce(total)
        by_hand.append(total / 2)
    found = gradients(tower, rank, passes, mean)
    trained = [p.requires_grad for p in tower.parameters()]
    assert [grad is not None for grad in found] == trained
    pairs = zip(found, by_hand, strict=True)
    return max(float((ours - theirs).abs().max()) for ours, theirs in pairs if ours is not None)


def main() -> None:
    ranks = Ranks()
    told: dict[str, object] = {}
    for bucket in (gradient_mean.BUCKET, WIDTH * WIDTH * 4):
        gradient_mean.BUCKET = bucket
        torch.manual_seed(0)
        tower = Tower()
        mean = GradientMean(list(tower.parameters()))
        told[f"one pass, {bucket}"] = difference(tower, ranks.rank, 1, mean)
        told[f"three passes, {bucket}"] = difference(tower, ranks.rank, 3, mean)
        for layer in (tower.layers[0], tower.layers[3]):
            layer.requires_grad_(False)
        told[f"some are frozen, {bucket}"] = difference(tower, ranks.rank, 2, mean)
    tower = Tower(reentrant=True)
    try:
        gradients(tower, ranks.rank, 1, GradientMean(list(tower.parameters())))
    except RuntimeError as error:
        told["refused"] = str(error)
    ranks.wait()
    if ranks.rank == 0:
        print(json.dumps(told), flush=True)
    ranks.close()


main()
