"""Students of the teacher: one before training, and those of real jobs of the worker with a bandit server."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks import worker_job
from worker.recipe.recipe import read_recipe
from worker.setup.models import load_models

METHODS: Mapping[str, Mapping[str, Any]] = {
    "forced": {},
    "joint": {"policy": {"name": "joint"}},
    "labels alone": {"loss": {"task": {"tokens": 1.0}, "logits": 0.0, "layers": 0.0}},
}
"""Changes of the recipe in docs/speech.md, by method."""


@dataclass(frozen=True)
class Study:
    """The settings that all jobs share.

    Attributes:
        directory: Where they write.
        teacher: The teacher's directory.
        corpus: The directory of the corpus.
        rounds: Rounds of a job.
        steps_per_round: Optimizer steps of a round.
    """

    directory: Path
    teacher: Path
    corpus: Path
    rounds: int = 40
    steps_per_round: int = 10

    def write_recipe(self, layers: int, method: str = "forced", seed: int = 0) -> Path:
        """Write the recipe of a student with so many layers in its decoder and return its path."""
        corpus, teacher = self.corpus.resolve(), self.teacher.resolve()
        path = self.directory / f"{method.replace(' ', '-')}-{layers}-{seed}.yaml"
        content = {
            "name": "speech",
            "teacher": {"model": f"hf:{teacher}"},
            "student": {"keep": {"decoder": layers}, "freeze": ["model.encoder"]},
            "loss": {"task": {"tokens": 1.0}, "logits": 1.0, "temperature": 2.0, "layers": 1.0},
            "data": {
                "name": "benchmarks.speech.data:build",
                "batch_size": 32,
                "options": {
                    "processor": str(teacher),
                    "train": str(corpus / "train.tsv"),
                    "held_out": str(corpus / "probe.tsv"),
                    "seed": seed,
                },
            },
            "optimizer": {"lr": 2e-3, "warmup_steps": 20},
            "seed": seed,
            # There is one arm, which every round trains; see docs/speech.md.
            "tail": 0.0,
            "rounds": self.rounds,
            "steps_per_round": self.steps_per_round,
            "probe": {"batches": 1, "batch_size": 64, "evaluate_every": 10**6, "questions": 64},
        }
        path.write_text(yaml.safe_dump({**content, **METHODS[method]}, sort_keys=False), encoding="utf-8")
        return path


def untrained(study: Study, layers: int) -> Path:
    """Export the student as it is cut from the teacher."""
    directory = study.directory / f"before-{layers}"
    models = load_models(read_recipe(study.write_recipe(layers), {}))
    models.exported.export(models.student.model.state_dict(), directory)
    return directory


def distil(study: Study, layers: int, method: str, seed: int) -> tuple[Path, dict[str, Any]]:
    """Run a job and return the student's directory, and its pulls and times."""
    recipe = study.write_recipe(layers, method, seed)
    output = recipe.with_suffix("")
    began = time.monotonic()
    summary = worker_job.run(output, study.directory / f"store-{output.name}", "--recipe", str(recipe))
    return output, {"pulls": summary["pulls"], "wall_seconds": round(time.monotonic() - began, 1)}
