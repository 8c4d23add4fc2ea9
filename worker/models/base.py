"""The interface between the worker and a model: its modules, their inputs, how to run one alone, how to export it.

A *module* is a sub-network with declared inputs and outputs, such as an image tower; it consists of one or more
PyTorch modules. Its outputs are the *boundary tensors* that later modules read. Knowing them lets the worker run only
the modules an arm needs, and feed a student's module with the teacher's boundary tensors (``train: forced``).

A *family* is one kind of models: an :class:`Adapter` declares their modules, a :class:`Loaded` cuts and exports them.
The families are open_clip's CoCa and CLIP (open_clip/), the models of transformers (hf/), and the models that a user's
factory builds (factory.py); sources.py chooses the family.
"""

from __future__ import annotations

import logging
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from worker.data.base import Inputs
from worker.errors import RecipeError
from worker.models.folders import join_names
from worker.models.weights import read_weights

log = logging.getLogger(__name__)

Batch = Mapping[str, Tensor]
Boundary = dict[str, Tensor]
Patterns = str | tuple[str, ...]
"""A dotted glob, or several of them."""
Fresh = Literal["never", "if_bare", "always"]
"""Whether a model may start with fresh weights, from torch's global random state: never; if there is only a
configuration and no weights; or always, whatever weights there are."""

Role = Literal["teacher", "student"]
"""The purpose that a model is loaded for: a student is trained and exported."""

WHOLE = 2**30
"""Bytes of weights up to which a student is exported and loaded back completely before training."""


def patterns(globs: Patterns) -> tuple[str, ...]:
    """Return one glob or several as a tuple."""
    return (globs,) if isinstance(globs, str) else globs


@dataclass(frozen=True)
class ModuleSpec:
    """The declaration of one module of a model.

    Attributes:
        name: Its name in recipes and arms.
        path: Dotted globs of the PyTorch modules it owns, or of single parameters.
        layers: Dotted globs of the PyTorch modules whose outputs are its hidden states, in order.
        inputs: Names of the modules whose boundary tensors it reads; None if that is to be found.
        matched: Names of its boundary tensors that are compared in addition to the hidden states, so that what
            follows the last layer (poolers, norms, projections) is distilled too.
        textless: Whether it reads no text, so that it runs only once while text is generated token by token.
    """

    name: str
    path: Patterns
    layers: Patterns
    inputs: tuple[str, ...] | None = ()
    matched: tuple[str, ...] = field(default=())
    textless: bool = False


@dataclass(frozen=True)
class OwnForward:
    """The results of a model's own forward pass, against which its adapter is checked before training.

    Attributes:
        logits: The logits as the adapter returns them; None if they are not compared.
        losses: The task terms by name, scalars; those that are missing are not compared.
    """

    logits: Tensor | None = None
    losses: Mapping[str, Tensor] = field(default_factory=dict)


class _Parts:
    """The name that adapters of version 0.1 use for `Adapter.modules`; it works until version 0.3."""

    def __get__(self, adapter: Adapter | None, owner: type[Adapter]) -> tuple[ModuleSpec, ...]:
        return (owner if adapter is None else adapter).modules

    def __set__(self, adapter: Adapter, modules: tuple[ModuleSpec, ...]) -> None:
        _warn_parts(type(adapter))
        adapter.modules = modules


def _warn_parts(adapter: type[Adapter]) -> None:
    log.warning("%s.parts is now called `modules`; the old name works until version 0.3", adapter.__qualname__)


