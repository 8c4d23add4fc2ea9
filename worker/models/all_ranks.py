"""The rows of all ranks, for losses that compare every row with every other one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_TOGETHER: ContextVar[bool] = ContextVar("together", default=False)


@contextmanager
def all_ranks_together() -> Iterator[None]:
    """Let `all_rows` return the rows of all ranks within the block; outside of it, a rank sees only its own.

    The engine enters it around the forward passes that all ranks do at the same time.
    """
    token = _TOGETHER.set(dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)
    try:
        yield
    finally:
        _TOGETHER.reset(token)


def own_place() -> tuple[int, int]:
    """Return this rank's number and the number of ranks whose rows `all_rows` returns."""
    return (dist.get_rank(), dist.get_world_size()) if _TOGETHER.get() else (0, 1)


def all_rows(rows: Tensor) -> Tensor:
    """Return the rows of all ranks in the order of ranks, [ranks · B, …]; collective.

    The gradient that reaches a rank's rows is the sum of all ranks' gradients of them. So if the loss of one rank with
    the whole batch is the mean of the ranks' losses, then the mean of the ranks' gradients, which the engine takes, is
    its gradient.

    Args:
        rows: [B, …]; the same shape on every rank.
    """
    if not _TOGETHER.get():
        return rows
    gathered: Tensor = _AllRows.apply(rows)
    return gathered


class _AllRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        rows = rows.contiguous()
        gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, rows)
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]
