"""The ranks of a job and their collective operations, through torch.distributed as DeepSpeed sets it up."""

from __future__ import annotations

import os
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from torch import Tensor


class ProcessGroup:
    """All ranks of the job. Every method is collective: all ranks call it in the same order.

    Attributes:
        device: The device of this rank.
    """

    def __init__(self) -> None:
        # Gloo serves CPU ranks well; DeepSpeed's own shared-memory op would first be compiled for over a minute.
        ops = getattr(deepspeed.ops, "__compatible_ops__", None)
        if isinstance(ops, dict) and get_accelerator().device_name() == "cpu":
            ops["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(verbose=False)
        self.device = torch.device(get_accelerator().current_device_name())
        if self.device.type != "cpu":
            get_accelerator().set_device(int(os.environ.get("LOCAL_RANK", "0")))
            self.device = torch.device(get_accelerator().current_device_name())
        # For what ranks exchange between steps: sent through the device, it would wait until the device is idle.
        self._host_group: Any = None if self.device.type == "cpu" else dist.new_group(backend="gloo")

    @property
    def rank(self) -> int:
        """The number of this rank, from 0."""
        return dist.get_rank()

    @property
    def is_rank0(self) -> bool:
        """Whether this is rank 0, which alone talks to the server, the disk and the terminal."""
        return self.rank == 0

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return dist.get_world_size()

    @property
    def device_kind(self) -> str:
        """The name of the device's model, or ``cpu``."""
        return "cpu" if self.device.type == "cpu" else torch.cuda.get_device_name(self.device)

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value; those of other ranks are ignored. Any object that can be pickled."""
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def all_gather(self, values: Tensor) -> Tensor:
        """Return the values [n] of all ranks as float64 [ranks, n]: the same numbers on every rank."""
        # gloo and NCCL both carry float64.
        local = values.to(self.device, torch.float64)
        gathered = [torch.empty_like(local) for _ in range(self.world_size)]
        dist.all_gather(gathered, local)
        return torch.stack(gathered)

    def all_gather_objects(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in the order of ranks. Any objects that can be pickled."""
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._host_group)
        return values

    def all_reduce_max(self, value: int) -> int:
        """Return the largest of all ranks' values. Cheap enough to be called after every step."""
        if self.world_size == 1:
            return value
        box = torch.tensor(value)
        dist.all_reduce(box, op=dist.ReduceOp.MAX, group=self._host_group)
        return int(box)

    def barrier(self) -> None:
        """Wait until all ranks have come here."""
        dist.barrier()

    def close(self) -> None:
        """Leave the group together; without this a ZeRO stage 3 job can abort after it has finished."""
        dist.barrier()
        dist.destroy_process_group()
