"""An output directory keeps the worker's identity, and lets one process in at a time."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch import ROOT
from worker.errors import WorkerError
from worker.output_dir import OutputDir, read_saved_recipe
from worker.recipe.recipe import BUILT_IN, read_recipe, write_recipe

RECIPE = read_recipe(BUILT_IN, {"rounds": 7, "policy": {"name": "round_robin"}})


def begin(directory: Path) -> OutputDir:
    """Create a new worker's directory in a process of its own, and reopen it here."""
    script = (
        "import sys; from pathlib import Path; from worker.output_dir import OutputDir;"
        "from worker.recipe.recipe import BUILT_IN, read_recipe;"
        "chosen = read_recipe(BUILT_IN, {'rounds': 7, 'policy': {'name': 'round_robin'}});"
        "OutputDir.create_new(Path(sys.argv[1]), 'r', chosen, joined=True)"
    )
    subprocess.run([sys.executable, "-c", script, str(directory)], cwd=ROOT, check=True)
    return OutputDir.reopen(directory)


def test_a_resumed_worker_is_the_same_worker_in_the_same_run_with_the_same_recipe(tmp_path: Path) -> None:
    place = begin(tmp_path / "out")
    assert place.worker == (tmp_path / "out" / "worker-id").read_text().strip()
    assert re.fullmatch("[0-9a-f]{16}", place.worker)
    assert (place.run, place.joined, place.checkpoint) == ("r", True, None)
    place.journal.close()
    saved = read_saved_recipe(tmp_path / "out")
    assert saved == RECIPE
    assert saved.directory == BUILT_IN.parent, "relative paths still start at the recipe's own folder"


def test_a_directory_is_one_workers_and_one_processes(tmp_path: Path) -> None:
    place = OutputDir.create_new(tmp_path / "out", "r", RECIPE, joined=False)
    with pytest.raises(WorkerError, match=r"already holds a worker's output; .* --resume "):
        OutputDir.create_new(tmp_path / "out", "s", RECIPE, joined=False)
    with pytest.raises(WorkerError, match="another process is using"):
        OutputDir.reopen(place.directory)
    place.journal.close()


def content(directory: Path) -> dict[str, bytes | None]:
    """Return every file of a directory with its content, and every folder with None."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
    }


@pytest.mark.parametrize(
    "name", ["recipe.yaml", "run.json", "notes.txt", "config.json", ".hidden", "checkpoints/mine", "tracking/csv/mine"]
)
def test_a_directory_with_something_of_a_users_is_refused_and_left_as_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    before = content(tmp_path)
    with pytest.raises(WorkerError, match=r"already holds .*choose one that is empty or does not exist"):
        OutputDir.create_new(tmp_path, "r", RECIPE, joined=False)
    assert content(tmp_path) == before


def remove_unused(place: OutputDir) -> None:
    place.journal.close()
    place.remove_unused()


def test_a_start_that_came_to_nothing_leaves_what_was_there_before_it(tmp_path: Path) -> None:
    remove_unused(OutputDir.create_new(tmp_path / "new", "r", RECIPE, joined=False))
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    remove_unused(OutputDir.create_new(tmp_path / "empty", "r", RECIPE, joined=False))
    assert content(tmp_path / "empty") == {}
    (tmp_path / "known").mkdir()
    (tmp_path / "known" / "worker-id").write_text("site-7\n")
    place = OutputDir.create_new(tmp_path / "known", "r", RECIPE, joined=False)
    assert place.worker == "site-7"
    # Files that others have added are kept too.
    (tmp_path / "known" / "notes.txt").write_text("mine")
    remove_unused(place)
    assert content(tmp_path / "known") == {"worker-id": b"site-7\n", "notes.txt": b"mine"}


def test_a_resumed_start_that_came_to_nothing_takes_nothing_away(tmp_path: Path) -> None:
    place = begin(tmp_path / "out")
    before = content(tmp_path / "out")
    remove_unused(place)
    assert content(tmp_path / "out") == before


def test_a_file_that_is_no_workers_id_is_nobodys_id(tmp_path: Path) -> None:
    (tmp_path / "worker-id").write_text("a list of\nworkers")
    with pytest.raises(WorkerError, match=r"worker-id does not hold a worker's id \(1 to 64 of the characters"):
        OutputDir.create_new(tmp_path, "r", RECIPE, joined=False)
    assert content(tmp_path) == {"worker-id": b"a list of\nworkers"}


def test_nothing_is_resumed_from_a_users_own_recipe(tmp_path: Path) -> None:
    write_recipe(RECIPE, tmp_path / "recipe.yaml")
    before = content(tmp_path)
    for look in (read_saved_recipe, OutputDir.reopen):
        with pytest.raises(WorkerError, match="is not a worker's output directory: there is nothing to resume"):
            look(tmp_path)
    assert content(tmp_path) == before


def test_where_there_is_nothing_to_resume_a_sentence_says_so(tmp_path: Path) -> None:
    for look in (read_saved_recipe, OutputDir.reopen):
        with pytest.raises(WorkerError, match="is not a worker's output directory: there is nothing to resume"):
            look(tmp_path)
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(WorkerError, match=r"has ended and its student is there; there is nothing to resume"):
        OutputDir.reopen(tmp_path)
