"""Reports on the study's records, and the choice of what it runs; nothing is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.quality import report
from benchmarks.quality.grid import METHODS, Cell, cells, tuned
from benchmarks.quality.plot import plot
from benchmarks.quality.records import Records
from benchmarks.quality.tasks import BLOCKS, TASKS, build
from benchmarks.quality.thresholds import summary
from benchmarks.quality.trace import METHOD, traces
from tests.benchmarks.command import benchmark
from worker.data.digits.rows import sources

PROBLEM = "questions/uneven/little"


def record(loss: float, right: int) -> dict[str, Any]:
    """Return a run's record: the loss falls linearly from 2 to `loss` within 40 seconds."""
    at = {cost: 2 + (loss - 2) * cost / 40 for cost in (0.0, 5.0, 10.0, 20.0, 30.0, 40.0)}
    results = [
        {"cost": cost, "loss": [at[cost]] * BLOCKS, "right": [right] * BLOCKS, "items": 100}
        for cost in (10.0, 20.0, 40.0)
    ]
    curve = [[cost, high, right / 100] for cost, high in at.items()]
    return {"curve": curve, "results": results, "arms": "itmj", "rewards": [], "teacher": 0.97, "cpu_seconds": 1.0}


def study(problem: str = PROBLEM, budget: float = 12.0, **methods: tuple[float, int]) -> dict[Cell, dict[str, Any]]:
    """Return the records of two seeds of each of these methods."""
    ends = {name.replace("_", " "): end for name, end in methods.items()}
    return {cell: record(*ends[cell.method]) for cell in cells([problem], list(ends), (300, 301), budget, tuned({}))}


def test_the_quick_study_fails_unless_optima_has_the_lowest_loss(tmp_path: Path) -> None:
    assert not report.not_best(study(joint=(1.0, 80), round_robin=(0.9, 80), optima=(0.8, 80)))
    assert "round robin" in report.not_best(study(joint=(1.0, 80), round_robin=(0.8, 80), optima=(0.8, 80)))
    assert "joint" in report.not_best(study(joint=(0.5, 80), round_robin=(0.9, 80), optima=(0.8, 80)))
    records = Records(tmp_path / "q.json")
    for cell, run in study(joint=(0.5, 80), round_robin=(0.9, 80), optima=(0.8, 80)).items():
        records.write("runs", cell.name, run)
    output = benchmark("quality", "--quick", "--report", "--json", str(tmp_path / "q.json"), status=1)
    assert "optima is not below that of joint" in output


def test_a_report_has_every_methods_results_and_what_each_part_of_the_gain_is_due_to() -> None:
    tables = report.tables(study(joint=(1.0, 80), round_robin=(0.6, 82), optima=(0.5, 85)))
    assert "| joint | 80.0% / 1.750 | 80.0% / 1.500 | 80.0% / 1.000 | 1.00 |" in tables
    # From 2 to 0.5 in 40 s: at 1.0 after two thirds.
    assert "| optima | 85.0% / 1.625 | 85.0% / 1.250 | 85.0% / 0.500 | 0.67 |" in tables
    assert "| the bandit | optima − round robin | +3.0 (+3.0 to +3.0) | -0.100 (-0.100 to -0.100) | 2 |" in tables
    assert "the tail" not in tables, "what was not run is not compared"


def test_the_summary_has_a_row_for_each_recipe() -> None:
    runs = study(budget=24.0, joint=(1.0, 80), round_robin=(0.6, 82), optima=(0.2, 85))
    sooner = study(budget=14.4, optima=(0.9, 81))
    worse = study("captions/uneven/plenty", budget=24.0, joint=(0.5, 80), round_robin=(0.4, 80), optima=(0.6, 79))
    text = summary(runs | sooner | worse | study(joint=(1.0, 80), round_robin=(0.9, 80), optima=(0.8, 80)))
    ours = "-0.100 (-0.100 to -0.100) | 0.56 | +5.0 (+5.0 to +5.0) | -0.400 (-0.400 to -0.400)"
    assert f"| {PROBLEM} | 2 | – | {ours} |" in text
    assert "| captions/uneven/plenty | 2 | – | – | not always reached | -1.0 (-1.0 to -1.0) | +0.200" in text
    assert "Of 2 recipes, optima reaches joint's final loss with 0.6 of joint's budget on 1;" in text
    assert not summary(study(joint=(1.0, 80), optima=(0.8, 80))), "another budget is no row"


def test_the_cost_to_reach_a_loss_is_read_between_results() -> None:
    results = [{"cost": cost, "loss": [loss, loss]} for cost, loss in ((10.0, 1.0), (20.0, 0.5), (40.0, 0.3))]
    assert report.reach(results, 0.75) == 15.0
    assert report.reach(results, 1.5) == 10.0
    assert report.reach(results, 0.2) is None


