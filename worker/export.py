"""Out comes a student: weights and configuration that open_clip loads by itself, nothing of ours inside."""

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from worker.models.open_clip_files import CONFIG_FILE, tensor_names, write_config

STUDENT_FILE = "student.safetensors"


def export(state: Mapping[str, Tensor], config: Mapping[str, Any], output_dir: Path) -> Path:
    """Write ``student.safetensors`` and ``open_clip_config.json`` into ``output_dir``.

    ``open_clip.create_model("local-dir:OUTPUT_DIR")`` gives the student back.

    Args:
        state: The student's tensors under open_clip's own names.
        config: Its open_clip ``model_cfg``.
        output_dir: Created if it is not there.

    Returns:
        The path of the weights.

    Raises:
        ValueError: The names are not those of the configured model: something of ours is left among them.
    """
    expected = tensor_names(config)
    if expected != set(state):
        names = ", ".join(sorted(expected ^ set(state))[:5])
        raise ValueError(f"the student's tensors are not those of its configuration; they differ in {names}")
    save(state, config, output_dir, weights=STUDENT_FILE)
    return output_dir / STUDENT_FILE


def save(state: Mapping[str, Tensor], config: Mapping[str, Any], output_dir: Path, *, weights: str) -> None:
    """Write weights and configuration; each file appears whole or not at all, the weights last."""
    output_dir.mkdir(parents=True, exist_ok=True)
    # Copies: safetensors refuses tensors that share memory.
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}
    _replace(output_dir / CONFIG_FILE, lambda path: write_config(config, path))
    _replace(output_dir / weights, lambda path: save_file(tensors, path, metadata={"format": "pt"}))


def _replace(target: Path, write: Callable[[Path], None]) -> None:
    """Write beside ``target``, then rename: a reader sees the old file or the new one, never half of it."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    path = Path(name)
    try:
        write(path)
        path.chmod(0o644)
        with path.open("rb") as written:
            os.fsync(written.fileno())
        path.replace(target)
    finally:
        path.unlink(missing_ok=True)
