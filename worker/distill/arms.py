"""Arms and modules: the owner of each parameter, and the pairs of layers that are compared."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
        frozen: Names of parameters that are in a module but frozen; no module owns them.
    """

    owned: Mapping[str, tuple[str, ...]]
    unowned: tuple[str, ...]
    tied: Mapping[str, tuple[str, ...]]
    frozen: tuple[str, ...] = ()

    def readers(self, module: str) -> set[str]:
        """Return the other modules that use parameters of this module."""
        return {other for name in self.owned[module] for other in self.tied.get(name, ())}


def ownership(model: nn.Module, paths: Mapping[str, Patterns], frozen: Collection[str] = ()) -> Ownership:
    """Assign every parameter to at most one module.

    A tied parameter, which several modules contain, belongs to the first of them.

    Args:
        model: The student.
        paths: ``ModuleSpec.path`` by module.
        frozen: Names of the parameters that are never trained.
    """
    owned: dict[str, list[str]] = {name: [] for name in paths}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    members: dict[str, list[str]] = {}
    for module, path in paths.items():
        for name in dict.fromkeys(names[id(parameter)] for parameter in parameters_of(model, path)):
            if name not in members and name not in frozen:
                owned[module].append(name)
            members.setdefault(name, []).append(module)
    return Ownership(
        owned={module: tuple(parameters) for module, parameters in owned.items()},
        unowned=tuple(name for name in names.values() if name not in members),
        tied={name: tuple(modules[1:]) for name, modules in members.items() if len(modules) > 1 and name not in frozen},
        frozen=tuple(name for name in names.values() if name in members and name in frozen),
    )


def frozen_parameters(model: nn.Module, globs: Sequence[str]) -> list[str]:
    """Return the names of the parameters that a model comes with as frozen, and of those that globs name.

    Args:
        model: The student, as its library or factory made it.
        globs: The recipe's ``student.freeze``.

    Raises:
        RecipeError: A glob matches neither a PyTorch module nor a parameter, or nothing that has parameters.
    """
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    for glob in globs:
        try:
            matching = {named[id(parameter)] for parameter in parameters_of(model, glob)}
        except RecipeError:
            known = [*(name for name, _ in model.named_modules() if name), *named.values()]
            hint = suggest(glob.replace("*", "0"), known, "modules and parameters", most=3)
            raise RecipeError(
                f"{glob!r} matches no module and no parameter of {type(model).__name__}{hint} (--list-modules prints "
                "all modules)"
            ) from None
        if not matching:
            raise RecipeError(f"{glob!r} matches no parameter: the modules it names have none; remove it")
        frozen |= matching
    return [name for name in named.values() if name in frozen]


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
            raise RecipeError(f"arm {arm!r} has nothing to train: {_why_nothing(members)}; remove the arm")


def _why_nothing(members: Sequence[str]) -> str:
    return (
        f"all parameters of {', '.join(members)} are frozen (see `student.freeze`) or belong to modules listed before"
    )


def default_arms(
    modules: Sequence[str], owned: Ownership, whole: Collection[str], named: Collection[str] = ()
) -> tuple[dict[str, list[str]], list[str]]:
    """Return an arm for each module that has something to train and to learn, and a sentence for each other module.

    The arms depend on the models alone, so all workers of a run come to the same ones.

    Args:
        modules: The names of all modules, in order.
        owned: Which module owns which parameter.
        whole: The modules whose own loss is 0 before training.
        named: The arms that the recipe names elsewhere, and that stay although their own loss is 0.

    Raises:
        RecipeError: No module has anything to train.
    """
    trainable = [module for module in modules if owned.owned[module]]
    if not trainable:
        raise RecipeError(f"the student has nothing to train: {_why_nothing(modules)}")
    arms = [module for module in trainable if module not in whole or module in named]
    if not arms:
        # A student that equals its teacher: its own losses are all it has.
        arms = trainable
    sentences = [
        f"no arm {module}: "
        + (
            "it is the teacher's, so its own loss is 0 before training, and only joint rounds train it; to train it "
            "by itself all the same, name the arm under `arms`"
            if module in trainable
            else _why_nothing([module])
        )
        for module in modules
        if module not in arms
    ]
    return {module: [module] for module in arms}, sentences


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