class Adapter:
    """The module structure of one kind of model: its modules and how to run them. It holds no weights.

    An adapter whose modules declare their inputs implements :meth:`run`, and only what an arm needs is computed. One
    that does not know which module reads which leaves ``inputs`` at None and implements :meth:`run_whole`, by the
    model's own forward pass: then it is found before training what feeds what, and the modules outside of an arm stand
    in (worker/setup/forced.py). Teacher and student may have different adapters if their modules and boundary tensors
    have the same names.
    """

    modules: tuple[ModuleSpec, ...] = ()
    """The modules, each after its inputs."""
    parts = _Parts()

    logits: tuple[str, str] | None = None
    """Names of the module and the boundary tensor that hold the logits [B, positions, classes] compared by KL; None if
    no module computes them alone. Task and logit terms belong to that module."""

    outputs: Collection[str] = ()
    """Names of further tensors in the output of the model's forward pass that :meth:`run_whole` returns: those that the
    recipe's modules match."""

    task_weights: Mapping[str, float] = MappingProxyType({})
    """Weight of each task term if the recipe names none; terms that it does not list weigh 1."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "parts" in vars(cls):
            _warn_parts(cls)
            cls.modules = vars(cls)["parts"]
            del cls.parts

    @property
    def declared(self) -> bool:
        """Whether every module declares its inputs."""
        return all(module.inputs is not None for module in self.modules)

    def run(self, model: nn.Module, module: str, batch: Batch, boundary: Mapping[str, Boundary]) -> Boundary:
        """Run one module on the boundary tensors of its inputs and return its own."""
        raise NotImplementedError(
            f"{type(self).__name__} declares the inputs of its modules but has no `run` method to run one"
        )

    def run_whole(self, model: nn.Module, batch: Batch) -> dict[str, Boundary]:
        """Run the whole model and return the boundary tensors of every module; a module may have none."""
        boundary: dict[str, Boundary] = {}
        for module in self.modules:
            boundary[module.name] = self.run(model, module.name, batch, boundary)
        return boundary

    def mask(self, module: str, name: str, batch: Batch) -> Tensor | None:
        """Return which positions of a module's hidden states or of a boundary tensor count.

        Args:
            module: The module's name.
            name: "hidden", or the boundary tensor's name.
            batch: The batch.

        Returns:
            [B, positions] bool, or None for all positions.
        """
        return None

    def mask_for(self, module: str, name: str, batch: Batch, tensor: Tensor) -> Tensor | None:
        """Return the :meth:`mask` of one of a module's tensors; None for a pooled tensor, which has no positions."""
        mask = self.mask(module, name, batch)
        return mask if mask is None or mask.ndim < tensor.ndim else None

    def task_terms(self, model: nn.Module, batch: Batch, boundary: Mapping[str, Boundary]) -> dict[str, Tensor]:
        """Compute the task losses that need no other boundary tensors than these, by name, each a scalar."""
        return {}

    def logits_of(self, model: nn.Module, boundary: Mapping[str, Boundary]) -> Tensor | None:
        """Return the logits, or None if these boundary tensors are not enough to compute them."""
        if self.logits is None:
            return None
        module, name = self.logits
        return boundary.get(module, {}).get(name)

    def logits_mask(self, batch: Batch) -> Tensor | None:
        """Return which positions of the logits count: [B, positions] bool, or None for all."""
        return None if self.logits is None else self.mask(*self.logits, batch)

    def logits_mask_for(self, batch: Batch, logits: Tensor) -> Tensor | None:
        """Return the mask of these logits, whose shape may decide whether :meth:`logits_mask` applies to them."""
        return self.logits_mask(batch)

    def embeddings_of(self, model: nn.Module, boundary: Mapping[str, Boundary]) -> Boundary | None:
        """Return the embeddings of two towers whose similarities are the logits; None if the model is none such.

        Returns:
            ``image`` and ``text`` [B, width], not normalised; ``scale``, the factor of their cosines, one element. None
            also if these boundary tensors are not enough.
        """
        return None

    def own_forward(self, model: Any, batch: Batch) -> OwnForward | None:
        """Run the model by its own forward pass, with its library's own losses; None if there is none to compare with.

        An adapter that computes logits or losses otherwise than by the model's own forward pass should implement this:
        a difference between the two is then an error before training.
        """
        return None

    def checkpoint_activations(self, model: nn.Module) -> None:
        """Make the model recompute its layers in the backward pass, by non-reentrant checkpointing.

        Raises:
            RecipeError: The model does not offer it.
        """
        raise RecipeError(f"student.checkpointing: {type(model).__name__} does not offer activation checkpointing")


