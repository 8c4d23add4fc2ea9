"""The recipe of a job, read from YAML and validated."""

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
from worker.recipe.messages import FieldLines, validation_messages
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
"""The recipe of a worker that is started without one."""

Name = Annotated[str, Field(pattern=f"^{NAME}$")]


class Recipe(BaseModel, extra="forbid"):
    """One distillation job: the models, the data, and how to train."""

    name: Name = "recipe"
    """The recipe's name, shown on the dashboard."""
    teacher: TeacherRecipe
    """The model that is distilled."""
    student: StudentRecipe
    """The model that learns."""
    data: DataRecipe
    """Training and held-out data."""
    modules: dict[Name, str | ModuleRecipe] | None = None
    """The modules by name, each with one path or more, instead of the model family's own. Needed for a model whose
    modules are unknown. ``train: forced`` finds out which of them reads which."""
    logits_mask: str | None = None
    """With ``modules``: the batch's entry [B, positions] that is nonzero where logits count; by default the model
    family's."""
    layers: dict[str, str] = {}
    """By module: a dotted glob of its layers, instead of the model family's own."""
    arms: dict[Name, list[str]] | None = None
    """The modules of each arm. By default every module is an arm, except for those that have nothing to train and,
    under ``forced``, those that are kept whole, since they have nothing to learn."""
    train: Mode = "forced"
    """Training mode of a round: ``forced``, ``active`` or ``all``; see worker/distill/plan.py."""
    tail: float = Field(default=0.3, ge=0, le=1)
    """The fraction of the rounds, at the end, that train all modules jointly."""
    policy: PolicyRecipe = PolicyRecipe()
    """The server's policy for choosing arms."""
    cost_aware: bool = False
    """Divide rewards by the arm's relative cost in seconds."""
    rounds: int = Field(default=100, ge=0)
    """Number of rounds; 0 for no end (and then no tail)."""
    steps_per_round: int = Field(default=0, ge=0)
    """Optimizer steps per round; 0 chooses them from measured times (worker/setup/autotune.py)."""
    steps: int = Field(default=0, ge=0)
    """Instead of ``rounds``: optimizer steps of the whole job. They are divided into rounds of ``steps_per_round``."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the choices and of the order of the training data."""
    loss: LossWeights = LossWeights()
    """The terms of the loss and their weights."""
    optimizer: OptimizerRecipe = OptimizerRecipe()
    """The optimizer and the learning rate schedule."""
    probe: ProbeRecipe = ProbeRecipe()
    """Measurement of the student around each round."""
    checkpoint: CheckpointRecipe = CheckpointRecipe()
    """When checkpoints are written."""
    tracking: TrackingRecipe = TrackingRecipe()
    """Where the job's curves are written, besides metrics.jsonl."""
    max_diverged: int = Field(default=3, ge=1)
    """Stop the job after so many rounds in a row with a loss that is not finite."""
    deepspeed: dict[str, Any] = {}
    """DeepSpeed's own configuration, without batch sizes and optimizer; or the path of a JSON file with it."""
    directory: Path = Field(default=Path(), exclude=True)
    """The directory that relative paths start from; by default the recipe's own."""
    _lines: FieldLines = PrivateAttr(default_factory=FieldLines)
    _before_freezing: bool = PrivateAttr(default=False)

    @field_validator("deepspeed")
    @classmethod
    def _not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in ("train_batch_size", "train_micro_batch_size_per_gpu", "optimizer", "scheduler"):
            if key in value:
                raise ValueError(f"{key} follows from the recipe's own fields (data.batch_size, optimizer); remove it")
        return value

    @model_validator(mode="after")
    def _tail_needs_an_end(self) -> Recipe:
        if self.rounds == 0 and self.tail > 0:
            raise ValueError("a run without an end (rounds: 0) has no tail; set tail: 0")
        return self

    @model_validator(mode="after")
    def _one_length(self) -> Recipe:
        if self.steps and "rounds" in self.model_fields_set:
            raise ValueError("set either `rounds` or `steps`, not both")
        if self.steps and self.steps_per_round:
            self.rounds, self.steps = self._rounds_of(self.steps_per_round), 0
        return self

    @model_validator(mode="after")
    def _mask_of_modules(self) -> Recipe:
        if self.logits_mask is not None and self.modules is None:
            raise ValueError("`logits_mask` needs `modules`: without them, the model family's own mask is used")
        return self

    def at(self, *where: str) -> str:
        """Return a field's line in the recipe's file, if it has one, and its dotted path; for messages."""
        return self._lines.locate(where)

    @property
    def before_freezing(self) -> bool:
        """Whether a job was started with it by a version that froze nothing and made every module an arm."""
        return self._before_freezing

    @property
    def open(self) -> bool:
        """Whether the recipe leaves numbers open, to be chosen from measured times."""
        return not (self.steps_per_round and self.probe.batches and self.probe.evaluate_every)

    def fixed(self, steps_per_round: int, probe_batches: int, evaluate_every: int) -> Recipe:
        """Return the recipe with these numbers, and its length in rounds."""
        rounds = self._rounds_of(steps_per_round)
        probe = self.probe.model_copy(update={"batches": probe_batches, "evaluate_every": evaluate_every})
        return self.model_copy(
            update={"steps_per_round": steps_per_round, "rounds": rounds, "steps": 0, "probe": probe}
        )

    def _rounds_of(self, steps_per_round: int) -> int:
        return max(1, round(self.steps / steps_per_round)) if self.steps else self.rounds

    @property
    def tail_rounds(self) -> int:
        """Number of joint rounds at the end."""
        return round(self.tail * self.rounds)

    def spec(self, arms: dict[str, list[str]]) -> bandit_pb2.RunSpec:
        """Return the spec of this recipe's run.

        Args:
            arms: The modules of each arm.
        """
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

    def to_yaml(self) -> str:
        """Return the recipe as YAML; `read_recipe` reads an equal recipe from it, in whatever directory it is."""
        content = self.model_dump(mode="json") | {"directory": str(self.directory)}
        if self.before_freezing:
            del content["student"]["freeze"]
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def read_recipe(path: Path, overrides: dict[str, Any]) -> Recipe:
    """Read and validate a recipe.

    Args:
        path: A YAML file.
        overrides: Values of the command line that replace the file's, by dotted path.

    Raises:
        RecipeError: The file cannot be read, or is not a valid recipe; the message lists every error.
    """
    content, lines = _read_content(path, overrides)
    directory = path.resolve().parent
    if isinstance(content.get("deepspeed"), str):
        content["deepspeed"] = _read_deepspeed(directory / content["deepspeed"])
    messages: list[str] = list(lines.duplicates)
    try:
        recipe = Recipe.model_validate({"directory": directory, **content})
    except ValidationError as error:
        messages += validation_messages(error, Recipe, lines)
    if messages:
        listed = "".join(f"\n  {message}" for message in messages)
        raise RecipeError(f"the recipe {path} has {len(messages)} error(s):{listed}")
    recipe._lines = lines
    return recipe


