"""One module of the student as bytes: weights, buffers, optimizer moments and counters, and nothing else.

The bytes depend on the content alone, so equal modules have equal digests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from worker.errors import ExchangeError

_MOMENTS = ("exp_avg", "exp_avg_sq")
# One entry, since safetensors writes several in any order.
_COUNTERS = "optima"


@dataclass(frozen=True)
class ModuleState:
    """One module of the student between two rounds.

    Attributes:
        weights: Its parameters by name, whole, fp32, on the CPU.
        buffers: Its buffers by name.
        moments: AdamW's two moments, ``exp_avg`` and ``exp_avg_sq``, by moment and name; empty before its first step.
        rounds: Rounds that it has been trained for.
        steps: Optimizer steps that it has been trained for.
    """

    weights: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    moments: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    rounds: int = 0
    steps: int = 0

    def to_bytes(self) -> bytes:
        """Return a safetensors file with all of it."""
        tensors = {f"weights/{name}": tensor for name, tensor in self.weights.items()}
        tensors |= {f"buffers/{name}": tensor for name, tensor in self.buffers.items()}
        for moment, by_name in self.moments.items():
            tensors |= {f"{moment}/{name}": tensor for name, tensor in by_name.items()}
        counters = json.dumps({"rounds": self.rounds, "steps": self.steps})
        contiguous = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
        return save(contiguous, metadata={_COUNTERS: counters})

    @classmethod
    def from_bytes(cls, content: bytes) -> ModuleState:
        """Return the module that `to_bytes` wrote.

        Raises:
            ExchangeError: It did not write this.
        """
        try:
            tensors = load(content)
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            counters = json.loads(header["__metadata__"][_COUNTERS])
            parts: dict[str, dict[str, Tensor]] = {}
            for name, tensor in tensors.items():
                part, _, rest = name.partition("/")
                parts.setdefault(part, {})[rest] = tensor
            return cls(
                weights=parts.pop("weights", {}),
                buffers=parts.pop("buffers", {}),
                moments={moment: parts.pop(moment) for moment in _MOMENTS if moment in parts},
                rounds=int(counters["rounds"]),
                steps=int(counters["steps"]),
            )
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ExchangeError(f"it is no version of a module: {error}") from error


def digest(content: bytes) -> str:
    """Return the SHA-256 of a version's file, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
