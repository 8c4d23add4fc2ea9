"""The sections of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

Patterns = str | list[str]


class TeacherRecipe(BaseModel, extra="forbid"):
    """The model that is distilled."""

    model: str
    """``open_clip:<name, path or hf-hub:id>[@<pretrained>]``, ``hf:<id or path>``, or ``package.module:factory``; paths
    are relative to the recipe. See docs/bring-your-own-model.md."""
    checkpoint: str | None = None
    """File with its weights, relative to the recipe, where they do not come with the model."""
    weights: Literal["random"] | None = None
    """``random`` gives it fresh weights, whatever comes with the model: to try things out, or to measure them."""
    options: dict[str, Any] = {}
    """A factory's keyword arguments; or of transformers' models fields of their configuration, and ``variant``,
    ``revision`` and ``subfolder``."""
    dtype: Literal["fp32", "bf16"] | None = None
    """What it computes in; by default what the student computes in."""
    placement: Literal["replicate", "zero3", "cpu"] = "replicate"
    """Where its weights lie: whole on every rank's device; a share on each rank's device, gathered module by module; or
    a share in each rank's host memory, copied and gathered module by module. See worker/engine/sharding.py."""

    @model_validator(mode="after")
    def _one_source(self) -> TeacherRecipe:
        _check_source(self.checkpoint, self.weights)
        return self


class StudentRecipe(BaseModel, extra="forbid"):
    """The model that learns: cut from the teacher (``keep``), or another of any width (``model``)."""

    keep: dict[str, Annotated[int, Field(ge=1)]] | None = None
    """Layers kept of each of the teacher's modules, uniformly spaced; a module not named keeps all."""
    model: str | None = None
    """Instead of ``keep``: another model, named as the teacher is."""
    checkpoint: str | None = None
    """File with the weights of ``model``, relative to the recipe; without one they are those that come with the model,
    or fresh where it is named by a configuration alone."""
    weights: Literal["random"] | None = None
    """``random`` gives ``model`` fresh weights, whatever comes with it."""
    options: dict[str, Any] = {}
    """As the teacher's, for ``model``."""
    checkpointing: Literal["none", "non_reentrant"] = "none"
    """Activation checkpointing: ``non_reentrant`` recomputes the layers in the backward pass, to save memory."""
    layer_map: dict[str, list[int]] = {}
    """For a module, the teacher's layer that each student layer is compared with, instead of the spaced ones."""

    @field_validator("checkpointing", mode="before")
    @classmethod
    def _with_a_graph(cls, value: object) -> object:
        if value == "reentrant":
            raise ValueError(
                "reentrant checkpointing runs the layers without a graph, so that no layer term reaches them; "
                "use non_reentrant"
            )
        return value

    @model_validator(mode="after")
    def _one_origin(self) -> StudentRecipe:
        if (self.keep is None) == (self.model is None):
            raise ValueError("give either `keep` (layers cut from the teacher) or `model` (another model)")
        if self.options and self.model is None:
            raise ValueError("`options` are those of `model`; what is cut from the teacher has the teacher's")
        if self.checkpoint is not None and self.model is None:
            raise ValueError(
                "`checkpoint` holds the weights of `model`; what is cut from the teacher has the teacher's"
            )
        if self.weights is not None and self.model is None:
            raise ValueError("`weights` are those of `model`; what is cut from the teacher has the teacher's")
        _check_source(self.checkpoint, self.weights)
        return self


def _check_source(checkpoint: str | None, weights: str | None) -> None:
    if checkpoint is not None and weights is not None:
        raise ValueError("give either `checkpoint` (a file of weights) or `weights: random` (fresh ones)")


class ModuleRecipe(BaseModel, extra="forbid"):
    """A module of one's own choice: what it owns, and where its hidden states are."""

    path: Patterns
    """Dotted globs of the modules it owns, or of parameters that stand by themselves."""
    layers: Patterns | None = None
    """Dotted globs of the modules whose outputs are compared with the teacher's, in order; by default ``path``."""
    teacher_path: Patterns | None = None
    """``path`` in the teacher, where it differs."""
    teacher_layers: Patterns | None = None
    """``layers`` in the teacher, where they differ."""
    mask: str | None = None
    """The batch's entry [B, positions] that is not 0 at the positions that count; by default all do."""


class DataRecipe(BaseModel, extra="forbid"):
    """Training and held-out data."""

    name: str
    """Which data module: ``digits``, ``webdataset``, a published task (``vqa_v2``, ``snli_ve``, ``nlvr2``,
    ``coco_captions``), or ``package.module:factory`` (see worker/data/base.py)."""
    options: dict[str, Any] = {}
    """Its own options."""
    batch_size: int = Field(default=64, ge=2)
    """Rows per rank and forward pass."""
    workers: int = Field(default=0, ge=0)
    """Loader processes per rank; 0 loads in the training process."""
    prefetch: int = Field(default=2, ge=1)
    """Batches that each loader process keeps ready."""


class PolicyRecipe(BaseModel, extra="forbid"):
    """How the server chooses arms."""

    name: str = "optima"
    """optima, sliding_window_ts, uniform, round_robin, joint, or fixed:<arm>."""
    options: dict[str, float] = {}
    """The policy's options."""


class ProbeRecipe(BaseModel, extra="forbid"):
    """How the student is measured around each round."""

    batches: int = Field(default=0, ge=0)
    """Held-out batches the bandit loss is measured on (rounded up to a multiple of the ranks); 0: see pace.py."""
    batch_size: int = Field(default=128, ge=2)
    """Rows of each."""
    evaluate_every: int = Field(default=0, ge=0)
    """Rounds between measurements of the end-to-end loss and the task metrics; 0: see worker/setup/autotune.py."""
    questions: int = Field(default=1024, ge=1)
    """Held-out rows the task metrics are measured on."""


class CheckpointRecipe(BaseModel, extra="forbid"):
    """When checkpoints are written, beside the one at SIGTERM."""

    every_seconds: float = Field(default=300.0, ge=0)
    """Seconds between two of them; more where writing takes over 2 % of the time. 0: after every step."""
    keep: int = Field(default=2, ge=1)
    """The newest so many are kept."""


class WandbRecipe(BaseModel, extra="forbid"):
    """Weights & Biases."""

    project: str = "optima"
    """The project that the job shows up in."""
    group: str | None = None
    """The group within it."""
    team: str | None = None
    """Whose it is, where it is not your own."""
    online: bool = False
    """Whether it is sent while the job runs; by default ``wandb sync`` sends it afterwards."""


class TrackingRecipe(BaseModel, extra="forbid"):
    """Where the job's curves go, beside metrics.jsonl; see worker/training/tracking.py."""

    tensorboard: bool = False
    """Into ``tracking/tensorboard`` of the output directory."""
    csv: bool = False
    """Into ``tracking/csv`` of the output directory, a file for each curve."""
    wandb: WandbRecipe | None = None
    """Into ``tracking/wandb`` of the output directory, or to its server."""

    def configuration(self, directory: Path, run: str) -> dict[str, dict[str, Any]]:
        """What DeepSpeed's monitors are to be told, by tracker."""
        files = {"output_path": str(directory)}
        wanted: dict[str, dict[str, Any]] = {}
        if self.tensorboard:
            wanted["tensorboard"] = files | {"job_name": "tensorboard"}
        if self.csv:
            wanted["csv"] = files | {"job_name": "csv"}
        if self.wandb is not None:
            wanted["wandb"] = self.wandb.model_dump(exclude={"online"})
        return wanted
