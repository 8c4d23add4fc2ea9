"""Students of the teacher: one before training, and those of real jobs of the worker with a bandit server."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from benchmarks import worker_job
from benchmarks.quality.run import single_rank
from worker.distill.arms import JOINT
from worker.recipe.recipe import read_recipe
from worker.setup.build import build
from worker.setup.models import load_models

STEPS_PER_ROUND = 5
ROUNDS = 24
"""Of a job of the default. A joint job has as many as cost the same."""
TURNS = 4
"""Batches by which costs are measured."""
DEFAULT = "default"
"""The method of a recipe that says nothing: forced rounds that the bandit chooses, and a joint tail."""

Costs = dict[str, float]
"""CPU seconds of ``step/ARM``, an optimizer step, and ``probe/ARM``, the measurement after a round."""


@dataclass(frozen=True)
class Study:
    """The settings that all jobs share.

    Attributes:
        directory: Where they write.
        teacher: The teacher's directory.
        texts: The directory of the corpus.
    """

    directory: Path
    teacher: Path
    texts: Path

    def write_recipe(self) -> Path:
        """Write the recipe and return its path."""
        texts = self.texts.resolve()
        path = self.directory / "recipe.yaml"
        content = {
            "name": "sentence-encoder",
            # Without dropout: the student is to do what the teacher does, whose layers are compared without.
            "teacher": {
                "model": f"hf:{self.teacher.resolve()}",
                "options": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
            },
            # The embeddings are the teacher's already, and a short run sees few of their words.
            "student": {"keep": {"lower": 1, "middle": 1, "upper": 1}, "freeze": ["embeddings"]},
            "loss": {
                "layer_loss": {
                    "lower": "mse",
                    "middle": "mse",
                    "upper": "benchmarks.minilm.losses:tokens_and_sentence",
                }
            },
            "data": {
                "name": "text",
                "batch_size": 16,
                "options": {"train": str(texts / "train.txt"), "held_out": str(texts / "probe.txt")},
            },
            "optimizer": {"warmup_steps": 5},
            "steps_per_round": STEPS_PER_ROUND,
            "rounds": ROUNDS,
            "probe": {"batches": 1, "batch_size": 32, "evaluate_every": 10**6, "questions": 2},
        }
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        return path


def untrained(study: Study) -> Path:
    """Export the student as it is cut from the teacher."""
    directory = study.directory / "before"
    models = load_models(read_recipe(study.write_recipe(), {}))
    models.exported.export(models.student.model.state_dict(), directory)
    return directory


def costs(study: Study) -> Costs:
    """Measure what a step and a probe of each arm cost, in CPU seconds, on the same batches."""
    # As the jobs, whose launcher says so.
    torch.set_num_threads(1)
    recipe = read_recipe(study.write_recipe(), {})
    components = build(recipe, load_models(recipe), single_rank())
    engine, teacher, probe = components.engine, components.teacher, components.probe(recipe.probe)
    batches = components.batches(recipe.data)
    total: defaultdict[str, float] = defaultdict(float)
    for turn in range(TURNS + 1):
        batch = engine.to_device(next(batches))
        for arm in (*components.models.arms, JOINT):
            plan = components.plan(arm)
            engine.activate(plan.trained)
            times = [time.process_time()]
            engine.rehearse([(batch, teacher.run(plan.teacher, batch))], plan)
            times.append(time.process_time())
            probe.measure(plan.trained)
            times.append(time.process_time())
            # The first turn includes start-up work.
            if turn:
                total[f"step/{arm}"] += times[1] - times[0]
                total[f"probe/{arm}"] += times[2] - times[1]
    return {name: seconds / TURNS for name, seconds in total.items()}


def spent(pulls: Mapping[str, int], cost: Costs, *, probed: bool = True) -> float:
    """Return the CPU seconds of rounds, by arm."""
    return sum(
        rounds * (STEPS_PER_ROUND * cost[f"step/{arm}"] + probed * cost[f"probe/{arm}"])
        for arm, rounds in pulls.items()
    )


def joint_rounds(seconds: float, cost: Costs) -> int:
    """Return how many joint rounds cost as much; a joint job needs no probe."""
    return round(seconds / (STEPS_PER_ROUND * cost[f"step/{JOINT}"]))


def distil(study: Study, method: str, lr: float, seed: int, rounds: int) -> tuple[Path, dict[str, int]]:
    """Run a job and return the student's directory and the rounds of each arm."""
    output = study.directory / f"{method}-{lr:g}-{seed}"
    flags = ["--recipe", str(study.write_recipe()), "--rounds", str(rounds),
             "--seed", str(seed), "--set", f"optimizer.lr={lr}", "--set", f"data.options.seed={seed}"]  # fmt: skip
    if method == JOINT:
        flags += ["--policy", JOINT]
    summary = worker_job.run(output, study.directory / f"store-{output.name}", *flags)
    return output, summary["pulls"]
