"""Which layers a student keeps that is cut from its teacher, and what its tensors were called there."""

import re
from collections.abc import Iterable, Mapping, Sequence

from worker.errors import RecipeError


def layers_to_keep(teacher: int, student: int) -> list[int]:
    """Which of the teacher's layers a student of so many layers keeps, in order.

    Layer i of s is the teacher's layer (i + 1) · t / s - 1, rounded down: the very layer it will be matched
    with. The last one is always kept.
    """
    return [(i + 1) * teacher // student - 1 for i in range(student)]


def check_keep(keep: Mapping[str, int], layers: Mapping[str, int], kind: str) -> None:
    """Raise RecipeError unless ``keep`` asks for layers that are there.

    Args:
        keep: As in the recipe.
        layers: How many there are, by module.
        kind: What has these modules.
    """
    for module, count in keep.items():
        if module not in layers:
            raise RecipeError(f"keep names {module!r}; the modules of a {kind} are {', '.join(layers)}")
        if not 1 <= count <= layers[module]:
            raise RecipeError(f"keep asks for {count} layers of {module}; expected 1 to {layers[module]}")


class LayerSelection:
    """Layers taken out of stacks, and the names that follow from it.

    Args:
        layers: Names of each module's layers in the model that is cut, in order. Several modules may share a stack.
        keep: How many to keep of a module, by its name; all of what is not named.

    Attributes:
        origins: For every stack, by the name of its module, the numbers of the layers that are kept, in order.
    """

    def __init__(self, layers: Mapping[str, Sequence[str]], keep: Mapping[str, int]) -> None:
        self.origins: dict[str, list[int]] = {}
        for module, names in layers.items():
            kept = set(layers_to_keep(len(names), keep.get(module, len(names))))
            for index, name in enumerate(names):
                stack, _, number = name.rpartition(".")
                if not number.isdigit():
                    if len(kept) < len(names):
                        raise RecipeError(
                            f"student.keep: {module} cannot be cut: its layer {name} is not one of a numbered stack"
                        )
                    continue
                self.origins.setdefault(stack, [])
                if index in kept:
                    self.origins[stack].append(int(number))

    def source(self, name: str, there: Iterable[str]) -> str:
        """What a tensor of the student is called in the model it is cut from.

        What only one layer has (T5 keeps its position biases in its first) is taken from where it is.
        """
        for stack, numbers in self.origins.items():
            found = re.match(rf"{re.escape(stack)}\.(\d+)\.", name)
            if found:
                candidate = f"{stack}.{numbers[int(found[1])]}.{name[found.end() :]}"
                return candidate if candidate in there else name
        return name
