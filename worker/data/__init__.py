"""Data modules by name, or by the import path of a user's own: ``package.module:factory``."""

import inspect
from collections.abc import Mapping
from typing import Any

from worker.data.base import Batch, Context, DataModule, DataModuleFactory, Inputs, Judged, Measured, Rows, Stream
from worker.data.digits.dataset import build_digits
from worker.data.shuffled import Shuffled
from worker.data.tasks.coco_captions import build_coco_captions
from worker.data.tasks.nlvr2 import build_nlvr2
from worker.data.tasks.snli_ve import build_snli_ve
from worker.data.tasks.vqa_v2 import build_vqa_v2
from worker.data.text import build_text
from worker.data.webdataset import build_webdataset
from worker.imports import import_by_path
from worker.names import suggest

__all__ = [
    "DATA_MODULES",
    "Batch",
    "Context",
    "DataModule",
    "DataModuleFactory",
    "Inputs",
    "Judged",
    "Measured",
    "Rows",
    "Shuffled",
    "Stream",
    "build",
]

DATA_MODULES: dict[str, DataModuleFactory] = {
    "digits": build_digits,
    "webdataset": build_webdataset,
    "text": build_text,
    "vqa_v2": build_vqa_v2,
    "snli_ve": build_snli_ve,
    "nlvr2": build_nlvr2,
    "coco_captions": build_coco_captions,
}


def build(name: str, options: Mapping[str, Any] | None = None, context: Context | None = None) -> DataModule:
    """Build a data module.

    Args:
        name: The name of a built-in one, or ``package.module:factory``.
        options: Its options.
        context: Passed to factories that take two arguments.

    Raises:
        ValueError: The name or an option is unknown, or a value is out of range; the message says which.
        RecipeError: There is no such factory.
    """
    factory = import_by_path(name, "a data module's factory") if ":" in name else DATA_MODULES.get(name)
    if factory is None:
        raise ValueError(f"there is no data module {name!r}{suggest(name, DATA_MODULES, 'data modules')}")
    arguments = (options or {}, context)
    return factory(*arguments[: len(inspect.signature(factory).parameters)])
