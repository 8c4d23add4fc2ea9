"""The mean of the ranks' gradients, formed while the backward pass goes on.

At stage 0 DeepSpeed sends gradients when that pass is over. PyTorch's DDP sends them meanwhile, but wants to know once
and for all which parameters are trained; an arm trains some. So this does what both do: gradients are put together in
buckets, a bucket is sent when its last one is there, and buckets are sent in one order, the same on every rank.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

BUCKET = 25 * 2**20
"""Bytes that are sent at once, unless one gradient is larger; DDP's."""


@dataclass
class _Bucket:
    """Parameters of one type, and which of them have no gradient yet."""

    parameters: list[Parameter]
    size: int
    missing: set[Parameter]


class GradientMean:
    """Averages the gradients of those of the parameters that are trained (``requires_grad``) at the time.

    Args:
        parameters: In the order in which a forward pass uses them; the last are the first to have a gradient. Those
            that do not require one now are never trained; what is trained must be the same on every rank.
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self._parameters = [parameter for parameter in reversed(parameters) if parameter.requires_grad]
        self._of: dict[Parameter, _Bucket] = {}
        self._waiting: deque[_Bucket] = deque()
        self._sent: list[tuple[Tensor, Any]] = []
        for parameter in self._parameters:
            parameter.register_post_accumulate_grad_hook(self._ready)  # type: ignore[no-untyped-call]

    @contextmanager
    def averaging(self) -> Iterator[None]:
        """Around the last backward pass of an optimizer step; at its end every trained parameter has the mean of what
        the ranks have accumulated, zero for a rank that has nothing. Collective."""
        self._waiting = deque(self._buckets())
        self._of = {parameter: bucket for bucket in self._waiting for parameter in bucket.parameters}
        try:
            yield
            # Not every rank need have a gradient for each of them, but every rank must send.
            while self._waiting:
                self._send(self._waiting.popleft())
            for flat, work in self._sent:
                work.wait()
                flat.mul_(1.0 / dist.get_world_size())
        finally:
            self._waiting, self._of, self._sent = deque(), {}, []

    def _buckets(self) -> Iterator[_Bucket]:
        bucket = None
        for parameter in self._parameters:
            if not parameter.requires_grad:
                continue
            if bucket and bucket.size + parameter.nbytes <= BUCKET and parameter.dtype == bucket.parameters[0].dtype:
                bucket.parameters.append(parameter)
                bucket.size += parameter.nbytes
                bucket.missing.add(parameter)
            else:
                if bucket:
                    yield bucket
                bucket = _Bucket([parameter], parameter.nbytes, {parameter})
        if bucket:
            yield bucket

    def _ready(self, parameter: Parameter) -> None:
        """A gradient has been accumulated; in passes before the last nobody waits for it.

        Raises:
            RuntimeError: For the second time in one pass: what was sent is not all of it.
        """
        if (bucket := self._of.get(parameter)) is not None:
            if parameter not in bucket.missing:
                raise RuntimeError(
                    "a parameter got its gradient in two parts within one backward pass, as with reentrant activation "
                    "checkpointing; use the non-reentrant kind, or ZeRO stage 1"
                )
            bucket.missing.remove(parameter)
            while self._waiting and not self._waiting[0].missing:
                self._send(self._waiting.popleft())

    @torch.no_grad()
    def _send(self, bucket: _Bucket) -> None:
        first = bucket.parameters[0]
        flat = torch.empty(sum(p.numel() for p in bucket.parameters), dtype=first.dtype, device=first.device)
        offset = 0
        for parameter in bucket.parameters:
            # Laid out as its parameter is, as gradients are.
            view = flat.as_strided(parameter.shape, parameter.stride(), offset)
            offset += parameter.numel()
            if parameter.grad is None:
                view.zero_()
            else:
                view.copy_(parameter.grad)
            parameter.grad = view
        self._sent.append((flat, dist.all_reduce(flat, async_op=True)))
