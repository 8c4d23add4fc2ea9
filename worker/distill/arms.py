"""Arms and modules: the owner of each parameter, and the pairs of layers that are compared."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from worker.errors import RecipeError
from worker.models.base import Patterns
from worker.models.paths import parameters_of
from worker.names import suggest

JOINT = "joint"
"""The reserved arm: all modules together."""


@dataclass(frozen=True)
class Ownership:
    """The owner of each parameter.

    Attributes:
        owned: Parameter names by module, in the model's order.
        unowned: Names of parameters that belong to no module; they are never trained.
        tied: The other modules that a parameter also belongs to, by its name.
    """

    owned: Mapping[str, tuple[str, ...]]
    unowned: tuple[str, ...]
    tied: Mapping[str, tuple[str, ...]]

    def readers(self, module: str) -> set[str]:
        """Return the other modules that use parameters of this module."""
        return {other for name in self.owned[module] for other in self.tied.get(name, ())}


def ownership(model: nn.Module, paths: Mapping[str, Patterns]) -> Ownership:
    """Assign every parameter to at most one module.

    A tied parameter, which several modules contain, belongs to the first of them.

    Args:
        model: The student.
        paths: ``ModuleSpec.path`` by module.
    """
    owned: dict[str, list[str]] = {name: [] for name in paths}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    members: dict[str, list[str]] = {}
    for module, path in paths.items():
        for name in dict.fromkeys(names[id(parameter)] for parameter in parameters_of(model, path)):
            if name not in members:
                owned[module].append(name)
            members.setdefault(name, []).append(module)
    return Ownership(
        owned={module: tuple(parameters) for module, parameters in owned.items()},
        unowned=tuple(name for name in names.values() if name not in members),
        tied={name: tuple(modules[1:]) for name, modules in members.items() if len(modules) > 1},
    )


def layer_pairs(
    student: Sequence[str], teacher: Sequence[str], chosen: Sequence[int] | None = None
) -> list[tuple[str, str]]:
    """Pair each student layer with the teacher layer that it is compared with.

    By default layer i of s is compared with layer (i + 1) · t / s - 1 of t, rounded down: the last with the last.

    Args:
        student: Names of the student's layers, in order.
        teacher: Names of the teacher's layers, in order.
        chosen: Index of the teacher's layer for every student layer, instead of the default.

    Returns:
        (student layer, teacher layer), in the student's order.

    Raises:
        RecipeError: The number of indices is wrong, or one is out of range.
    """
    s, t = len(student), len(teacher)
    if chosen is None:
        if s > t:
            raise RecipeError(f"the student has {s} layers but its teacher only {t}; name the pairs in `layer_map`")
        chosen = [(i + 1) * t // s - 1 for i in range(s)]
    if len(chosen) != s:
        raise RecipeError(f"`layer_map` names {len(chosen)} teacher layers; expected {s}, one for each student layer")
    outside = [i for i in chosen if not 0 <= i < t]
    if outside:
        raise RecipeError(f"`layer_map` names teacher layer {outside[0]}; expected 0 to {t - 1}")
    return [(name, teacher[i]) for name, i in zip(student, chosen, strict=True)]


def check_trainable(arms: Mapping[str, Sequence[str]], owned: Ownership) -> None:
    """Raise RecipeError if an arm has nothing to train."""
    for arm, members in arms.items():
        if not any(owned.owned[module] for module in members):
            raise RecipeError(
                f"arm {arm!r} has nothing to train: all parameters of {', '.join(members)} belong to modules listed "
                "before; remove the arm"
            )


def arm_faults(arms: Mapping[str, Sequence[str]], modules: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield (arm, message) for each fault in arms, which must be non-empty sets of known modules."""
    known = list(modules)
    for arm, members in arms.items():
        if not members:
            yield arm, f"arm {arm!r} has no modules; add at least one of {', '.join(known)}"
        for member in members:
            if member not in known:
                hint = suggest(member, known, "modules")
                yield arm, f"arm {arm!r} names the module {member!r}, which the model does not have{hint}"
        if arm == JOINT and set(members) != set(known):
            yield (
                arm,
                f"the arm name {JOINT!r} is reserved for all modules together; rename the arm",
            )
