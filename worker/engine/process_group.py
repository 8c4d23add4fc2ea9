"""The processes of a job, under DeepSpeed."""

from __future__ import annotations

import os
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from torch import Tensor


class Ranks:
    """The job's processes and what they tell each other. Every method but the properties is collective."""

    def __init__(self) -> None:
        # Gloo serves CPU ranks well; DeepSpeed's own shared-memory op would be compiled for over a minute first.
        ops = getattr(deepspeed.ops, "__compatible_ops__", None)
        if isinstance(ops, dict) and get_accelerator().device_name() == "cpu":
            ops["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(verbose=False)
        self.device = torch.device(get_accelerator().current_device_name())
        if self.device.type != "cpu":
            get_accelerator().set_device(int(os.environ.get("LOCAL_RANK", "0")))
            self.device = torch.device(get_accelerator().current_device_name())
        # What ranks agree on between steps goes from host to host: through the device it would wait for the step.
        self._hosts: Any = None if self.device.type == "cpu" else dist.new_group(backend="gloo")

    @property
    def rank(self) -> int:
        return dist.get_rank()

    @property
    def world(self) -> int:
        return dist.get_world_size()

    @property
    def device_kind(self) -> str:
        return "cpu" if self.device.type == "cpu" else torch.cuda.get_device_name(self.device)

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def gather(self, values: Tensor) -> Tensor:
        """Every rank's values [n], as float64 [world, n], in the order of ranks and so the same numbers everywhere."""
        # gloo and NCCL both carry float64.
        local = values.to(self.device, torch.float64)
        parts = [torch.empty_like(local) for _ in range(self.world)]
        dist.all_gather(parts, local)
        return torch.stack(parts)

    def highest(self, value: int) -> int:
        """The highest of all ranks' values, on every rank; cheap enough for every step."""
        if self.world == 1:
            return value
        box = torch.tensor(value)
        dist.all_reduce(box, op=dist.ReduceOp.MAX, group=self._hosts)
        return int(box)

    def collect(self, value: Any) -> list[Any]:
        """Every rank's value, in the order of ranks, on every rank."""
        boxes: list[Any] = [None] * self.world
        dist.all_gather_object(boxes, value, group=self._hosts)
        return boxes

    def wait(self) -> None:
        """For every rank to come here."""
        dist.barrier()

    def close(self) -> None:
        """Leave together; without this a stage 3 job can abort after it has finished."""
        dist.barrier()
        dist.destroy_process_group()
