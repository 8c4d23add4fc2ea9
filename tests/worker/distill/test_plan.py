"""The plan of a round, by mode and arm."""

import pytest

from worker.distill.plan import Planner
from worker.models.open_clip.coca import CoCaAdapter

ALL = ("image", "text", "multimodal")


def planner(mode: str) -> Planner:
    return Planner(CoCaAdapter.modules, "multimodal", mode)  # type: ignore[arg-type]


@pytest.mark.parametrize("tower", ["image", "text"])
def test_forced_tower_round_touches_nothing_but_that_tower(tower: str) -> None:
    plan = planner("forced").arm([tower])
    assert plan.forced
    assert plan.trained == plan.student == plan.teacher == plan.layers == (tower,)
    assert not plan.task
    assert not plan.logits


def test_forced_decoder_round_runs_the_teachers_towers_but_not_the_students() -> None:
    plan = planner("forced").arm(["multimodal"])
    assert plan.student == plan.trained == ("multimodal",)
    assert plan.teacher == ALL
    assert plan.task
    assert plan.logits


def test_active_trains_the_arm_alone_on_the_students_own_inputs() -> None:
    plan = planner("active").arm(["text"])
    assert not plan.forced
    assert plan.trained == plan.layers == ("text",)
    assert plan.student == ALL
    assert plan.task
    assert plan.logits


def test_all_moves_everything_and_lets_the_arm_choose_the_layer_terms() -> None:
    plan = planner("all").arm(["image"])
    assert plan.trained == ALL
    assert plan.layers == ("image",)
    assert plan.task


@pytest.mark.parametrize("mode", ["forced", "active", "all"])
def test_joint_is_layerwise_distillation_in_every_mode(mode: str) -> None:
    plan = planner(mode).joint()
    assert plan.trained == plan.layers == plan.student == plan.teacher == ALL
    assert not plan.forced
    assert plan.task
    assert plan.logits


def test_modules_of_an_arm_are_run_in_the_models_order() -> None:
    assert planner("forced").arm(["multimodal", "image"]).student == ("image", "multimodal")