def read_teacher(path: Path, overrides: dict[str, Any]) -> TeacherRecipe:
    """Read and validate the section ``teacher`` of a recipe; nothing else in it has to be valid.

    Args:
        path: A YAML file.
        overrides: As for `read_recipe`.

    Raises:
        RecipeError: The file cannot be read, or its section ``teacher`` is not valid.
    """
    content, lines = _read_content(path, overrides)
    try:
        return TeacherRecipe.model_validate(content.get("teacher") or {})
    except ValidationError as error:
        faults = [f"{lines.locate(('teacher', *one['loc']))}: {one['msg']}" for one in error.errors()]
        raise RecipeError(f"the teacher of the recipe {path} is not valid: {'; '.join(faults)}") from None


def _read_content(path: Path, overrides: dict[str, Any]) -> tuple[dict[str, Any], FieldLines]:
    """Read the fields of a recipe, with those that replace them, and the lines they are in. Raises RecipeError."""
    try:
        text = path.read_text(encoding="utf-8")
        content, lines = yaml.safe_load(text), FieldLines.from_yaml(text)
    except OSError as error:
        raise RecipeError(f"the recipe {path} cannot be read: {os.strerror(error.errno or 0)}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"the recipe {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise RecipeError(f"the recipe {path} must be a mapping of fields, such as `teacher:` and `student:`")
    for field, value in overrides.items():
        _set_field(content, field.split("."), value)
    return content, lines


def read_written_recipe(path: Path) -> Recipe:
    """Read a recipe that `write_recipe` wrote, with the arms that it had then.

    Raises:
        RecipeError: The file cannot be read, or is not a valid recipe.
    """
    recipe = read_recipe(path, {})
    # Every field is written, so one that is missing did not exist yet.
    recipe._before_freezing = "freeze" not in recipe.student.model_fields_set
    return recipe


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe to a file, which is replaced atomically."""
    replace_text(path, recipe.to_yaml())


def _set_field(content: dict[str, Any], path: list[str], value: Any) -> None:
    """Set the field at a path; sections that do not exist are created."""
    *sections, last = path
    for section in sections:
        inner = content.get(section)
        content[section] = inner = dict(inner) if isinstance(inner, dict) else {}
        content = inner
    content[last] = value


def _read_deepspeed(path: Path) -> Any:
    """Read the JSON file that `deepspeed` names. Raises RecipeError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"deepspeed: the file {path} cannot be read: {os.strerror(error.errno or 0)}") from None
    except ValueError as error:
        raise RecipeError(f"deepspeed: the file {path} is not JSON: {error}") from None
