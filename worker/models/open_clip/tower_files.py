"""Towers of timm and transformers that have no name, such as those with fewer layers than the named ones.

In open_clip's configuration such a tower is only a name, ``timm_model_name`` or ``hf_model_name``. Both libraries
accept the absolute path of a directory with a ``config.json`` in its place. An exported student has these directories
beside its configuration; while a model is loaded, its configuration has the contents of the files under `TOWERS`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worker.files import replace_text

TOWERS = "towers"
NAMES = {"vision_cfg": "timm_model_name", "text_cfg": "hf_model_name"}
"""The field that names another library's tower, by section."""
_PREFIXES = {"vision_cfg": "local-dir:", "text_cfg": ""}
_FOLDERS = {"vision_cfg": "image_tower", "text_cfg": "text_tower"}
_FILE = "config.json"


def write_towers(config: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Write the files of a model's towers and return the configuration that names them, which open_clip can read.

    Args:
        config: A ``model_cfg``, with or without `TOWERS`.
        directory: Where to write a folder for each tower.
    """
    written = copy.deepcopy(dict(config))
    for section, content in written.pop(TOWERS, {}).items():
        folder = directory.resolve() / _FOLDERS[section]
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / _FILE, json.dumps(content, indent=2) + "\n")
        written[section][NAMES[section]] = f"{_PREFIXES[section]}{folder}"
    return written


def read_towers(config: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Return a configuration with the contents of those files of its towers that lie beside it in a directory.

    So the directory may be moved, although open_clip itself needs the absolute path.
    """
    read = copy.deepcopy(dict(config))
    towers = {}
    for section, folder in _FOLDERS.items():
        name = str((read.get(section) or {}).get(NAMES[section]) or "")
        file = directory / folder / _FILE
        if Path(name.removeprefix(_PREFIXES[section])).name == folder and file.is_file():
            towers[section] = json.loads(file.read_text(encoding="utf-8"))
    return {**read, TOWERS: towers} if towers else read
