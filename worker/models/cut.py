"""The layers of a student that is cut from its teacher, and the names of their tensors in the teacher."""

import re
from collections.abc import Iterable, Mapping, Sequence

from worker.errors import RecipeError


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
            raise RecipeError(f"keep names {module!r}, but the modules of a {kind} are {', '.join(layers)}")
        if not 1 <= count <= layers[module]:
            raise RecipeError(f"keep asks for {count} layers of {module}; expected 1 to {layers[module]}")


class LayerSelection:
    """The layers that a cut keeps of each stack, and the tensor names that follow from it.

    Args:
        layers: Names of each module's layers in the model that is cut, in order. Several modules may share a stack.
        keep: Number of layers to keep, by module; modules that are not named keep all.

    Attributes:
        origins: The indices of the layers that are kept, in order, by the name of the stack.

    Raises:
        RecipeError: A layer to leave out is not in a numbered stack.
    """

    def __init__(self, layers: Mapping[str, Sequence[str]], keep: Mapping[str, int]) -> None:
        self.origins: dict[str, list[int]] = {}
        for module, names in layers.items():
            kept_indices = set(layers_to_keep(len(names), keep.get(module, len(names))))
            for index, name in enumerate(names):
                stack, _, number = name.rpartition(".")
                if not number.isdigit():
                    if len(kept_indices) < len(names):
                        raise RecipeError(
                            f"student.keep: {module} cannot be cut because its layer {name} is not in a numbered stack"
                        )
                    continue
                self.origins.setdefault(stack, [])
                if index in kept_indices:
                    self.origins[stack].append(int(number))

    def source(self, name: str, available: Iterable[str]) -> str:
        """Return the name of a student's tensor in the model it is cut from.

        A tensor that only one layer has (T5 has its position biases in the first) keeps its name.

        Args:
            name: The tensor's name in the student.
            available: The tensor names of the model it is cut from.
        """
        for stack, numbers in self.origins.items():
            match = re.match(rf"{re.escape(stack)}\.(\d+)\.", name)
            if match:
                candidate = f"{stack}.{numbers[int(match[1])]}.{name[match.end() :]}"
                return candidate if candidate in available else name
        return name
