"""An output directory keeps who the worker is, and lets one process in at a time."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch import ROOT
from worker.errors import WorkerError
from worker.output_dir import Workplace, kept_recipe
from worker.recipe import recipe as recipes

RECIPE = recipes.read(recipes.BUILT_IN, {"rounds": 7, "policy": {"name": "round_robin"}})


def begin(directory: Path) -> Workplace:
    """A new worker's directory, left again as a process that ends leaves it."""
    script = (
        "import sys; from pathlib import Path; from worker import recipe; from worker.output_dir import Workplace;"
        "chosen = recipe.read(recipe.BUILT_IN, {'rounds': 7, 'policy': {'name': 'round_robin'}});"
        "Workplace.new(Path(sys.argv[1]), 'r', chosen, joined=True)"
    )
    subprocess.run([sys.executable, "-c", script, str(directory)], cwd=ROOT, check=True)
    return Workplace.again(directory)


def test_a_resumed_worker_is_the_same_worker_in_the_same_run_with_the_same_recipe(tmp_path: Path) -> None:
    place = begin(tmp_path / "out")
    assert place.worker == (tmp_path / "out" / "worker-id").read_text().strip()
    assert re.fullmatch("[0-9a-f]{16}", place.worker)
    assert (place.run, place.joined, place.found) == ("r", True, None)
    again = kept_recipe(tmp_path / "out")
    assert again == RECIPE
    assert again.directory == recipes.BUILT_IN.parent, "relative paths still start at the recipe's own folder"


def test_a_directory_is_one_workers_and_one_processes(tmp_path: Path) -> None:
    place = Workplace.new(tmp_path / "out", "r", RECIPE, joined=False)
    with pytest.raises(WorkerError, match=r"already holds a worker's output; .* --resume "):
        Workplace.new(tmp_path / "out", "s", RECIPE, joined=False)
    with pytest.raises(WorkerError, match="another process is at work in"):
        Workplace.again(place.directory)


def content(directory: Path) -> dict[str, bytes | None]:
    """Every file of a directory with what is in it, and every folder."""
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
    with pytest.raises(WorkerError, match=r"already holds .*choose one that is empty or not there yet"):
        Workplace.new(tmp_path, "r", RECIPE, joined=False)
    assert content(tmp_path) == before


def test_a_start_that_came_to_nothing_leaves_what_was_there_before_it(tmp_path: Path) -> None:
    Workplace.new(tmp_path / "new", "r", RECIPE, joined=False).clear()
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    Workplace.new(tmp_path / "empty", "r", RECIPE, joined=False).clear()
    assert content(tmp_path / "empty") == {}
    (tmp_path / "known").mkdir()
    (tmp_path / "known" / "worker-id").write_text("site-7\n")
    place = Workplace.new(tmp_path / "known", "r", RECIPE, joined=False)
    assert place.worker == "site-7"
    # What has come since is not ours either.
    (tmp_path / "known" / "notes.txt").write_text("mine")
    place.clear()
    assert content(tmp_path / "known") == {"worker-id": b"site-7\n", "notes.txt": b"mine"}


def test_a_resumed_start_that_came_to_nothing_takes_nothing_away(tmp_path: Path) -> None:
    place = begin(tmp_path / "out")
    before = content(tmp_path / "out")
    place.clear()
    assert content(tmp_path / "out") == before


def test_a_file_that_is_no_workers_id_is_nobodys_id(tmp_path: Path) -> None:
    (tmp_path / "worker-id").write_text("a list of\nworkers")
    with pytest.raises(WorkerError, match=r"worker-id holds no worker's id \(1 to 64 of the characters"):
        Workplace.new(tmp_path, "r", RECIPE, joined=False)
    assert content(tmp_path) == {"worker-id": b"a list of\nworkers"}


def test_nothing_is_resumed_from_a_users_own_recipe(tmp_path: Path) -> None:
    recipes.write(RECIPE, tmp_path / "recipe.yaml")
    before = content(tmp_path)
    for look in (kept_recipe, Workplace.again):
        with pytest.raises(WorkerError, match="holds no worker's output: there is nothing to resume"):
            look(tmp_path)
    assert content(tmp_path) == before


def test_where_there_is_nothing_to_resume_a_sentence_says_so(tmp_path: Path) -> None:
    for look in (kept_recipe, Workplace.again):
        with pytest.raises(WorkerError, match="holds no worker's output: there is nothing to resume"):
            look(tmp_path)
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(WorkerError, match=r"has ended, and its student is there; nothing is left to resume"):
        Workplace.again(tmp_path)