def test_an_interrupted_study_goes_on_with_what_is_missing_and_names_runs_by_all_that_matters() -> None:
    names = [cell.name for cell in cells([PROBLEM], list(METHODS), (200, 201), 40.0, tuned({}))]
    names += [cell.name for cell in cells([PROBLEM], list(METHODS), (200,), 20.0, tuned({}))]
    assert len(set(names)) == len(names) == 3 * len(METHODS)
    assert [Cell.from_name(name).name for name in names] == names
    with pytest.raises(ValueError, match="is not a recipe of the study"):
        list(cells(["questions/uneven"], ["joint"], (1,), 1.0, tuned({})))
    with pytest.raises(ValueError, match="no method 'best'"):
        list(cells([PROBLEM], ["best"], (1,), 1.0, tuned({})))


def test_each_method_is_run_with_what_was_best_on_the_tuning_seeds_and_on_no_others() -> None:
    tried = {(0.001, 1.0, 100): 60, (0.003, 1.0, 100): 70, (0.003, 1.0, 101): 70, (0.003, 3.0, 200): 90}
    task, student, amount = PROBLEM.split("/")
    runs = {
        Cell(task, student, amount, "round robin", seed, 40.0, lr, weight).name: record(1.0, right)
        for (lr, weight, seed), right in tried.items()
    }
    settings = tuned(runs)
    assert settings[student, "round robin"] == settings[student, "uniform"] == (0.003, 1.0)
    assert settings[student, "joint"] == tuned({})[student, "joint"]
    assert settings["vlm", "round robin"] == tuned({})["vlm", "round robin"], "which is tuned for itself"


def test_every_method_makes_a_recipe() -> None:
    for cell in cells([PROBLEM], list(METHODS), (200,), 40.0, tuned({})):
        assert cell.recipe().seed == 200


def test_the_llava_has_a_recipe_tasks_and_arms_of_its_own() -> None:
    problem = "questions/vlm/little"
    methods = [name for name, method in METHODS.items() if not method.shares]
    for cell in cells([problem], methods, (200,), 40.0, tuned({})):
        recipe = cell.recipe()
        assert recipe.name == "digits-vlm"
        batch = build(recipe.data.options).blocks[0].batch(np.arange(4))
        assert {"pixel_values", "input_ids", "labels"} < batch.keys()
    with pytest.raises(ValueError, match="'image only' has other arms than questions/vlm/little"):
        list(cells([problem], ["image only"], (200,), 40.0, tuned({})))
    with pytest.raises(ValueError, match="was not trained for two_pictures"):
        list(cells(["two_pictures/vlm/little"], ["joint"], (200,), 40.0, tuned({})))
    played = {
        cell: record(1.0, 80) | {"arms": "iilmuj"} for cell in cells([problem], ["optima"], (200,), 12.0, tuned({}))
    }
    assert "image 33%, lower 17%, middle 17%, upper 17%, joint 17%" in report.tables(played)


@pytest.mark.parametrize("task", TASKS)
def test_who_trains_who_chooses_and_who_judges_see_other_source_digits(task: str) -> None:
    data, other = (build({"task": task, "seed": seed, "source_digits": 150}) for seed in (200, 201))
    judged = [set(block.scans.tolist()) for block in data.blocks]
    assert sum(map(len, judged)) == len(set.union(*judged)) == 300
    probed, trained = set(data.held_out.scans.tolist()), set(data.train.scans.tolist())
    assert not probed & set.union(*judged)
    assert len(trained) == 150
    assert trained <= set(sources(train=True).tolist())
    assert trained != set(other.train.scans.tolist()), "little data is another little for every seed"
    batch = data.blocks[0].batch(sources(train=False)[:8] * 0)
    assert data.metric in data.metrics(batch["image"].new_zeros(8, 14, data.vocab_size), batch)


def test_rewards_of_arms_played_in_turn_become_a_trace() -> None:
    [cell] = cells([PROBLEM], [METHOD], [200], 48.0, tuned({}))
    played = record(1.0, 80) | {"arms": "itmitm", "rewards": [0.3, 0.2, 0.1, 0.03, 0.02, 0.01]}
    shorter = {cell.name.replace("48s", "24s"): played | {"arms": "itm", "rewards": [9.0, 9.0, 9.0]}}
    [(name, content)] = traces(
        {cell.name: played, **shorter, **{c.name: t for c, t in study(joint=(1.0, 80)).items()}}
    ).items()
    assert name == "study-questions-uneven-little"
    assert content["rewards"] == {"image": [0.3, 0.03], "text": [0.2, 0.02], "multimodal": [0.1, 0.01]}
    assert (content["seed"], content["about"]) == (200, f"The study's {PROBLEM}, 48 s, in turn and without a tail")


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    plot(study(joint=(1.0, 80), optima=(0.8, 90)), tmp_path / "q.png")
    assert (tmp_path / "q.png").read_bytes().startswith(b"\x89PNG")
