"""The files that prepare a model's inputs: tokenizers, processors and chat templates, from a directory or the hub."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HFValidationError
from transformers.utils import CONFIG_NAME
from transformers.utils.hub import cached_file

from worker.models.folders import weight_files

_PREPARATION = re.compile(
    r"^[\w+-]*(tokenizer|tokens|tokens_map|vocab|merges|normalizer|processor|preprocessor|extractor|chat_template|"
    r"word_shape|word_pronunciation|emoji|byte_maps)[\w+-]*\.(json|txt|model|tsv)$"
    r"|^(preprocessor_config\.json|dict\.txt)$|\.(spm|jinja|tiktoken|bpe|codes|model|tokenizer)$"
)
"""Names of the files of every tokenizer and processor of transformers."""


def list_files(place: str, within: Mapping[str, str]) -> list[str]:
    """List the files of a directory, or of a repository on the hub, or of its cache if the hub cannot be reached."""
    folder = Path(place)
    if not folder.is_dir():
        revision, subfolder = within.get("revision"), within.get("subfolder", "")
        try:
            names = huggingface_hub.list_repo_files(place, revision=revision)
            return sorted(name.removeprefix(f"{subfolder}/") for name in names)
        except HFValidationError:
            # Neither a directory nor an id.
            return []
        except Exception:
            # The hub cannot be reached, for whatever reason.
            config = str(Path(subfolder) / CONFIG_NAME)
            cached = huggingface_hub.try_to_load_from_cache(place, config, revision=revision)
        if not isinstance(cached, str):
            return []
        folder = Path(cached).parent
    return sorted(path.name for path in folder.iterdir())


def preparation_files(place: str, within: Mapping[str, str]) -> dict[str, Path]:
    """Return the files that prepare a model's inputs, by name: those with the usual names, and those they refer to.

    Args:
        place: The model's directory, or its id on the hub; its files are downloaded into the cache.
        within: Its place in a repository on the hub.
    """
    available = [name for name in list_files(place, within) if "/" not in name]
    names = {name for name in available if _PREPARATION.search(name)}
    paths = {name: path for name in sorted(names) if (path := _fetch(place, name, within)) is not None}
    for name in _referred(paths.get("tokenizer_config.json")) & set(available) - names:
        path = _fetch(place, name, within)
        if path is not None:
            paths[name] = path
    weights = {name for folder in {path.parent for path in paths.values()} for name in weight_files(folder)}
    return {name: path for name, path in paths.items() if name not in weights and not path.is_dir()}


def _fetch(place: str, name: str, within: Mapping[str, str]) -> Path | None:
    if Path(place).is_dir():
        return Path(place) / name
    path = cached_file(
        place,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **within,
    )
    return None if path is None else Path(path)


def _referred(file: Path | None) -> set[str]:
    """Return the names of the files that a tokenizer's configuration names, as ``vocab_file`` and similar entries."""
    if file is None:
        return set()
    with suppress(ValueError, OSError):
        entries = json.loads(file.read_text(encoding="utf-8"))
        return {
            Path(value).name
            for key, value in entries.items()
            if isinstance(value, str) and re.search(r"(_file|^spm|^vocab|_spm)$", key)
        }
    return set()
