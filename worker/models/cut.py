"""The layers of a student that is cut from its teacher, and the names of their tensors in the teacher."""

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from worker.errors import RecipeError
from worker.models.base import Adapter, patterns
from worker.models.paths import layer_names

SHARED = re.compile(r"\b(relative_attention_bias|rel_attn_embed)\b")
"""Tensors that the first layer holds on behalf of all: T5's and WavLM's position biases."""


def layers_to_keep(teacher: int, student: int) -> list[int]:
    """Return the indices of the teacher's layers that a student keeps, in order.

    Layer i of s is the teacher's layer (i + 1) · t / s - 1, rounded down, which is the layer it will be compared with.
    The last one is always kept.

    Args:
        teacher: Number of layers of the teacher.
        student: Number of layers of the student.
    """
    return [(i + 1) * teacher // student - 1 for i in range(student)]


def check_keep(keep: Mapping[str, int], layers: Mapping[str, int], kind: str) -> None:
    """Raise RecipeError unless ``keep`` names existing modules and a possible number of layers.

    Args:
        keep: The recipe's ``student.keep``.
        layers: Number of layers by module.
        kind: The kind of model, for the message.
    """
    for module, count in keep.items():
        if module not in layers:
            if not layers:
                raise RecipeError(
                    f"keep names {module!r}, but the modules of a {kind} are not known; name them, with their layers, "
                    "under `modules`"
                )
            raise RecipeError(f"keep names {module!r}, but the modules of a {kind} are {', '.join(layers)}")
        if not 1 <= count <= layers[module]:
            raise RecipeError(f"keep asks for {count} layers of {module}; expected 1 to {layers[module]}")


class LayerSelection:
    """The layers that a cut keeps of each stack, and the tensor names that follow from it.

    A layer of a stack that no module lists is kept, unless it belongs to a module that ``keep`` names: such a module
    has exactly as many layers as ``keep`` says.

    Args:
        model: The model that is cut.
        adapter: Its modules. Several modules may share a stack.
        keep: Number of layers to keep, by module; modules that are not named keep all.

    Attributes:
        layers: Names of each module's layers in the model that is cut, in order.
        origins: The indices of the layers that are kept, in order, by the name of the stack.

    Raises:
        RecipeError: ``keep`` is impossible, or a layer to leave out is not in a numbered stack.
    """

    def __init__(self, model: nn.Module, adapter: Adapter, keep: Mapping[str, int]) -> None:
        self.layers = layer_names(model, adapter)
        check_keep(keep, {module: len(names) for module, names in self.layers.items()}, type(model).__name__)
        selected: dict[str, set[int]] = {}
        listed: dict[str, set[int]] = {}
        readers: dict[str, set[str]] = {}
        for module, names in self.layers.items():
            kept_indices = set(layers_to_keep(len(names), keep.get(module, len(names))))
            for index, name in enumerate(names):
                stack, _, number = name.rpartition(".")
                if not number.isdigit():
                    if len(kept_indices) < len(names):
                        raise RecipeError(f"{module} cannot be cut because its layer {name} is not in a numbered stack")
                    continue
                listed.setdefault(stack, set()).add(int(number))
                readers.setdefault(stack, set()).add(module)
                if index in kept_indices:
                    selected.setdefault(stack, set()).add(int(number))
        owners = {module.name: patterns(module.path) for module in adapter.modules}
        self.origins: dict[str, list[int]] = {}
        for stack, numbers in listed.items():
            children = {int(name) for name, _ in model.get_submodule(stack).named_children() if name.isdigit()}
            for unlisted in children - numbers:
                owned_by = {module for module in readers[stack] if _owns(owners[module], f"{stack}.{unlisted}")}
                if not (owned_by or readers[stack]) <= keep.keys():
                    selected.setdefault(stack, set()).add(unlisted)
            self.origins[stack] = sorted(selected.get(stack, set()))

    def source(self, name: str, available: Iterable[str]) -> str:
        """Return the name of a student's tensor in the model it is cut from.

        Args:
            name: The tensor's name in the student.
            available: The tensor names of the model it is cut from.
        """
        for stack, numbers in self.origins.items():
            match = re.match(rf"{re.escape(stack)}\.(\d+)\.", name)
            if match:
                candidate = f"{stack}.{numbers[int(match[1])]}.{name[match.end() :]}"
                return name if candidate not in available and SHARED.search(name) else candidate
        return name

    def renumbered(self, globs: Sequence[str]) -> tuple[str, ...]:
        """Return dotted globs of the model that is cut as globs of the student, without the layers that are left out.

        A glob that names a layer by its number follows that layer; all others mean the same in both.
        """
        renumbered = (self._in_student(glob) for glob in globs)
        return tuple(glob for glob in renumbered if glob is not None)

    def _in_student(self, glob: str) -> str | None:
        for stack, numbers in self.origins.items():
            match = re.match(rf"{re.escape(stack)}\.(\d+)(?=\.|$)", glob)
            if match:
                number = int(match[1])
                return f"{stack}.{numbers.index(number)}{glob[match.end() :]}" if number in numbers else None
        return glob

    def leaves_out(self, name: str) -> bool:
        """Return whether a tensor of the model that is cut belongs to a layer that is not kept."""
        matches = (
            (re.match(rf"{re.escape(stack)}\.(\d+)\.", name), numbers) for stack, numbers in self.origins.items()
        )
        return any(match is not None and int(match[1]) not in numbers for match, numbers in matches)


def _owns(globs: Sequence[str], name: str) -> bool:
    """Return whether one of these dotted globs matches a module or one that contains it."""
    parts = name.split(".")
    return any(
        len(wanted) <= len(parts) and all(fnmatchcase(n, w) for n, w in zip(parts, wanted, strict=False))
        for wanted in (glob.split(".") for glob in globs)
    )
