"""The recipe: what is distilled into what, on which data, and how. YAML in, typed values out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, Field, PrivateAttr, ValidationError, field_validator, model_validator

from protos.optima.v1 import bandit_pb2
from worker.distill.objective import LossWeights
from worker.distill.plan import Mode
from worker.engine.optimizer import OptimizerRecipe
from worker.errors import RecipeError
from worker.files import replace_text
from worker.names import NAME
from worker.recipe.messages import Places, faults
from worker.recipe.sections import (
    CheckpointRecipe,
    DataRecipe,
    ModuleRecipe,
    PolicyRecipe,
    ProbeRecipe,
    StudentRecipe,
    TeacherRecipe,
    TrackingRecipe,
)

BUILT_IN = Path(__file__).resolve().parents[2] / "deploy" / "recipes" / "digits.yaml"
"""The recipe of a worker that is given none."""

Name = Annotated[str, Field(pattern=f"^{NAME}$")]


class Recipe(BaseModel, extra="forbid"):
    """One distillation problem."""

    name: Name = "recipe"
    """Shown on the dashboard."""
    teacher: TeacherRecipe
    student: StudentRecipe
    data: DataRecipe
    modules: dict[Name, str | ModuleRecipe] | None = None
    """The modules by name, each a path or more, instead of the model family's usual ones; needed for models of which
    nothing is known. What feeds what is then not known either: ``train: forced`` is refused."""
    logits_mask: str | None = None
    """With ``modules``: the batch's entry [B, positions] that is not 0 where logits count; by default the family's."""
    layers: dict[str, str] = {}
    """A module's layers as a dotted glob, where they are not the model family's usual ones."""
    arms: dict[Name, list[str]] | None = None
    """Modules by arm; by default every module is an arm."""
    train: Mode = "forced"
    """What a round trains; see worker/distill/plan.py."""
    tail: float = Field(default=0.3, ge=0, le=1)
    """Share of the rounds, at the end, that train all modules jointly."""
    policy: PolicyRecipe = PolicyRecipe()
    cost_aware: bool = False
    """Divide rewards by the arm's relative cost in seconds."""
    rounds: int = Field(default=100, ge=0)
    """Rounds to play; 0 for no end (and then no tail)."""
    steps_per_round: int = Field(default=0, ge=0)
    """Optimizer steps in a round; 0: see worker/setup/autotune.py."""
    steps: int = Field(default=0, ge=0)
    """Instead of ``rounds``: optimizer steps of the whole job, in as many rounds as that makes."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the choices and of the training data's order."""
    loss: LossWeights = LossWeights()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    probe: ProbeRecipe = ProbeRecipe()
    checkpoint: CheckpointRecipe = CheckpointRecipe()
    tracking: TrackingRecipe = TrackingRecipe()
    max_diverged: int = Field(default=3, ge=1)
    """The job stops after so many rounds in a row whose loss was not finite."""
    deepspeed: dict[str, Any] = {}
    """DeepSpeed's own configuration, without batch sizes and optimizer; or the path of a JSON file that holds one."""
    directory: Path = Field(default=Path(), exclude=True)
    """Where relative paths start: the recipe's own folder."""
    _places: Places = PrivateAttr(default_factory=Places)

    @field_validator("deepspeed")
    @classmethod
    def _not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in ("train_batch_size", "train_micro_batch_size_per_gpu", "optimizer", "scheduler"):
            if key in value:
                raise ValueError(f"{key} is set by the recipe's own fields (data.batch_size, optimizer)")
        return value

    @model_validator(mode="after")
    def _tail_needs_an_end(self) -> Recipe:
        if self.rounds == 0 and self.tail > 0:
            raise ValueError("a run without an end (rounds: 0) has no tail; set tail: 0")
        return self

    @model_validator(mode="after")
    def _one_length(self) -> Recipe:
        if self.steps and "rounds" in self.model_fields_set:
            raise ValueError("give either `rounds` or `steps`: the one follows from the other")
        if self.steps and self.steps_per_round:
            self.rounds, self.steps = self._rounds_of(self.steps_per_round), 0
        return self

    @model_validator(mode="after")
    def _mask_of_modules(self) -> Recipe:
        if self.logits_mask is not None and self.modules is None:
            raise ValueError("`logits_mask` goes with `modules`: the model's family knows which of its logits count")
        return self

    def at(self, *where: str) -> str:
        """A field for a sentence: its line in the file it was read from, if it stands there, and its dotted path."""
        return self._places.at(where)

    @property
    def open(self) -> bool:
        """Whether there are numbers left to choose from measured times."""
        return not (self.steps_per_round and self.probe.batches and self.probe.evaluate_every)

    def fixed(self, steps_per_round: int, probe_batches: int, evaluate_every: int) -> Recipe:
        """The recipe with these numbers in the place of what it left open, and its length in rounds."""
        rounds = self._rounds_of(steps_per_round)
        probe = self.probe.model_copy(update={"batches": probe_batches, "evaluate_every": evaluate_every})
        return self.model_copy(
            update={"steps_per_round": steps_per_round, "rounds": rounds, "steps": 0, "probe": probe}
        )

    def _rounds_of(self, steps_per_round: int) -> int:
        return max(1, round(self.steps / steps_per_round)) if self.steps else self.rounds

    @property
    def tail_rounds(self) -> int:
        """Joint rounds at the end."""
        return round(self.tail * self.rounds)

    def spec(self, arms: dict[str, list[str]]) -> bandit_pb2.RunSpec:
        """The run this recipe asks for, with its arms resolved."""
        return bandit_pb2.RunSpec(
            arms=[bandit_pb2.Arm(name=name, modules=modules) for name, modules in arms.items()],
            policy=bandit_pb2.PolicySpec(name=self.policy.name, options=self.policy.options),
            seed=self.seed,
            reward=bandit_pb2.REWARD_KIND_RELATIVE,
            cost_aware=self.cost_aware,
            train=bandit_pb2.TrainMode.Value(f"TRAIN_MODE_{self.train.upper()}"),
            tail=self.tail,
            steps_per_round=self.steps_per_round,
            rounds=self.rounds,
        )


