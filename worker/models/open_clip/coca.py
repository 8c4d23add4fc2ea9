"""The modules of open_clip's CoCa: image tower, text tower, multimodal decoder."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from open_clip.loss import CoCaLoss
from torch import Tensor, nn

from worker.models.base import Adapter, Batch, Boundary, ModuleSpec, OwnForward
from worker.models.open_clip.towers import TextPositions, checkpoint_activations, layer_paths
from worker.models.task_losses import contrastive


class CoCaAdapter(Adapter):
    """The adapter of CoCa: batches have ``image`` [B, C, H, W], ``text`` [B, L], ``paired`` [B] bool.

    The decoder reads text tokens 0 … L - 2 and predicts tokens 1 … L - 1, as in CoCa (Yu et al. 2022,
    arXiv 2205.01917). ``paired`` marks the rows whose text identifies their image among others: only they take part
    in the contrastive loss; without it, all do.

    Args:
        model: The model; by default one whose text tower is open_clip's, padded with 0.
    """

    modules: tuple[ModuleSpec, ...] = (
        ModuleSpec(
            "image",
            path="visual",
            layers="visual.transformer.resblocks.*",
            matched=("tokens", "latent"),
            textless=True,
        ),
        ModuleSpec("text", path="text", layers="text.transformer.resblocks.*", matched=("latent",)),
        ModuleSpec(
            "multimodal",
            path="text_decoder",
            layers="text_decoder.cross_attn.*",
            inputs=("image", "text"),
        ),
    )
    logits = ("multimodal", "logits")
    task_weights: Mapping[str, float] = {"caption": 1.0, "contrastive": 0.1}
    _positions = TextPositions(class_token=True)

    def __init__(self, model: nn.Module | None = None) -> None:
        if model is not None:
            image, text, multimodal = self.modules
            self.modules = (image, replace(text, layers=layer_paths(model, "text")), multimodal)
            self._positions = TextPositions.of(model)

    def run(self, model: Any, module: str, batch: Batch, boundary: Mapping[str, Boundary]) -> Boundary:
        """Run one module and return its boundary tensors."""
        if module == "image":
            latent, tokens = model.visual(batch["image"])
            return {"latent": latent, "tokens": tokens}
        if module == "text":
            latent, tokens = model.text(batch["text"])
            return {"latent": latent, "tokens": tokens[:, : batch["text"].shape[1] - 1]}
        return {"logits": model.text_decoder(boundary["image"]["tokens"], boundary["text"]["tokens"])}

    def checkpoint_activations(self, model: Any) -> None:
        """Make the model recompute its layers in the backward pass."""
        checkpoint_activations(model)

    def mask(self, module: str, name: str, batch: Batch) -> Tensor | None:
        """Return which positions of a tensor count."""
        if module == "image" or name == "latent":
            return None
        if module == "text" and name == "hidden":
            return self._positions.mask(batch["text"])
        return batch["text"][:, 1:] != self._positions.pad

    def task_terms(self, model: Any, batch: Batch, boundary: Mapping[str, Boundary]) -> dict[str, Tensor]:
        """Compute the task losses of these boundary tensors."""
        terms = {}
        if "multimodal" in boundary:
            logits = boundary["multimodal"]["logits"]
            terms["caption"] = F.cross_entropy(
                logits.float().flatten(0, 1), batch["text"][:, 1:].flatten(), ignore_index=self._positions.pad
            )
        if "image" in boundary and "text" in boundary:
            terms["contrastive"] = contrastive(
                boundary["image"]["latent"], boundary["text"]["latent"], model.logit_scale, batch.get("paired")
            )
        return terms

    def own_forward(self, model: Any, batch: Batch) -> OwnForward:
        """Run the model by its own forward pass, with open_clip's loss."""
        output = model(batch["image"], batch["text"])
        paired = batch.get("paired")
        rows = slice(None) if paired is None else paired.bool()
        contrastive_loss, caption_loss = CoCaLoss(1.0, 1.0, pad_id=self._positions.pad)(
            output["image_features"][rows],
            output["text_features"][rows],
            output["logits"],
            output["labels"],
            output["logit_scale"],
        )
        return OwnForward(output["logits"], {"caption": caption_loss, "contrastive": contrastive_loss})