class Loaded(ABC):
    """A loaded model with its adapter, which can be cut and exported.

    Attributes:
        model: The model, on the CPU, in fp32, in train mode. Parameters that its library or factory froze
            (``requires_grad=False``) are never trained.
        adapter: Its adapter; one without modules if nothing is known about the model.
        weights: Where its weights come from, for people to read.
    """

    model: nn.Module
    adapter: Adapter
    weights: str

    def cut(self, keep: Mapping[str, int], adapter: Adapter) -> Loaded:
        """Return a student with fewer layers, each a bitwise copy from this model; no memory is shared.

        Args:
            keep: Number of layers to keep, by module; modules that are not named keep all.
            adapter: The modules of this model: its own adapter, or one with the recipe's modules.

        Raises:
            RecipeError: There is no such module, it has fewer layers, or the model cannot be cut.
        """
        raise RecipeError(f"a student cannot be cut from a {type(self.model).__name__}")

    def tune(self, fields: Mapping[str, Any]) -> Loaded:
        """Return this model with a new LoRA adapter inside; everything else in it is frozen.

        Args:
            fields: Arguments of ``peft.LoraConfig``.

        Raises:
            RecipeError: The arguments are not valid, or the model is not of a library that peft adapts.
        """
        raise RecipeError(
            f"student.lora is for models of transformers (hf:…), not for a {type(self.model).__name__}; a factory may "
            "return a model that peft has wrapped"
        )

    def inputs(self) -> Inputs:
        """Return the preprocessing of the model.

        Raises:
            RecipeError: It is not known.
        """
        raise RecipeError(
            f"the preprocessing of a {type(self.model).__name__} is not known; write a data module of your own that "
            "makes its batches (docs/bring-your-own-model.md)"
        )

    @abstractmethod
    def export(self, state: Mapping[str, Tensor], directory: Path) -> Path:
        """Write weights and configuration so that the library the model came from can load them.

        Args:
            state: The model's tensors by name, tied ones under each of their names.
            directory: Created if needed. Each file is written atomically, the weights last.

        Returns:
            The path of the weights.
        """

    def check_export(self) -> None:
        """Raise RecipeError unless the model can be exported, and loaded back with the same tensors, bit for bit.

        Called before training, so that hours of it do not end in a model that nobody can load. Of a model with more
        than `WHOLE` bytes of weights only what needs no copy of them is checked.
        """
        state = self.model.state_dict()
        if sum(tensor.nbytes for tensor in state.values()) > WHOLE:
            return
        with tempfile.TemporaryDirectory(prefix="optima-export-") as name:
            try:
                loaded = self.read_back(self.export(state, Path(name)))
            except Exception as error:
                raise unreadable(self.model, error) from error
        check_same(self.model, state, loaded)

    def read_back(self, weights: Path) -> Mapping[str, Tensor]:
        """Load an exported model and return its tensors by name.

        Args:
            weights: The path that `export` returned.
        """
        return read_weights(weights)


def unreadable(model: nn.Module, error: Exception) -> RecipeError:
    """Return the error for a student that cannot be exported or loaded back."""
    kind = "" if isinstance(error, RecipeError) else f"{type(error).__name__}: "
    reason = kind + str(error).strip().partition("\n")[0]
    return RecipeError(f"the student, a {type(model).__name__}, cannot be loaded after it was exported: {reason}")


def check_same(
    model: nn.Module, state: Mapping[str, Tensor], loaded: Mapping[str, Tensor], *, values: bool = True
) -> None:
    """Raise RecipeError unless a student that was exported and loaded back has the same tensors.

    Args:
        model: The student.
        state: Its tensors by name.
        loaded: Those that were loaded back.
        values: Whether the values are compared, bit for bit, and not only names and shapes.
    """
    faults = sorted(state.keys() ^ loaded.keys()) or [
        name
        for name, tensor in state.items()
        if tensor.shape != loaded[name].shape or (values and not _identical(tensor, loaded[name]))
    ]
    if faults:
        raise RecipeError(
            f"the student, a {type(model).__name__}, has other tensors after it was exported and loaded back: "
            f"{join_names(faults)}"
        )


def _identical(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype:
        return False
    # A tensor without a dimension cannot be viewed as bytes.
    ours, theirs = (tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8) for tensor in (one, other))
    return one.shape == other.shape and torch.equal(ours, theirs)


def entry(batch: Batch, *names: str) -> Tensor:
    """Return the first of these entries that a batch has.

    Raises:
        RecipeError: It has none of them; the message names those it has.
    """
    for name in names:
        if name in batch:
            return batch[name]
    raise RecipeError(f"the data's batches have no {' or '.join(names)}; they have {', '.join(batch) or 'nothing'}")


def __getattr__(name: str) -> Any:
    """Return `ModuleSpec` for ``Part``, its name in version 0.1; it works until version 0.3."""
    if name == "Part":
        log.warning("worker.models.base.Part is now called ModuleSpec; the old name works until version 0.3")
        return ModuleSpec
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
