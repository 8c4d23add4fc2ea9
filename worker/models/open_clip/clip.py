"""open_clip's CLIP taken apart: image tower and text tower, which meet only in the contrastive loss."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from worker.models.base import Adapter, Batch, Boundary, ModuleSpec, entry
from worker.models.task_losses import contrastive


class ClipAdapter(Adapter):
    """Batches hold ``image`` [B, C, H, W], ``text`` [B, L] (0 pads) and perhaps ``paired`` [B] bool, as for CoCa.

    The logits are the similarities of every image with every text, [B, B]. They need both towers, so neither has them
    alone: under ``train: forced`` a tower is matched layer by layer and in its embedding, and the contrastive loss and
    the similarities come in with the joint rounds of the tail.

    Args:
        model: Either of open_clip's kinds of CLIP: with a text tower of its own, or with its pieces beside the image
            tower.
    """

    task_weights: Mapping[str, float] = {"contrastive": 1.0}

    def __init__(self, model: nn.Module) -> None:
        own = hasattr(model, "text")
        pieces = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")
        held = {name for name, _ in model.named_children()} | {
            name for name, _ in model.named_parameters(recurse=False)
        }
        # A class token stands behind the words.
        self._class_token = own and getattr(model.text, "cls_emb", None) is not None
        text = "text" if own else tuple(name for name in pieces if name in held)
        layers = "text.transformer.resblocks.*" if own else "transformer.resblocks.*"
        self.modules = (
            ModuleSpec("image", path="visual", layers="visual.transformer.resblocks.*", matched=("latent",)),
            ModuleSpec("text", path=text, layers=layers, matched=("latent",)),
        )

    def run(self, model: Any, module: str, batch: Batch, boundary: Mapping[str, Boundary]) -> Boundary:
        if module == "image":
            return {"latent": model.encode_image(entry(batch, "image", "pixel_values"))}
        return {"latent": model.encode_text(entry(batch, "text", "input_ids"))}

    def checkpoint_activations(self, model: Any) -> None:
        # open_clip's own is non-reentrant.
        model.set_grad_checkpointing(True)

    def mask(self, module: str, name: str, batch: Batch) -> Tensor | None:
        if module == "image" or name == "latent":
            return None
        words = entry(batch, "text", "input_ids") != 0
        return F.pad(words, (0, 1), value=True) if self._class_token else words

    def task_terms(self, model: Any, batch: Batch, boundary: Mapping[str, Boundary]) -> dict[str, Tensor]:
        if not ("image" in boundary and "text" in boundary):
            return {}
        latents = (boundary["image"]["latent"], boundary["text"]["latent"])
        return {"contrastive": contrastive(*latents, model.logit_scale, batch.get("paired"))}

    def logits_of(self, model: Any, boundary: Mapping[str, Boundary]) -> Tensor | None:
        if not ("image" in boundary and "text" in boundary):
            return None
        image, text = (F.normalize(boundary[tower]["latent"].float(), dim=-1) for tower in ("image", "text"))
        return model.logit_scale.detach().float().exp() * image @ text.T  # type: ignore[no-any-return]

    def logits_mask(self, batch: Batch) -> Tensor | None:
        return batch.get("paired")
