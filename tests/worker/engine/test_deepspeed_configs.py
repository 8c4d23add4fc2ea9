"""The DeepSpeed configurations that come with OPTIMA: a student trains under each of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from tests.launch import ROOT
from tests.worker.jobs.tiny_coca import batch, coca
from worker.data.webdataset import WebDatasetOptions
from worker.distill.arms import layer_pairs, ownership
from worker.distill.modular import ModularModel
from worker.distill.objective import LossWeights, Objective
from worker.distill.plan import Planner
from worker.distill.student import Student
from worker.distill.teacher import Teacher
from worker.engine.engine import Engine
from worker.engine.optimizer import OptimizerRecipe
from worker.engine.process_group import ProcessGroup
from worker.errors import RecipeError
from worker.models.open_clip.coca import CoCaAdapter
from worker.recipe.recipe import Recipe, read_recipe

CONFIGURATIONS = sorted((ROOT / "deploy" / "deepspeed").glob("*.json"))


def _recipe(directory: Path, deepspeed: object) -> Recipe:
    content = {"teacher": {"model": "open_clip:x"}, "student": {"keep": {}}, "data": {"name": "digits"}}
    (directory / "recipe.yaml").write_text(yaml.safe_dump(content | {"deepspeed": deepspeed}), encoding="utf-8")
    return read_recipe(directory / "recipe.yaml", {})


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=[path.stem for path in CONFIGURATIONS])
def test_a_student_trains_under_every_configuration(path: Path, tmp_path: Path, process_group: ProcessGroup) -> None:
    config = _recipe(tmp_path, str(path)).deepspeed
    adapter = CoCaAdapter()
    student, teacher = (ModularModel(coca(seed), adapter, {}) for seed in (2, 1))
    pairs = {
        module.name: layer_pairs(student.layers[module.name], teacher.layers[module.name]) for module in adapter.modules
    }
    owned = ownership(student.model, {module.name: module.path for module in adapter.modules}).owned
    wrapped = Student(student, Objective(adapter, pairs, LossWeights()))
    engine = Engine(wrapped, wrapped.owned(owned), OptimizerRecipe(lr=1e-2, warmup_steps=0), config, micro_batch=4)
    engine.schedule.total_steps = 100
    assert engine.dtype == torch.bfloat16
    frozen = Teacher(teacher, process_group.device, engine.dtype)
    plan = Planner(adapter.modules, "multimodal", "forced").arm(["image"])
    engine.activate(plan.trained)
    data = engine.to_device(batch(0))
    losses = [float(engine.step([(data, frozen.run(plan.teacher, data))], plan)[0]) for _ in range(4)]
    assert losses[-1] < losses[0]
    stage = 0 if path.stem == "autocast" else int(path.stem[-1])
    assert engine._engine.zero_optimization_stage() == stage


def test_the_recipe_for_gpus_reads_its_configuration() -> None:
    recipe = read_recipe(ROOT / "deploy" / "recipes" / "coca-shards.yaml", {})
    assert recipe.deepspeed["torch_autocast"]["enabled"]
    assert WebDatasetOptions(**recipe.data.options).augment


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"deepspeed: the file .*own.json cannot be read: No such file"),
        ("{", r"deepspeed: the file .*own.json is not JSON"),
        ('{"optimizer": {}}', r"deepspeed: optimizer follows from the recipe's own fields"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_one_sentence(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "own.json").write_text(content, encoding="utf-8")
    with pytest.raises(RecipeError, match=message):
        _recipe(tmp_path, "own.json")
