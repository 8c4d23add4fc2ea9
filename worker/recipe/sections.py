"""The sections of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

Patterns = str | list[str]


class TeacherRecipe(BaseModel, extra="forbid"):
    """The model that is distilled."""

    model: str
    """``open_clip:<name, path or hf-hub:id>[@<pretrained>]``, ``hf:<id or path>``, or ``package.module:factory``. Paths
    are relative to the recipe. See docs/bring-your-own-model.md."""
    checkpoint: str | None = None
    """A file with the weights, relative to the recipe, if they do not come with the model."""
    weights: Literal["random"] | None = None
    """``random``: initialize the weights at random, even if the model comes with weights. For trials and for
    measurements of speed and memory."""
    options: dict[str, Any] = {}
    """Keyword arguments of the factory. For ``hf:`` models: fields of their configuration; ``variant``, ``revision``,
    ``subfolder``, ``trust_remote_code`` and ``code_revision``, as in ``from_pretrained``; ``base``, the base model of
    an adapter of peft; and ``dequantize``, whether quantized weights are dequantized."""
    dtype: Literal["fp32", "bf16"] | None = None
    """The floating-point type of its computation; by default the student's."""
    placement: Literal["replicate", "zero3", "cpu"] = "replicate"
    """Where its weights are stored. ``replicate``: all of them on every rank's device; ``zero3``: a shard on each
    rank's device, gathered module by module; ``cpu``: a shard in each rank's host memory, copied and gathered module by
    module. See worker/engine/sharding.py."""

    @model_validator(mode="after")
    def _one_source(self) -> TeacherRecipe:
        _check_source(self.checkpoint, self.weights)
        return self


class StudentRecipe(BaseModel, extra="forbid"):
    """The model that learns: layers of the teacher (``keep``), or another model of any width (``model``)."""

    keep: dict[str, Annotated[int, Field(ge=1)]] | None = None
    """By module of the teacher: the number of layers to keep, uniformly spaced. A module that is not named keeps all
    its layers."""
    model: str | None = None
    """Instead of ``keep``: another model, named like the teacher's."""
    checkpoint: str | None = None
    """A file with the weights of ``model``, relative to the recipe. By default the weights that come with the model, or
    random ones if only its configuration is named."""
    weights: Literal["random"] | None = None
    """``random``: initialize the weights of ``model`` at random, even if it comes with weights."""
    options: dict[str, Any] = {}
    """Options of ``model``, like the teacher's."""
    lora: dict[str, Any] | None = None
    """Train a new LoRA adapter inside of the student instead of its own weights, which are frozen: arguments of
    ``peft.LoraConfig``, such as ``{r: 8, lora_alpha: 16, target_modules: all-linear}``. The adapter is exported as peft
    writes it. For ``hf:`` models."""
    freeze: list[str] = []
    """Dotted globs of the student's PyTorch modules, or of single parameters, that are never trained, in addition to
    those that the model comes with as frozen (``requires_grad=False``)."""
    checkpointing: Literal["none", "non_reentrant"] = "none"
    """Activation checkpointing. ``non_reentrant`` recomputes the layers in the backward pass, which saves memory."""
    layer_map: dict[str, list[int]] = {}
    """By module: for each of the student's layers, the index of the teacher's layer that it is compared with. By
    default these layers are uniformly spaced."""

    @field_validator("checkpointing", mode="before")
    @classmethod
    def _with_a_graph(cls, value: object) -> object:
        if value == "reentrant":
            raise ValueError(
                "reentrant checkpointing runs the layers without a graph, so no layer term has a gradient; use "
                "non_reentrant"
            )
        return value

    @model_validator(mode="after")
    def _one_origin(self) -> StudentRecipe:
        if (self.keep is None) == (self.model is None):
            raise ValueError("set either `keep` (layers of the teacher) or `model` (another model), not both")
        if self.options and self.model is None:
            raise ValueError("`options` needs `model`; a student cut from the teacher has the teacher's options")
        if self.checkpoint is not None and self.model is None:
            raise ValueError("`checkpoint` needs `model`; a student cut from the teacher has the teacher's weights")
        if self.weights is not None and self.model is None:
            raise ValueError("`weights` needs `model`; a student cut from the teacher has the teacher's weights")
        _check_source(self.checkpoint, self.weights)
        return self


def _check_source(checkpoint: str | None, weights: str | None) -> None:
    if checkpoint is not None and weights is not None:
        raise ValueError("set either `checkpoint` (a file of weights) or `weights: random`, not both")


