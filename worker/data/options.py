"""Options of a data module: typed, with all faults in one sentence."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

Options = TypeVar("Options", bound=BaseModel)


def parse_options(kind: type[Options], options: Mapping[str, Any], name: str) -> Options:
    """Parse the options of a data module.

    Args:
        kind: The model of the options.
        options: As the recipe has them.
        name: The data module's name, for the message.

    Raises:
        ValueError: An option is unknown or has a wrong value; the message names every such option, and all known ones.
    """
    try:
        return kind(**options)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        known = ", ".join(kind.model_fields)
        raise ValueError(f"wrong options for the {name} data: {faults}; the options are {known}") from None
