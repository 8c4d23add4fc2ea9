"""What is wrong with a recipe, a line for each fault: where it stands in the file, what it is, and the nearest name."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

Path = tuple[str, ...]


@dataclass
class Places:
    """Where the fields of a YAML file stand.

    Attributes:
        lines: Line numbers, from 1, by dotted path in pieces; those of list items under their index.
        repeated: A sentence for each field that is given twice.
    """

    # Recipes are equal wherever their fields stand.
    lines: dict[Path, int] = field(default_factory=dict, compare=False)
    repeated: list[str] = field(default_factory=list, compare=False)

    @classmethod
    def of(cls, text: str) -> Places:
        """Raises yaml.YAMLError."""
        places = cls()
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None:
            places._walk(root, ())
        return places

    def at(self, where: Sequence[int | str]) -> str:
        """A field's line and dotted path; of a field that is not there, the line of what it belongs to."""
        path = tuple(map(str, where))
        dotted = ".".join(path) or "recipe"
        line = self.line(path)
        return f"line {line}: {dotted}" if line else dotted

    def line(self, path: Path) -> int:
        """The line alone; 0 for what is in the file nowhere."""
        return next((self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), 0)

    def _walk(self, node: yaml.Node, path: Path) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                place = (*path, str(key.value))
                line = key.start_mark.line + 1
                if place in self.lines:
                    first = self.lines[place]
                    self.repeated.append(f"line {line}: {'.'.join(place)}: given twice; the first is in line {first}")
                self.lines[place] = line
                self._walk(value, place)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self.lines[*path, str(index)] = value.start_mark.line + 1
                self._walk(value, (*path, str(index)))


def faults(error: ValidationError, model: type[BaseModel], places: Places) -> Iterator[str]:
    """A line for each fault that pydantic has found; what the alternatives of one field say of it is one."""
    told: dict[Path, list[str]] = {}
    chosen: set[Path] = set()
    for one in error.errors():
        where, section, forks = _resolved(model, one["loc"])
        told.setdefault(where, []).append(_sentence(one, section))
        # A fault inside one alternative shows that this one was meant.
        chosen |= {fork for fork in forks if len(fork) < len(where)}
    told = {where: sentences for where, sentences in told.items() if where not in chosen}
    for where, sentences in sorted(told.items(), key=lambda one: places.line(one[0])):
        yield f"{places.at(where)}: {', or '.join(dict.fromkeys(sentences))}"


def _sentence(error: Any, section: type[BaseModel] | None) -> str:
    if error["type"] == "extra_forbidden" and section is not None:
        known = [name for name in section.model_fields if name != "directory"]
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        return (
            f"unknown field; did you mean {near[0]!r}?" if near else f"unknown field; the fields are {', '.join(known)}"
        )
    message = re.sub(r"^Value error, ", "", error["msg"])
    given = error.get("input")
    near = difflib.get_close_matches(str(given), re.findall(r"'([^']+)'", message), n=1)
    hint = f"; did you mean {near[0]!r}?" if near and error["type"] == "literal_error" else ""
    shown = f" (got {given!r}{hint})" if isinstance(given, str | int | float | bool) else ""
    return f"{message[0].lower()}{message[1:]}{shown}"


def _resolved(model: type[BaseModel], location: Sequence[int | str]) -> tuple[Path, type[BaseModel] | None, list[Path]]:
    """A fault's path in the file, without the names that pydantic gives to a field's alternatives; the section that
    holds it; and the paths of the fields on the way that have alternatives."""
    path: list[str] = []
    forks: list[Path] = []
    annotation: Any = model
    section: type[BaseModel] | None = None
    for piece in location:
        kinds = list(_alternatives(annotation))
        if len(kinds) > 1:
            forks.append(tuple(path))
            name = str(piece).partition("[")[0]
            annotation = next((kind for kind in kinds if _name(kind) == name), None)
            continue
        if piece == "[key]":
            break
        path.append(str(piece))
        kind = kinds[0] if kinds else None
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            section = kind
            found = kind.model_fields.get(str(piece))
            annotation = found.annotation if found else None
        else:
            annotation = (get_args(kind) or (None,))[-1]
    return tuple(path), section, forks


def _alternatives(annotation: Any) -> Iterator[Any]:
    """What a field may be, None aside."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        for argument in get_args(annotation):
            yield from _alternatives(argument)
    elif get_origin(annotation) is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif annotation is not type(None):
        yield annotation


def _name(kind: Any) -> str:
    """What pydantic calls an alternative in a fault's location, without what is in brackets."""
    return str(getattr(get_origin(kind) or kind, "__name__", kind))
