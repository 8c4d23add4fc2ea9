"""The text of ``--list-modules``: a model's PyTorch modules, and a ready ``modules:`` block for a recipe.

Layers of a stack that are built alike share one line, and what is inside them is listed once:

    eyes.0 … 3              4 × TransformerEncoderLayer        2,224 each
      eyes.*.self_attn      MultiheadAttention                 1,088
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import yaml
from torch import nn

from worker.errors import RecipeError
from worker.models.base import Adapter, patterns
from worker.models.paths import check_owned, layer_names
from worker.models.stacks import find_modules, is_list, with_the_rest


def list_modules(model: nn.Module) -> str:
    """Return the modules and the parameters by themselves: dotted path, class or shape, and number of parameters."""
    rows = list(_rows(model, "", 0))
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
    lines = [f"{path:{widths[0]}}  {kind:{widths[1]}}  {count}" for path, kind, count in rows]
    return "\n".join(line.rstrip() for line in lines)


def _rows(module: nn.Module, path: str, depth: int) -> Iterator[tuple[str, str, str]]:
    """Yield (path, class, number of parameters) for everything within a module."""
    indent = "  " * depth
    if any(True for _ in module.children()):
        for name, parameter in module.named_parameters(recurse=False):
            yield f"{indent}{_join(path, name)}", f"Parameter {list(parameter.shape)}", f"{parameter.numel():,}"
    for run in _runs(module):
        first, last = run[0], run[-1]
        each = f"{_count(first[1]):,}"
        if len(run) == 1:
            yield f"{indent}{_join(path, first[0])}", type(first[1]).__name__, each
            inside = _join(path, first[0])
        else:
            place = f"{indent}{_join(path, first[0])} … {last[0]}"
            yield place, f"{len(run)} × {type(first[1]).__name__}", f"{each} each"
            whole = len(run) == sum(1 for _ in module.children())
            inside = _join(path, "*" if whole else first[0])
        yield from _rows(first[1], inside, depth + (len(run) > 1))


def _runs(module: nn.Module) -> Iterator[list[tuple[str, nn.Module]]]:
    """Yield the children of a module; consecutive layers of a stack that are built alike together."""
    children = list(module.named_children())
    if not is_list(module):
        yield from ([child] for child in children)
        return
    for _, run in groupby(children, key=lambda child: _signature(child[1])):
        yield list(run)


def _signature(module: nn.Module) -> tuple[Any, ...]:
    kinds = tuple((name, type(inside).__name__) for name, inside in module.named_modules())
    return kinds, tuple((name, tuple(parameter.shape)) for name, parameter in module.named_parameters())


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


@dataclass(frozen=True)
class Listed:
    """A model whose modules are proposed for a recipe.

    Attributes:
        model: The model; its tensors are not read.
        adapter: Its family's adapter.
    """

    model: nn.Module
    adapter: Adapter

    @property
    def modules(self) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
        """The family's modules, or those found from the model's stacks: (paths, layers) by name."""
        if self.known:
            known = {each.name: (patterns(each.path), patterns(each.layers)) for each in self.adapter.modules}
            return with_the_rest(self.model, known)
        return find_modules(self.model)

    @property
    def known(self) -> bool:
        """Whether the family knows the model's modules."""
        try:
            layer_names(self.model, self.adapter)
            for module in self.adapter.modules:
                check_owned(self.model, module.path)
        except RecipeError:
            return False
        return bool(self.adapter.modules)


def modules_block(teacher: Listed, student: Listed | None = None) -> str:
    """Return a ``modules:`` block that is valid in a recipe of these models.

    Args:
        teacher: The teacher.
        student: The student, if it is another model and not cut from the teacher.
    """
    known = "OPTIMA's own modules for this model" if teacher.known else "one module for each stack or tower"
    entries: dict[str, dict[str, Any]] = {}
    theirs = teacher.modules
    ours = theirs if student is None else student.modules
    if not theirs:
        return f"# a {type(teacher.model).__name__} has no PyTorch modules inside that could be compared"
    if len(ours) != len(theirs):
        # Nothing says which module of one is which of the other.
        return f"# the teacher's modules; the student's are others: {', '.join(ours)}\n" + modules_block(teacher)
    for (name, (path, layers)), (teacher_path, teacher_layers) in zip(ours.items(), theirs.values(), strict=True):
        entry: dict[str, Any] = {"path": _flat(path), "layers": _flat(layers)}
        if teacher_path != path:
            entry["teacher_path"] = _flat(teacher_path)
        if teacher_layers != layers:
            entry["teacher_layers"] = _flat(teacher_layers)
        entries[name] = entry
    return f"# {known}; paste them into a recipe to change them:\n" + _yaml({"modules": entries})


def _flat(globs: Sequence[str]) -> str | list[str]:
    return globs[0] if len(globs) == 1 else list(globs)


class _Dumper(yaml.SafeDumper):
    """Writes lists in one line."""


_Dumper.add_representer(
    list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)
)


def _yaml(content: Mapping[str, Any]) -> str:
    text: str = yaml.dump(content, Dumper=_Dumper, default_flow_style=False, sort_keys=False, width=110)
    return text.rstrip()
