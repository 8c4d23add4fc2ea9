"""The weights of a model of transformers, as ``from_pretrained`` finds them in a directory or on the hub."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME
from transformers.utils.peft_utils import find_adapter_config_file

from worker.errors import RecipeError
from worker.models.folders import join_names, weight_files
from worker.models.hf.preparation import list_files
from worker.models.hf.shorten import sections

log = logging.getLogger(__name__)

WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
"""Names of the weight files that transformers loads, in its order; a variant's name goes before the last dot."""


def load_own_weights(
    kind: Any, place: str, config: Any, variant: str | None, within: Mapping[str, str]
) -> tuple[Any, str | None]:
    """Load a model with the weights that transformers finds for a directory or id; return it and their variant.

    If all weights are of one variant, that one is loaded.
    """
    try:
        return _pretrained(kind, place, config, variant, within), variant
    except OSError:
        files = list_files(place, within)
        variants = _variants(files)
        if variant is not None or not variants or any(name in files for name in WEIGHTS):
            raise
        if len(variants) > 1:
            raise RecipeError(
                f"{place} has weights only in several variants ({', '.join(variants)}); choose one of them: "
                f"`options: {{variant: {variants[0]}}}`"
            ) from None
        log.warning("%s has weights only in the variant %s, which is loaded", place, variants[0])
        return _pretrained(kind, place, config, variants[0], within), variants[0]


def _pretrained(kind: Any, place: str, config: Any, variant: str | None, within: Mapping[str, str]) -> Any:
    model, loading_info = kind.from_pretrained(
        place, config=config, variant=variant, dtype=torch.float32, output_loading_info=True, **within
    )
    check_loaded(loading_info, place)
    return model


def _variants(files: Iterable[str]) -> list[str]:
    """Return the variants of weights among file names: ``fp16`` for ``model.fp16.safetensors``."""
    variants = set()
    for file in files:
        for name in WEIGHTS:
            stem, _, ending = name.rpartition(".")
            named = re.fullmatch(rf"{re.escape(stem)}\.([^.]+)\.{ending}", file)
            if named and named[1] != "index" and not re.search(r"-\d{5}-of-\d{5}$", named[1]):
                variants.add(named[1])
    return sorted(variants)


def is_adapter(place: str, within: Mapping[str, Any]) -> bool:
    """Return whether a directory or repository holds an adapter of peft instead of a whole model."""
    try:
        return find_adapter_config_file(place, **within) is not None
    except OSError:
        # There is no such model; loading its configuration reports that.
        return False


def weights_hint(place: str, within: Mapping[str, str]) -> str:
    """Return which other weights there are, for the end of a message."""
    files = list_files(place, within)
    if any(name in files for name in WEIGHTS):
        return ""
    variants = _variants(files)
    if variants:
        return f"; its variants are {', '.join(variants)}; choose one: `options: {{variant: {variants[0]}}}`"
    weights = weight_files(Path(place)) if Path(place).is_dir() else []
    return f"; it has the files {join_names(weights)}. Name one of them as `checkpoint`" if weights else ""


def build(kind: Any, config: Any) -> Any:
    """Build a model with fresh weights, in fp32: the configuration may name the type of other weights."""
    return kind._from_config(config, dtype=torch.float32) if hasattr(kind, "_from_config") else kind(config)


def state_dtype(config: Any, dtype: torch.dtype = torch.float32) -> None:
    """Let a configuration and all those inside it name the type of the weights: it is the type they are loaded in."""
    for _, section in sections(config):
        if getattr(section, "dtype", None) is not None:
            section.dtype = dtype


def check_loaded(loading_info: Mapping[str, Any], place: str) -> None:
    """Raise RecipeError if tensors are missing or do not fit, and log unused ones."""
    faults = [
        f"{fault.replace('_', ' ')}: {', '.join(sorted(map(str, names))[:5])}"
        for fault, names in loading_info.items()
        if names and fault in ("missing_keys", "mismatched_keys")
    ]
    if faults:
        raise RecipeError(f"the weights of {place} do not fit the model: {'; '.join(faults)}")
    unused = sorted(map(str, loading_info.get("unexpected_keys") or ()))
    if unused:
        log.warning("%s has tensors that the model does not use: %s", place, join_names(unused))


@contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars and reports about what was asked for."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(logging.ERROR)
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()  # type: ignore[no-untyped-call]
