"""What the worker asks of a model: its parts, what feeds which, and how to run one of them alone.

A *part* is a sub-network with declared inputs and outputs, such as an image tower. Its outputs are the *boundary
tensors* that later parts read. Knowing them lets the worker run only the parts an arm needs, and feed a student's
part with the teacher's boundary tensors (``train: forced``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

Batch = Mapping[str, Tensor]
Boundary = dict[str, Tensor]


@dataclass(frozen=True)
class Part:
    """One part of a model.

    Attributes:
        name: What recipes and arms call it.
        path: Dotted path of its module.
        layers: Globs of the modules whose outputs are its hidden states, in order. Several globs are matched
            layer by layer: the last module of each layer counts.
        inputs: Names of the parts whose boundary tensors it reads.
        matched: Names of those of its own boundary tensors that are matched beside the hidden states, so that
            what follows the last layer (poolers, norms, projections) is distilled too.
    """

    name: str
    path: str
    layers: str
    inputs: tuple[str, ...] = ()
    matched: tuple[str, ...] = field(default=())


class Adapter(Protocol):
    """How one family of models is taken apart. Stateless: serves teacher and student alike."""

    parts: tuple[Part, ...]
    """In an order in which every part comes after its inputs."""

    def run(self, model: nn.Module, part: str, batch: Batch, boundary: Mapping[str, Boundary]) -> Boundary:
        """Run one part on the boundary tensors of its inputs and return its own."""
        ...

    def mask(self, part: str, name: str, batch: Batch) -> Tensor | None:
        """Which positions of a hidden state or boundary tensor count: [B, positions] bool, or None for all.

        ``name`` is "hidden" or the boundary tensor's name.
        """
        ...

    def task_terms(self, model: nn.Module, batch: Batch, boundary: Mapping[str, Boundary]) -> dict[str, Tensor]:
        """The task losses that the given boundary tensors allow to compute, by name, each a scalar."""
        ...

    logits: tuple[str, str]
    """The part and the boundary tensor that hold the logits [B, positions, classes] that are matched by KL."""