class ModuleRecipe(BaseModel, extra="forbid"):
    """A module that the recipe defines: its parameters and its hidden states."""

    path: Patterns
    """Dotted globs of the PyTorch modules that belong to it, or of single parameters."""
    layers: Patterns | None = None
    """Dotted globs of the PyTorch modules whose outputs are compared with the teacher's, in order; by default
    ``path``."""
    teacher_path: Patterns | None = None
    """``path`` in the teacher, if it differs."""
    teacher_layers: Patterns | None = None
    """``layers`` in the teacher, if they differ."""
    matched: Patterns = []
    """Names of tensors that the model's forward pass returns, such as ``pooler_output``, which are compared with the
    teacher's in addition to the layers."""
    mask: str | None = None
    """The batch's entry [B, positions] that is nonzero at the positions that count; by default all count."""


class DataRecipe(BaseModel, extra="forbid"):
    """Training and held-out data."""

    name: str
    """The data module: ``digits``, ``webdataset``, ``text``, a published task (``vqa_v2``, ``snli_ve``, ``nlvr2``,
    ``coco_captions``), or ``package.module:factory`` (see worker/data/base.py)."""
    options: dict[str, Any] = {}
    """Options of the data module."""
    batch_size: int = Field(default=64, ge=2)
    """Rows per rank and forward pass."""
    workers: int = Field(default=0, ge=0)
    """Loader processes per rank; 0 loads in the training process."""
    prefetch: int = Field(default=2, ge=1)
    """Batches that each loader process prepares in advance."""


class PolicyRecipe(BaseModel, extra="forbid"):
    """How the server chooses arms."""

    name: str = "optima"
    """``optima``, ``sliding_window_ts``, ``uniform``, ``round_robin``, ``joint``, or ``fixed:<arm>``."""
    options: dict[str, float] = {}
    """Options of the policy; see docs/bandit.md."""


class ProbeRecipe(BaseModel, extra="forbid"):
    """How the student is measured around each round."""

    batches: int = Field(default=0, ge=0)
    """Held-out batches on which the bandit loss is measured, rounded up to a multiple of the ranks; 0 chooses their
    number from measured times (worker/setup/autotune.py)."""
    batch_size: int = Field(default=128, ge=2)
    """Rows per held-out batch."""
    evaluate_every: int = Field(default=0, ge=0)
    """Rounds between two measurements of the end-to-end loss and the task metrics; 0 chooses it from measured times
    (worker/setup/autotune.py)."""
    questions: int = Field(default=1024, ge=1)
    """Held-out rows on which the task metrics are measured."""


class CheckpointRecipe(BaseModel, extra="forbid"):
    """When checkpoints are written. One is also written at SIGTERM."""

    every_seconds: float = Field(default=300.0, ge=0)
    """Seconds between two checkpoints; more if writing takes over 2 % of the time. 0: after every step."""
    keep: int = Field(default=2, ge=1)
    """The number of checkpoints to keep; older ones are deleted."""


class WandbRecipe(BaseModel, extra="forbid"):
    """Weights & Biases."""

    project: str = "optima"
    """The W&B project."""
    group: str | None = None
    """The W&B group."""
    team: str | None = None
    """The W&B team (entity); by default your own account."""
    online: bool = False
    """Whether to upload while the job runs. By default nothing is uploaded; ``wandb sync`` does it afterwards."""


class TrackingRecipe(BaseModel, extra="forbid"):
    """Where the job's curves are written, besides metrics.jsonl; see worker/training/tracking.py."""

    tensorboard: bool = False
    """Write TensorBoard files into ``tracking/tensorboard`` of the output directory."""
    csv: bool = False
    """Write one CSV file per curve into ``tracking/csv`` of the output directory."""
    wandb: WandbRecipe | None = None
    """Write Weights & Biases files into ``tracking/wandb`` of the output directory, or upload them."""

    def configuration(self, directory: Path, run: str) -> dict[str, dict[str, Any]]:
        """Return the configuration of DeepSpeed's monitors, by tracker.

        Args:
            directory: The directory to write to.
            run: The run's name.
        """
        files = {"output_path": str(directory)}
        monitors: dict[str, dict[str, Any]] = {}
        if self.tensorboard:
            monitors["tensorboard"] = files | {"job_name": "tensorboard"}
        if self.csv:
            monitors["csv"] = files | {"job_name": "csv"}
        if self.wandb is not None:
            monitors["wandb"] = self.wandb.model_dump(exclude={"online"})
        return monitors
