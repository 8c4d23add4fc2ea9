"""The modules of a model about which nothing is known but its structure: one for each stack of layers.

A *stack* is a list of PyTorch modules of one class, such as the blocks of a transformer. Its module is the largest
PyTorch module around it that holds no other stack, so that a tower owns its embedding and its final norm. A large
PyTorch module without a stack is a tower, too. Embeddings, and parameters by themselves, that are in no tower belong to
the next one in the model's order; all else, such as connectors, norms and heads, belongs to the one before it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from torch import nn

from worker.models.paths import owned_names, parameters_of

TOWER = 0.1
"""Share of the model's parameters from which a PyTorch module without a stack is a tower of its own."""
_PLAIN = re.compile(r"^(model|module|layers?|blocks?|resblocks|h)$")
"""Names that say nothing about a module."""
_LAST = re.compile(r"norm|head|proj|scale|bias|logit|out|classifier|pool")
"""Names of single parameters that are used after all layers."""

Found = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
"""The dotted globs of the modules or parameters that a module owns, and those of its layers, by its name."""


def is_list(module: nn.Module) -> bool:
    """Return whether a PyTorch module is a list of others: one of torch's, or one whose children are numbered."""
    names = [name for name, _ in module.named_children()]
    known = isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)
    return bool(names) and (known or all(name.isdigit() for name in names))


def find_modules(model: nn.Module) -> Found:
    """Return modules that together own every parameter of the model.

    Args:
        model: The model; its tensors are not read.

    Returns:
        Paths and layers by name; empty if the model has no PyTorch modules inside.
    """
    stacks = _stacks(model)
    layers = {_around(stack, stacks): f"{stack}.*" for stack in stacks}
    # The towers and everything outside of them, in the model's order.
    order = list(_largest(model, "", layers.keys()))
    total = _size(model)
    layers |= {path: path for path in order if path not in layers and _is_tower(model, path, TOWER * total)}
    # Neither stack nor tower: each child is a module.
    layers = layers or {path: path for path in order if _module(model, path) is not None}
    if not layers:
        return {}
    towers = [path for path in order if path in layers]
    owns: dict[str, list[str]] = {tower: [] for tower in towers}
    for index, path in enumerate(order):
        before = [other for other in order[:index] if other in layers]
        after = [other for other in order[index:] if other in layers]
        owns[_owner(_module(model, path), path, before, after)].append(path)
    found: Found = {}
    for tower, paths in owns.items():
        name = _name(tower or layers[tower], found)
        # The whole model has no path.
        found[name] = (tuple(paths) if tower else tuple(_children(model, "")), (layers[tower],))
    return found


def with_the_rest(model: nn.Module, found: Found) -> Found:
    """Return modules with all parameters of the model that none of them owns: with the first module, or the last."""
    paths = [glob for globs, _ in found.values() for glob in globs]
    owned = {id(parameter) for parameter in parameters_of(model, tuple(paths))}
    places = [name for path in paths for name in owned_names(model, path)]
    order = list(_largest(model, "", places))
    first = min((order.index(place) for place in places if place in order), default=0)
    names = list(found)
    rest: dict[str, list[str]] = {name: [] for name in names}
    for index, path in enumerate(order):
        module = _module(model, path)
        inside = model.get_parameter(path) if module is None else None
        parameters = [inside] if inside is not None else list(model.get_submodule(path).parameters())
        if path in places or all(id(parameter) in owned for parameter in parameters):
            continue
        is_last = bool(_LAST.search(path.rpartition(".")[2])) if module is None else index > first
        rest[names[-1] if is_last else names[0]].append(path)
    return {name: ((*globs, *rest[name]), layers) for name, (globs, layers) in found.items()}


def _owner(module: nn.Module | None, path: str, before: Sequence[str], after: Sequence[str]) -> str:
    """Return which tower owns something: one before it, or one from it on. A parameter by itself is no module."""
    if path in after:
        return path
    if module is None and _LAST.search(path.rpartition(".")[2]):
        return [*before, *after][-1]
    comes_first = module is None or isinstance(module, nn.Embedding) or not before
    return after[0] if comes_first and after else before[-1]


def _stacks(model: nn.Module) -> list[str]:
    """Return the names of the stacks that are in no other stack: of layers with parts, or else of any."""
    of_parts: list[str] = []
    of_any: list[str] = []
    for name, module in model.named_modules():
        layers = [layer for layer in module.children() if _size(layer)]
        if not (name and layers and is_list(module)):
            continue
        with_parts = [layer for layer in layers if any(True for _ in layer.children())]
        ((kind, alike),) = Counter(type(layer) for layer in layers).most_common(1)
        # A ModuleList may hold layers of several classes, and a Sequential a few others before and behind them.
        mostly = alike > 2 * len(layers) / 3 and not issubclass(kind, nn.Sequential)
        if len(with_parts) == len(layers) and (isinstance(module, nn.ModuleList) or (len(layers) > 1 and mostly)):
            of_parts.append(name)
        elif alike == len(list(module.children())) > 1:
            (of_parts if with_parts else of_any).append(name)
    stacks = of_parts or of_any
    return [name for name in stacks if not any(name.startswith(f"{other}.") for other in stacks)]


def _around(stack: str, stacks: Sequence[str]) -> str:
    """Return the largest PyTorch module that holds this stack and no other; "" for the model itself."""
    place = stack
    while place:
        parent = place.rpartition(".")[0]
        if sum(_holds(parent, other) for other in stacks) > 1:
            break
        place = parent
    return place


def _holds(path: str, other: str) -> bool:
    return not path or other == path or other.startswith(f"{path}.")


def _largest(model: nn.Module, path: str, towers: Collection[str]) -> Iterator[str]:
    """Yield the towers within a module, and the largest PyTorch modules and the single parameters outside of them."""
    for tower in towers:
        if _holds(path, tower) and tower != path:
            break
    else:
        if path or path in towers:
            yield path
            return
    for name in _children(model, path):
        yield from _largest(model, name, towers) if _module(model, name) is not None else [name]


def _children(model: nn.Module, path: str) -> Iterator[str]:
    """Yield the paths of the parameters directly in a module, and of its children that have any."""
    module = model.get_submodule(path)
    inside = [name for name, _ in module.named_parameters(recurse=False)]
    inside += [name for name, child in module.named_children() if any(True for _ in child.parameters())]
    yield from (f"{path}.{name}" if path else name for name in inside)


def _is_tower(model: nn.Module, path: str, smallest: float) -> bool:
    """Return whether a PyTorch module without a stack is large and has parts."""
    module = _module(model, path)
    return module is not None and any(True for _ in module.children()) and _size(module) >= smallest


def _module(model: nn.Module, path: str) -> nn.Module | None:
    """Return a PyTorch module by its path; None if the path is that of a parameter."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _name(path: str, taken: Found) -> str:
    """Return a name for the module at a path: the last component that says something, and the numbers after it."""
    components = path.removesuffix(".*").split(".")
    telling = [index for index, part in enumerate(components) if not (part.isdigit() or _PLAIN.match(part))]
    start = telling[-1] if telling else 0
    name = "_".join(part for part in components[start:] if part.isdigit() or part == components[start])
    if name in taken or name == "joint":
        name = "_".join(components)
    return name[-64:]
