"""Files are replaced atomically, with the permissions that the umask gives."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from worker.files import replace, replace_text


@pytest.fixture
def group_readable() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_new_files_have_the_permissions_of_the_umask(tmp_path: Path, group_readable: None) -> None:
    replace_text(tmp_path / "text", "a")
    replace(tmp_path / "weights", lambda path: save_file({"a": torch.zeros(1)}, path))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"text": 0o640, "weights": 0o640}


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    replace_text(tmp_path / "text", "old")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        replace(tmp_path / "text", fail)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("text", "old")]
