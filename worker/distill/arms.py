"""Arms and modules: which module owns which parameter, and which layers are compared."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from worker.errors import RecipeError
from worker.models.base import Patterns
from worker.models.paths import parameters_of

JOINT = "joint"
"""The reserved arm: all modules together."""


@dataclass(frozen=True)
class Ownership:
    """Which module owns which parameter.

    Attributes:
        owned: Parameter names by module, in the model's order.
        unowned: Names of parameters that belong to no module; they stay as they are.
        tied: The other modules that a parameter is part of too, by its name.
    """

    owned: Mapping[str, tuple[str, ...]]
    unowned: tuple[str, ...]
    tied: Mapping[str, tuple[str, ...]]

    def readers(self, module: str) -> set[str]:
        """The other modules that read parameters which this module owns."""
        return {other for name in self.owned[module] for other in self.tied.get(name, ())}


def ownership(model: nn.Module, paths: Mapping[str, Patterns]) -> Ownership:
    """Give every parameter at most one owner.

    A tied parameter, reachable under several modules, belongs to the first module listed.

    Args:
        model: The student.
        paths: What each module owns, by the module's name: see ``worker.models.base.ModuleSpec``.
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
    """Which teacher layer each student layer is compared with.

    By default layer i of s is compared with layer (i + 1) · t / s - 1 of t, rounded down: the last with the last.

    Args:
        student: Names of the student's layers, in order.
        teacher: Names of the teacher's layers, in order.
        chosen: Index of the teacher's layer for every student layer, instead of the default.

    Raises:
        RecipeError: The chosen indices do not fit.
    """
    s, t = len(student), len(teacher)
    if chosen is None:
        if s > t:
            raise RecipeError(f"the student has {s} layers and its teacher only {t}: name the pairs in `layer_map`")
        chosen = [(i + 1) * t // s - 1 for i in range(s)]
    if len(chosen) != s:
        raise RecipeError(f"`layer_map` names {len(chosen)} teacher layers for {s} student layers")
    outside = [i for i in chosen if not 0 <= i < t]
    if outside:
        raise RecipeError(f"`layer_map` names teacher layer {outside[0]}, which is not between 0 and {t - 1}")
    return [(name, teacher[i]) for name, i in zip(student, chosen, strict=True)]


def check_trainable(arms: Mapping[str, Sequence[str]], owned: Ownership) -> None:
    """Raise RecipeError if an arm has nothing to train."""
    for arm, members in arms.items():
        if not any(owned.owned[module] for module in members):
            raise RecipeError(
                f"arm {arm!r} owns no parameter: all that {', '.join(members)} has is shared with modules listed "
                "before; leave the arm out"
            )


def arm_faults(arms: Mapping[str, Sequence[str]], modules: Iterable[str]) -> Iterator[tuple[str, str]]:
    """What is wrong with arms that should be non-empty sets of known modules: each arm's name, and a sentence."""
    known = list(modules)
    for arm, members in arms.items():
        if not members:
            yield arm, f"arm {arm!r} has no modules; give it at least one of {', '.join(known)}"
        for member in members:
            if member not in known:
                near = difflib.get_close_matches(member, known, n=1, cutoff=0.0)
                hint = f"did you mean {near[0]!r}? " if near else ""
                yield (
                    arm,
                    f"arm {arm!r} names the module {member!r}, which the model does not have; "
                    f"{hint}The modules are {', '.join(known)}",
                )
        if arm == JOINT and set(members) != set(known):
            yield arm, f"the arm named {JOINT!r} is reserved for all modules together"
