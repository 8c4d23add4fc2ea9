"""The files that go with a model's weights: tokenizers, processors, chat templates, code, further modules.

Everything in the model's directory, or its repository on the hub, goes along, because no list of names can know what a
tokenizer, a processor or a model's own code reads. Left out is what the student has of its own (configuration and
weights), what is about the teacher as a publication or a training run, and folders that hold weights: another format
of the same model, or another model. Only the folders that ``modules.json`` of sentence-transformers names belong to
the model with their weights.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import huggingface_hub
from huggingface_hub.errors import HFValidationError
from huggingface_hub.hf_api import RepoFile
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME
from transformers.utils.hub import cached_file
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME

from worker.models.folders import is_weights

log = logging.getLogger(__name__)

LARGEST = 2**27
"""Bytes of the largest file that goes along; the largest tokenizers have a quarter of it. A larger file is data, or
weights in a format that is not known here."""
SENTENCE_MODULES = "modules.json"
"""The list of a sentence-transformers model's modules; the folder of each is its ``path``."""

_OWN = {CONFIG_NAME, GENERATION_CONFIG_NAME, ADAPTER_CONFIG_NAME}
_NOT_OF_THE_MODEL = re.compile(
    r"^(README|\.)"
    r"|^(training_args|optimizer|scheduler|scaler|rng_state|trainer_state|events\.out)\b"
    r"|^(all|train|eval|test|predict)_results\.(json|txt)$"
    # The files of a job: the student of one may be the teacher of the next.
    r"|^(worker-id|run\.json|recipe\.yaml|summary\.json|metrics\.jsonl|bandit-journal\.jsonl)$"
    r"|\.(png|jpe?g|gif|webp|svg|mp[34]|mov|webm|wav|flac|ogg|pdf|zip|tar|t?gz|bz2|xz|zst|log|pyc)$",
    re.IGNORECASE,
)
"""Names of files about a publication or a training run; pictures, sound and archives."""
_FOLDERS_OF_JOBS = {"checkpoints", "tracking", "runs", "wandb", "__pycache__"}


def list_files(place: str, within: Mapping[str, str]) -> dict[str, int]:
    """Return the size in bytes of each file of a model, by its path in the directory or repository.

    Args:
        place: The model's directory, or its id on the hub; if the hub cannot be reached, its cache is listed.
        within: Its place in a repository on the hub.
    """
    folder = Path(place)
    if not folder.is_dir():
        revision, subfolder = within.get("revision"), within.get("subfolder", "").strip("/")
        try:
            tree = huggingface_hub.list_repo_tree(place, subfolder or None, recursive=True, revision=revision)
            entries = [entry for entry in tree if isinstance(entry, RepoFile)]
            return {str(PurePosixPath(entry.path).relative_to(subfolder)): entry.size for entry in entries}
        except HFValidationError:
            # Neither a directory nor an id.
            return {}
        except Exception:
            # The hub cannot be reached, for whatever reason.
            config = str(Path(subfolder) / CONFIG_NAME)
            cached = huggingface_hub.try_to_load_from_cache(place, config, revision=revision)
        if not isinstance(cached, str):
            return {}
        folder = Path(cached).parent
    sizes = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(parent, name) for name in sorted(names)):
            if path.is_file():
                sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
    return sizes


def preparation_files(place: str, within: Mapping[str, str]) -> dict[str, Path]:
    """Return the files that go with a model's weights, by their path in its directory.

    Args:
        place: The model's directory, or its id on the hub; its files are downloaded into the cache.
        within: Its place in a repository on the hub.
    """
    sizes = list_files(place, within)
    modules = _sentence_modules(place, within) if SENTENCE_MODULES in sizes else set()
    others = {PurePosixPath(name).parts[0] for name in sizes if "/" in name and is_weights(name)} - modules
    paths = {}
    for name, size in sizes.items():
        first, *rest = PurePosixPath(name).parts
        if first not in modules and (
            _NOT_OF_THE_MODEL.search(PurePosixPath(name).name)
            or (first in others | _FOLDERS_OF_JOBS if rest else first in _OWN or is_weights(first))
        ):
            continue
        if first not in modules and size > LARGEST:
            log.warning("%s of %s is not exported with the student: it is too large (%d MB)", name, place, size >> 20)
            continue
        path = _fetch(place, name, within)
        if path is not None:
            paths[name] = path
    return paths


def _sentence_modules(place: str, within: Mapping[str, str]) -> set[str]:
    """Return the folders of the modules that sentence-transformers runs after the model."""
    path = _fetch(place, SENTENCE_MODULES, within)
    try:
        modules = json.loads(path.read_text(encoding="utf-8")) if path is not None else []
        return {PurePosixPath(module["path"]).parts[0] for module in modules if module["path"]}
    except (ValueError, KeyError, TypeError):
        # Another program's file of this name.
        return set()


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
