"""A CoCa of open_clip in pretraining."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.data.base import Batch
from worker.models.open_clip.files import CONFIG_FILE, create, read_config
from worker.models.open_clip.loader import save
from worker.pretrain.training import Options, Pretrained

WEIGHTS_FILE = "model.safetensors"
QUESTION_WORDS_WEIGHT = 0.1
"""Weight of the words of a question in the loss: they are random, unlike its answer."""


@dataclass(frozen=True)
class Coca(Pretrained):
    """A CoCa of open_clip.

    Attributes:
        model: The model.
        config: Its configuration.
    """

    model: nn.Module
    config: dict[str, Any]
    batches: ClassVar[Literal["coca", "llava"]] = "coca"
    files: ClassVar[tuple[str, ...]] = (WEIGHTS_FILE, CONFIG_FILE)
    library: ClassVar[str] = "open_clip_torch"

    @classmethod
    def from_config(cls, source: Path) -> Self:
        """Build a model from a JSON file, or a directory with one."""
        config = read_config(str(source), Path())
        return cls(create(config), config)

    def logits(self, batch: Batch) -> Tensor:
        """Return logits [B, L - 1, V]."""
        logits: Tensor = self.model(batch["image"], batch["text"])["logits"]
        return logits

    def loss(self, batch: Batch, options: Options) -> Tensor:
        """Return the weighted mean cross-entropy of the words plus the weighted contrastive loss, a scalar.

        Every row has the same weight, whatever its number of words: a question has one word to learn, a caption twelve.
        """
        out = self.model(batch["image"], batch["text"])
        labels = batch["text"][:, 1:]
        weight = torch.where(batch["answer"][:, 1:], 1.0, QUESTION_WORDS_WEIGHT) * (labels != 0)
        words = F.cross_entropy(
            out["logits"].transpose(1, 2), labels, reduction="none", label_smoothing=options.label_smoothing
        )
        paired = batch["paired"]
        similarity = out["logit_scale"] * out["image_features"][paired] @ out["text_features"][paired].T
        target = torch.arange(len(similarity))
        contrastive = (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2
        captioning = ((words * weight).sum(dim=1) / weight.sum(dim=1)).mean()
        total: Tensor = captioning + options.contrastive * contrastive
        return total

    def save(self, directory: Path) -> None:
        """Write the model as open_clip reads it."""
        save(self.model.state_dict(), self.config, directory, weights=WEIGHTS_FILE)
