"""An output directory keeps who the worker is, and lets one process in at a time."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch import ROOT
from worker import recipe as recipes
from worker.errors import WorkerError
from worker.workplace import Workplace, kept_recipe

RECIPE = recipes.read(recipes.BUILT_IN, {"rounds": 7, "policy": {"name": "round_robin"}})


def begin(directory: Path) -> Workplace:
    """A new worker's directory, left again as a process that ends leaves it."""
    script = (
        "import sys; from pathlib import Path; from worker import recipe; from worker.workplace import Workplace;"
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


def test_where_there_is_nothing_to_resume_a_sentence_says_so(tmp_path: Path) -> None:
    for look in (kept_recipe, Workplace.again):
        with pytest.raises(WorkerError, match="holds no worker's output: there is nothing to resume"):
            look(tmp_path)
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(WorkerError, match=r"has ended, and its student is there; nothing is left to resume"):
        Workplace.again(tmp_path)
