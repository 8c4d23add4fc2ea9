"""Out comes a student: files that what it came from loads by itself, nothing of ours inside."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from worker.files import replace

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
