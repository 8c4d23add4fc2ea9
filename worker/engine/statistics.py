"""The running statistics of a student's layers, such as those of BatchNorm: they move with their arm only.

In train mode such a layer changes its buffers in the forward pass, whatever is trained. So outside of the arm it is in
eval mode, where it also computes what the exported student will compute.

Inside of the arm every rank sees other rows. After each step the ranks take the mean of their statistics, so that
between two steps they are the same on every rank. This is needed: a checkpoint has the buffers of rank 0 only, and the
probe must measure the same student everywhere. The mean uses the rows of all ranks, while a broadcast from rank 0
would discard all others; the variance it gives is too small only by the variance of the ranks' means. Within a step
each rank normalises by its own rows, as it does under torch's own data parallelism.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


class RunningStatistics:
    """The layers of a student with running statistics, by the module that they move with.

    These are the layers that have persistent floating-point buffers of their own. A layer belongs to the modules that
    own its parameters; one without parameters to those that own the parameters around it. Where all of these are
    frozen, the statistics are frozen too.

    Args:
        student: The student as the engine wraps it.
        owned: The names of its trainable parameters by module.
    """

    def __init__(self, student: nn.Module, owned: Mapping[str, Sequence[str]]) -> None:
        owners = {name: module for module, names in owned.items() for name in names}
        self._layers = [
            (layer, _owners(student, name, owners)) for name, layer in student.named_modules() if [*_buffers(layer)]
        ]

    def activate(self, modules: Collection[str]) -> None:
        """Set train mode for the layers of these modules, and eval mode for all others."""
        for layer, owners in self._layers:
            layer.training = bool(owners) and owners.issubset(modules)

    def fixed(self) -> set[int]:
        """Return the ids of the statistics that never move, whatever is trained."""
        return {id(buffer) for layer, owners in self._layers if not owners for buffer in _buffers(layer)}

    @torch.no_grad()
    def average(self) -> None:
        """Replace the statistics of the layers in train mode by their mean over the ranks; collective."""
        world = dist.get_world_size()
        buffers = [buffer for layer, _ in self._layers if layer.training for buffer in _buffers(layer)]
        if world == 1 or not buffers:
            return
        flat = torch.cat([buffer.float().flatten() for buffer in buffers])
        dist.all_reduce(flat)
        flat /= world
        for buffer, mean in zip(buffers, torch.split(flat, [buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(mean.view_as(buffer))


def _buffers(layer: nn.Module) -> Iterator[Tensor]:
    """Yield a layer's own persistent floating-point buffers. Others are masks, tables and counters."""
    for name, buffer in layer.named_buffers(recurse=False):
        if name not in layer._non_persistent_buffers_set and buffer.is_floating_point():
            yield buffer


def _owners(student: nn.Module, name: str, owners: Mapping[str, str]) -> frozenset[str]:
    """Return the modules that own parameters of a layer or, if it has none, of the nearest one around it that has."""
    while True:
        prefix = f"{name}." if name else ""
        names = [prefix + own for own, _ in student.get_submodule(name).named_parameters()]
        if names or not name:
            return frozenset(owners[own] for own in names if own in owners)
        name = name.rpartition(".")[0]
