"""A data module's own options: typed, and every fault of them in one sentence."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

Options = TypeVar("Options", bound=BaseModel)


def checked(kind: type[Options], options: Mapping[str, Any], name: str) -> Options:
    """The options as values of their kind. Raises ValueError naming every wrong one, and those there are."""
    try:
        return kind(**options)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        known = ", ".join(kind.model_fields)
        raise ValueError(f"wrong options for the {name} data: {faults}; the options are {known}") from None
