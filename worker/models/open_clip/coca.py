"""The modules of open_clip's CoCa: image tower, text tower, multimodal decoder."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from worker.models.base import Adapter, Batch, Boundary, ModuleSpec
from worker.models.task_losses import contrastive


class CoCaAdapter(Adapter):
    """The adapter of CoCa: batches have ``image`` [B, C, H, W], ``text`` [B, L] (0 is padding), ``paired`` [B] bool.

    The decoder reads text tokens 0 … L - 2 and predicts tokens 1 … L - 1, as in CoCa (Yu et al. 2022,
    arXiv 2205.01917). ``paired`` marks the rows whose text identifies their image among others: only they take part
    in the contrastive loss; without it, all do.
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
        # open_clip's own checkpointing is non-reentrant.
        model.set_grad_checkpointing(True)

    def mask(self, module: str, name: str, batch: Batch) -> Tensor | None:
        """Return which positions of a tensor count."""
        if module == "image" or name == "latent":
            return None
        not_padding = batch["text"] != 0
        if module == "text" and name == "hidden":
            # The class token comes after the text.
            return F.pad(not_padding, (0, 1), value=True)
        return not_padding[:, 1:]

    def task_terms(self, model: Any, batch: Batch, boundary: Mapping[str, Boundary]) -> dict[str, Tensor]:
        """Compute the task losses of these boundary tensors."""
        terms = {}
        if "multimodal" in boundary:
            logits = boundary["multimodal"]["logits"]
            terms["caption"] = F.cross_entropy(
                logits.float().flatten(0, 1), batch["text"][:, 1:].flatten(), ignore_index=0
            )
        if "image" in boundary and "text" in boundary:
            terms["contrastive"] = contrastive(
                boundary["image"]["latent"], boundary["text"]["latent"], model.logit_scale, batch.get("paired")
            )
        return terms
