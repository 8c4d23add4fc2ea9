"""Out comes a student: files that what it came from loads by itself, nothing of ours inside."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

STUDENT_FILE = "student.safetensors"


def check_names(state: Mapping[str, Tensor], expected: Iterable[str]) -> None:
    """Raise ValueError unless these are the names of the model's tensors: something of ours would be among them."""
    strays = sorted(set(expected) ^ set(state))
    if strays:
        names = ", ".join(strays[:5])
        raise ValueError(f"the student's tensors are not those of its configuration; they differ in {names}")


def write_tensors(state: Mapping[str, Tensor], target: Path) -> None:
    """A safetensors file; it appears whole or not at all."""
    # Copies: safetensors refuses tensors that share memory.
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}
    replace(target, lambda path: save_file(tensors, path, metadata={"format": "pt"}))


def replace(target: Path, write: Callable[[Path], object]) -> None:
    """Write beside ``target``, then rename: a reader sees the old file or the new one, never half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
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


def replace_all(directory: Path, write: Callable[[Path], object]) -> None:
    """Put the files that ``write`` makes in a directory of its own into this one, each whole; weights come last."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".export-") as name:
        write(Path(name))
        made = sorted(Path(name).iterdir(), key=lambda path: path.suffix == ".safetensors")
        for file in made:
            replace(directory / file.name, lambda path, file=file: shutil.copyfile(file, path))  # type: ignore[misc]
