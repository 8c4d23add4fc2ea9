"""The import path of the worker's entry (docs/architecture.md, "The worker"); in real jobs: tests/integration/."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tests.launch import ROOT

ENTRY = ROOT / "worker" / "train.py"
PACKAGES = Path(click.__file__).parents[1]


def entered(directory: Path, code: str = "") -> subprocess.CompletedProcess[str]:
    """Run the entry in a directory as the launcher does, then some code in the same interpreter.

    Without .pth files: those of an editable install of this checkout would make it importable from anywhere.
    """
    (directory / "started.py").write_text(
        f"import runpy, sys\nsys.argv = [{str(ENTRY)!r}]\nsys.path[0] = {str(ENTRY.parent)!r}\n"
        f"runpy.run_path({str(ENTRY)!r}, run_name='entry')\n{code}\n",
        encoding="utf-8",
    )
    return subprocess.run(
        [sys.executable, "-S", "started.py"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{PACKAGES}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_current_directory_takes_the_place_of_the_workers_own_folder(tmp_path: Path) -> None:
    code = (
        "assert sys.path.count(%r) == 1 and sys.path[0] == %r, sys.path\n"
        % ((str(tmp_path),) * 2)
        + f"assert {str(ENTRY.parent)!r} not in sys.path\nassert {str(ROOT)!r} in sys.path\n"
        "import json, models; assert models.OWNER == 'the user'"
    )
    (tmp_path / "models.py").write_text("OWNER = 'the user'\n", encoding="utf-8")
    done = entered(tmp_path, code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["protos", "worker"])
def test_a_module_that_hides_ours_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    done = entered(tmp_path)
    assert done.returncode == 1
    assert f"error: No module named '{name}." in done.stderr
    assert f"a module of the same name in {tmp_path} hides it" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_no_package_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "protos").mkdir()
    done = entered(tmp_path)
    assert done.returncode == 0, done.stderr
