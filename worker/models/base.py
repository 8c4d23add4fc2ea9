"""What the worker asks of a model: its parts, what feeds which, and how to run one of them alone.

A *part* is a sub-network with declared inputs and outputs, such as an image tower. Its outputs are the *boundary
tensors* that later parts read. Knowing them lets the worker run only the parts an arm needs, and feed a student's
part with the teacher's boundary tensors (``train: forced``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from worker.errors import RecipeError

Batch = Mapping[str, Tensor]
Boundary = dict[str, Tensor]


@dataclass(frozen=True)
class Part:
    """One part of a model.

    Attributes:
        name: What recipes and arms call it.
        path: Dotted path of its module.
        layers: Glob of the modules whose outputs are its hidden states, in order.
        inputs: Names of the parts whose boundary tensors it reads; None where that is not declared.
        matched: Names of those of its own boundary tensors that are matched beside the hidden states, so that
            what follows the last layer (poolers, norms, projections) is distilled too.
    """

    name: str
    path: str
    layers: str
    inputs: tuple[str, ...] | None = ()
    matched: tuple[str, ...] = field(default=())


class Adapter:
    """How one family of models is taken apart. Stateless: serves teacher and student alike.

    An adapter whose parts declare their inputs implements :meth:`run`, and only what an arm needs is computed. One
    that does not know what feeds what leaves ``inputs`` at None and implements :meth:`run_whole`: then every forward
    pass is a full one, and ``train: forced`` is refused.
    """

    parts: tuple[Part, ...]
    """In an order in which every part comes after its inputs."""

    logits: tuple[str, str]
    """The part and the boundary tensor that hold the logits [B, positions, classes] that are matched by KL."""

    @property
    def declared(self) -> bool:
        """Whether it is known which part reads what."""
        return all(part.inputs is not None for part in self.parts)

    def run(self, model: nn.Module, part: str, batch: Batch, boundary: Mapping[str, Boundary]) -> Boundary:
        """Run one part on the boundary tensors of its inputs and return its own."""
        raise NotImplementedError

    def run_whole(self, model: nn.Module, batch: Batch) -> dict[str, Boundary]:
        """Run the whole model and return every part's boundary tensors; some may be empty."""
        raise NotImplementedError

    def mask(self, part: str, name: str, batch: Batch) -> Tensor | None:
        """Which positions of a hidden state or boundary tensor count: [B, positions] bool, or None for all.

        ``name`` is "hidden" or the boundary tensor's name.
        """
        return None

    def task_terms(self, model: nn.Module, batch: Batch, boundary: Mapping[str, Boundary]) -> dict[str, Tensor]:
        """The task losses that the given boundary tensors allow to compute, by name, each a scalar."""
        return {}

    def checkpoint_activations(self, model: nn.Module) -> None:
        """Have the model recompute its layers in the backward pass, by non-reentrant checkpointing.

        Raises:
            RecipeError: The model cannot.
        """
        raise RecipeError(f"student.checkpointing: {type(model).__name__} does not offer activation checkpointing")
