"""Messages about a faulty recipe, one line per error: the field's line and path, the error, and the nearest name."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from worker.names import nearest, suggest

FieldPath = tuple[str, ...]


@dataclass
class FieldLines:
    """The line of every field in a YAML file.

    Attributes:
        lines: Line numbers, from 1, by the field's path. The path of a list's item ends in its index.
        duplicates: A message for each field that the file sets twice.
    """

    # Recipes are equal wherever their fields stand.
    lines: dict[FieldPath, int] = field(default_factory=dict, compare=False)
    duplicates: list[str] = field(default_factory=list, compare=False)

    @classmethod
    def from_yaml(cls, text: str) -> FieldLines:
        """Find the fields of a YAML text.

        Raises:
            yaml.YAMLError: The text is not YAML.
        """
        fields = cls()
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None:
            fields._add_node(root, ())
        return fields

    def locate(self, path: Sequence[int | str]) -> str:
        """Return a field's line and dotted path; for a field that is not in the file, the line of its section."""
        names = tuple(map(str, path))
        dotted = ".".join(names) or "recipe"
        line = self.line(names)
        return f"line {line}: {dotted}" if line else dotted

    def line(self, path: FieldPath) -> int:
        """Return the line of a field or of the nearest section around it; 0 if neither is in the file."""
        return next((self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), 0)

    def _add_node(self, node: yaml.Node, path: FieldPath) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner = (*path, str(key.value))
                line = key.start_mark.line + 1
                if inner in self.lines:
                    first = self.lines[inner]
                    self.duplicates.append(f"line {line}: {'.'.join(inner)}: set twice, first in line {first}")
                self.lines[inner] = line
                self._add_node(value, inner)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self.lines[*path, str(index)] = value.start_mark.line + 1
                self._add_node(value, (*path, str(index)))


def validation_messages(error: ValidationError, model: type[BaseModel], fields: FieldLines) -> Iterator[str]:
    """Yield one line for each field with an error; the errors of a field's alternative types share a line.

    Args:
        error: The error that pydantic raised.
        model: The model that it validated.
        fields: The lines of the file's fields.
    """
    messages: dict[FieldPath, list[str]] = {}
    intended: set[FieldPath] = set()
    for one in error.errors():
        path, section, unions = _resolve(model, one["loc"])
        messages.setdefault(path, []).append(_message(one, section))
        # An error inside one alternative shows that this one was intended.
        intended |= {union for union in unions if len(union) < len(path)}
    messages = {path: sentences for path, sentences in messages.items() if path not in intended}
    for path, sentences in sorted(messages.items(), key=lambda one: fields.line(one[0])):
        yield f"{fields.locate(path)}: {', or '.join(dict.fromkeys(sentences))}"


def _message(error: Any, section: type[BaseModel] | None) -> str:
    if error["type"] == "extra_forbidden" and section is not None:
        known = [name for name in section.model_fields if name != "directory"]
        return f"unknown field{suggest(str(error['loc'][-1]), known, 'fields')}"
    message = re.sub(r"^Value error, ", "", error["msg"])
    value = error.get("input")
    hint = ""
    if error["type"] == "literal_error":
        # The message itself lists all values.
        hint = nearest(str(value), re.findall(r"'([^']+)'", message))
    shown = f" (got {value!r}{hint})" if isinstance(value, str | int | float | bool) else ""
    return f"{message[0].lower()}{message[1:]}{shown}"


def _resolve(
    model: type[BaseModel], location: Sequence[int | str]
) -> tuple[FieldPath, type[BaseModel] | None, list[FieldPath]]:
    """Resolve the location of a pydantic error.

    Returns:
        The field's path in the file, without the names that pydantic adds for alternative types; the section that holds
        the field; and the paths of the fields on the way that have alternative types.
    """
    path: list[str] = []
    unions: list[FieldPath] = []
    annotation: Any = model
    section: type[BaseModel] | None = None
    for piece in location:
        kinds = list(_alternatives(annotation))
        if len(kinds) > 1:
            unions.append(tuple(path))
            name = str(piece).partition("[")[0]
            annotation = next((kind for kind in kinds if _type_name(kind) == name), None)
            continue
        if piece == "[key]":
            break
        path.append(str(piece))
        kind = kinds[0] if kinds else None
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            section = kind
            model_field = kind.model_fields.get(str(piece))
            annotation = model_field.annotation if model_field else None
        else:
            annotation = (get_args(kind) or (None,))[-1]
    return tuple(path), section, unions


def _alternatives(annotation: Any) -> Iterator[Any]:
    """Yield the types that a field may have, without None."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        for argument in get_args(annotation):
            yield from _alternatives(argument)
    elif get_origin(annotation) is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif annotation is not type(None):
        yield annotation


def _type_name(kind: Any) -> str:
    """Return pydantic's name of an alternative type in an error's location, without what is in brackets."""
    return str(getattr(get_origin(kind) or kind, "__name__", kind))
