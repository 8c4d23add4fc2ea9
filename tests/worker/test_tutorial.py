"""The page docs/bring-your-own-model.md works as it stands.

Its files are written out and run, its recipes pass the dry run, and a real job distils one of them.
"""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch import ROOT
from tests.ranks import RankProcesses
from worker import job
from worker.cli import parse
from worker.engine.process_group import ProcessGroup
from worker.recipe.recipe import read_recipe
from worker.setup.build import build
from worker.setup.dry_run import report
from worker.setup.models import load_models

pytestmark = pytest.mark.deepspeed

TUTORIAL = ROOT / "docs" / "bring-your-own-model.md"
BLOCK = re.compile(r"^```(?:python|yaml)\n# (\S+\.(?:py|yaml))\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILES = dict(BLOCK.findall(TUTORIAL.read_text(encoding="utf-8")))
RECIPES = [name for name in FILES if name.endswith(".yaml")]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The reader's directory, with a trained teacher in it; the current one."""
    place = tmp_path_factory.mktemp("tutorial")
    for name, content in FILES.items():
        (place / name).write_text(content, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.syspath_prepend(str(place))
        runpy.run_path("train_teacher.py")
        runpy.run_path("make_models.py")
        yield place
    for name in [name for name in sys.modules if f"{name}.py" in FILES]:
        del sys.modules[name]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_of_the_tutorial_trains_what_it_says(process_group: ProcessGroup, here: Path, name: str) -> None:
    """As ``--dry-run`` does."""
    recipe = read_recipe(here / name, {})
    models = load_models(recipe)
    components = build(recipe, models, process_group)
    text = report(models, components.dry_run.check_arms(repeats=0))
    for arm in models.arms:
        assert f"arm {arm}\n" in text
    assert ("on the teacher's boundary tensors" in text) == (recipe.train == "forced")


def test_the_tutorials_first_step_prints_the_modules(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job.run(parse(["--recipe", "reader.yaml", "--list-modules"]))
    output = capsys.readouterr().out
    assert re.search(r"^mind\.0 … 1 +2 × TransformerEncoderLayer", output, re.MULTILINE)


def test_the_tutorials_student_is_distilled_by_a_real_job_and_loads_by_itself(here: Path, address: str) -> None:
    process = RankProcesses(
        str(ROOT / "worker" / "train.py"),
        "--bandit-addr", address, "--recipe", "forced.yaml", "--output-dir", "out",
        log=here / "log", directory=here, environment={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.wait(280) == 0, process.log_text
    summary = json.loads((here / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["rounds"] == 6
    assert summary["teacher_accuracy"] > 0.8
    assert summary["loss_end"] < summary["loss_start"]
    runpy.run_path("load_student.py")