def read(path: Path, overrides: dict[str, Any]) -> Recipe:
    """Read and check a recipe.

    Args:
        path: A YAML file.
        overrides: Fields that replace the file's (from the command line), by dotted path.

    Raises:
        RecipeError: The file cannot be read, or is not a recipe; the message lists every fault.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content, places = yaml.safe_load(text), Places.of(text)
    except OSError as error:
        raise RecipeError(f"the recipe {path} cannot be read: {os.strerror(error.errno or 0)}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"the recipe {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise RecipeError(f"the recipe {path} must be a mapping of fields, such as `teacher:` and `student:`")
    directory = path.resolve().parent
    for field, value in overrides.items():
        _replace(content, field.split("."), value)
    if isinstance(content.get("deepspeed"), str):
        content["deepspeed"] = _json(directory / content["deepspeed"])
    found: list[str] = list(places.repeated)
    try:
        recipe = Recipe.model_validate({"directory": directory, **content})
    except ValidationError as error:
        found += faults(error, Recipe, places)
    if found:
        listed = "".join(f"\n  {one}" for one in found)
        raise RecipeError(f"the recipe {path} has {len(found)} fault(s):{listed}")
    recipe._places = places
    return recipe


def write(recipe: Recipe, path: Path) -> None:
    """Write a recipe in the place of the one at ``path``."""
    replace_text(path, written(recipe))


def written(recipe: Recipe) -> str:
    """The YAML of a recipe, from which `read` gives the same one back, wherever the file is."""
    content = recipe.model_dump(mode="json") | {"directory": str(recipe.directory)}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _replace(content: dict[str, Any], field: list[str], value: Any) -> None:
    """Put a value where a dotted path leads, through sections that may not be there yet."""
    *sections, last = field
    for section in sections:
        inner = content.get(section)
        content[section] = inner = dict(inner) if isinstance(inner, dict) else {}
        content = inner
    content[last] = value


def _json(path: Path) -> Any:
    """What the file that `deepspeed` names holds. Raises RecipeError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"deepspeed: the file {path} cannot be read: {os.strerror(error.errno or 0)}") from None
    except ValueError as error:
        raise RecipeError(f"deepspeed: the file {path} is not JSON: {error}") from None
