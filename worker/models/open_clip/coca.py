"""open_clip's CoCa taken apart: image tower, text tower, multimodal decoder."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from worker.models.base import Adapter, Batch, Boundary, ModuleSpec
from worker.models.task_losses import contrastive


class CoCaAdapter(Adapter):
    """Batches hold ``image`` [B, C, H, W], ``text`` [B, L] (0 pads) and ``paired`` [B] bool.

    The decoder reads text tokens 0 … L-2 and predicts tokens 1 … L-1, as in CoCa (Yu et al. 2022,
    arXiv 2205.01917). ``paired`` marks the rows whose text tells their image from the others: only they take part
    in the contrastive loss; where it is missing, all do.
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
        if module == "image":
            latent, tokens = model.visual(batch["image"])
            return {"latent": latent, "tokens": tokens}
        if module == "text":
            latent, tokens = model.text(batch["text"])
            return {"latent": latent, "tokens": tokens[:, : batch["text"].shape[1] - 1]}
        return {"logits": model.text_decoder(boundary["image"]["tokens"], boundary["text"]["tokens"])}

    def checkpoint_activations(self, model: Any) -> None:
        # open_clip's own is non-reentrant.
        model.set_grad_checkpointing(True)

    def mask(self, module: str, name: str, batch: Batch) -> Tensor | None:
        if module == "image" or name == "latent":
            return None
        words = batch["text"] != 0
        if module == "text" and name == "hidden":
            # The class token stands behind the words.
            return F.pad(words, (0, 1), value=True)
        return words[:, 1:]

    def task_terms(self, model: Any, batch: Batch, boundary: Mapping[str, Boundary]) -> dict[str, Tensor]:
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
