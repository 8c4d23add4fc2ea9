"""One class of models through the whole job: loaded, cut, proved, trained, exported and loaded back."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from torch import Tensor

from benchmarks.quality.run import single_rank
from benchmarks.zoo.configs import CONFIGS, Tiny
from benchmarks.zoo.configs import build as build_model
from protos.optima.v1 import bandit_pb2 as pb
from worker.client.journal import Pull
from worker.distill.arms import JOINT
from worker.errors import WorkerError
from worker.recipe.recipe import Recipe
from worker.setup.build import build
from worker.setup.models import load_models
from worker.training.metrics import RoundRecord
from worker.training.trainer import Trainer

STAGES = ("modules", "cut", "forced", "joint", "export")
"""The stages of a trial, in order.

- ``modules``: those that are expected are found, and own every parameter.
- ``cut``: a student of fewer layers.
- ``forced``: every module computes the same among stand-ins, and each arm trains a round on the teacher's boundary
  tensors, which changes nothing outside of it.
- ``joint``: a round of all modules.
- ``export``: the student is written, and the library it came from loads the same tensors back."""


@dataclass
class Trial:
    """The outcome for one class.

    Attributes:
        name: Its name among the configurations.
        model: The class.
        modules: The modules found, each with its number of layers in the teacher and in the student.
        arms: The arms that trained.
        passed: The stages that it has passed.
        fault: Why it fell short of the next one; empty if it passed all.
        seconds: Seconds in all.
    """

    name: str
    model: str
    modules: dict[str, tuple[int, int]] = field(default_factory=dict)
    arms: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    fault: str = ""
    seconds: float = 0.0


class Turns:
    """A chooser that plays every arm once, then joint.

    Args:
        arms: The arms.
    """

    def __init__(self, arms: Sequence[str]) -> None:
        self._order = [*arms, JOINT]
        self.records: list[RoundRecord] = []

    def select(self, round: int) -> Pull | None:
        """Return the arm whose turn it is."""
        if round == len(self._order):
            return None
        arm = self._order[round]
        return Pull(arm, None, pb.CHOSEN_BY_TAIL if arm == JOINT else pb.CHOSEN_BY_POLICY)

    def report(self, pull: Pull, record: RoundRecord, *, last: bool) -> float | None:
        """Record a round."""
        self.records.append(record)
        return None


def run(name: str) -> Trial:
    """Try one class."""
    tiny = CONFIGS[name]
    trial = Trial(name, tiny.model)
    started = time.monotonic()
    try:
        with TemporaryDirectory(prefix="optima-zoo-") as directory:
            _run(name, tiny, trial, Path(directory))
    except Exception as error:
        where = "" if isinstance(error, WorkerError | AssertionError) else f" ({_place(error)})"
        trial.fault = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}{where}"
    trial.seconds = round(time.monotonic() - started, 1)
    return trial


def _run(name: str, tiny: Tiny, trial: Trial, directory: Path) -> None:
    build_model(name).save_pretrained(directory / "teacher")
    recipe = Recipe.model_validate(
        {
            "directory": directory,
            "teacher": {"model": "hf:teacher"},
            "student": {"keep": dict(tiny.keep)} if tiny.keep else {"model": "hf:teacher"},
            "data": {"name": "benchmarks.zoo.data:build", "options": {"name": name}, "batch_size": 2},
            "rounds": 0,
            "tail": 0,
            "steps_per_round": 2,
            "probe": {"batches": 1, "batch_size": 2, "evaluate_every": 10**6, "questions": 1},
            "optimizer": {"lr": 1e-3, "warmup_steps": 0},
        }
    )
    models = load_models(recipe)
    teacher, student = models.teacher.layers, models.student.layers
    trial.modules = {module: (len(teacher[module]), len(student[module])) for module in teacher}
    assert tuple(trial.modules) == tiny.modules, f"found the modules {', '.join(trial.modules)}"
    parameters = dict(models.student.model.named_parameters())
    unowned = [each for each in models.ownership.unowned if parameters[each].ndim]
    assert not unowned, f"no module owns {', '.join(unowned[:3])}"
    trial.passed.append("modules")
    assert {module: student[module] for module in tiny.keep} == {
        module: student[module][:count] for module, count in tiny.keep.items()
    }
    trial.passed.append("cut")
    components = build(recipe, models, single_rank())
    components.dry_run.check_arms(repeats=0)
    probe = components.probe(recipe.probe)
    arms = models.arms
    trial.arms = list(arms)
    chooser = Turns(trial.arms)
    trainer = Trainer(recipe, components, probe, components.batches(recipe.data), chooser=chooser)
    components.engine.schedule.total_steps = 0
    probe.measure(components.planner.modules)
    may_move = {arm: _tensors(models.student.model, models.ownership.owned, members) for arm, members in arms.items()}
    for number, arm in enumerate(trial.arms):
        before = components.engine.state_dict()
        assert trainer.play(number)
        trainer.state.next_round()
        moved = _changed(before, components.engine.state_dict())
        outside = moved - may_move[arm]
        assert moved, f"arm {arm} moves nothing"
        assert not outside, f"arm {arm} moves {', '.join(sorted(outside)[:3])}"
    trial.passed.append("forced")
    assert trainer.play(len(trial.arms))
    assert chooser.records[-1].after is not None, "the joint round diverged"
    trial.passed.append("joint")
    weights = components.engine.state_dict()
    models.exported.export(weights, directory / "student")
    loaded, information = getattr(transformers, tiny.model).from_pretrained(
        directory / "student", output_loading_info=True
    )
    assert not information["missing_keys"], f"the export lacks {sorted(information['missing_keys'])[:3]}"
    assert not information["unexpected_keys"], f"the export has {sorted(information['unexpected_keys'])[:3]}"
    differing = _changed(weights, loaded.state_dict())
    assert not differing, f"the export loads with other {', '.join(sorted(differing)[:3])}"
    trial.passed.append("export")


def _changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    """Return the names of the tensors that differ in any bit."""
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def _tensors(model: Any, owned: Mapping[str, Sequence[str]], modules: Sequence[str]) -> set[str]:
    """Return the names of the tensors that a round of these modules may change: parameters, and all buffers."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    mine = {id(parameters[name]) for module in modules for name in owned[module]}
    # Tied ones have several names.
    return {name for name, parameter in parameters.items() if id(parameter) in mine} | {
        name for name, _ in model.named_buffers()
    }


def _place(error: Exception) -> str:
    """Return where an error was raised."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"
