"""The modules of open_clip's CLIP: image tower and text tower, which meet only in the contrastive loss."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from worker.models.base import Adapter, Batch, Boundary, ModuleSpec, entry
from worker.models.task_losses import contrastive


class ClipAdapter(Adapter):
    """The adapter of CLIP: batches have ``image`` [B, C, H, W], ``text`` [B, L] (0 is padding), ``paired`` as for CoCa.

    The logits are the similarities of every image with every text, [B, B]. They need both towers, so no module computes
    them alone: under ``train: forced`` a tower is compared layer by layer and by its embedding, and the contrastive
    loss and the similarities are only in the joint rounds of the tail.

    Args:
        model: Either of open_clip's two kinds of CLIP: with a text tower, or with the text tower's components next to
            the image tower.
    """

    task_weights: Mapping[str, float] = {"contrastive": 1.0}

    def __init__(self, model: nn.Module) -> None:
        own = hasattr(model, "text")
        pieces = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")
        children = {name for name, _ in model.named_children()} | {
            name for name, _ in model.named_parameters(recurse=False)
        }
        # A class token comes after the text.
        self._class_token = own and getattr(model.text, "cls_emb", None) is not None
        text = "text" if own else tuple(name for name in pieces if name in children)
        layers = "text.transformer.resblocks.*" if own else "transformer.resblocks.*"
        self.modules = (
            ModuleSpec("image", path="visual", layers="visual.transformer.resblocks.*", matched=("latent",)),
            ModuleSpec("text", path=text, layers=layers, matched=("latent",)),
        )

    def run(self, model: Any, module: str, batch: Batch, boundary: Mapping[str, Boundary]) -> Boundary:
        """Run one module and return its boundary tensors."""
        if module == "image":
            return {"latent": model.encode_image(entry(batch, "image", "pixel_values"))}
        return {"latent": model.encode_text(entry(batch, "text", "input_ids"))}

    def checkpoint_activations(self, model: Any) -> None:
        """Make the model recompute its layers in the backward pass."""
        # open_clip's own checkpointing is non-reentrant.
        model.set_grad_checkpointing(True)

    def mask(self, module: str, name: str, batch: Batch) -> Tensor | None:
        """Return which positions of a tensor count."""
        if module == "image" or name == "latent":
            return None
        not_padding = entry(batch, "text", "input_ids") != 0
        return F.pad(not_padding, (0, 1), value=True) if self._class_token else not_padding

    def task_terms(self, model: Any, batch: Batch, boundary: Mapping[str, Boundary]) -> dict[str, Tensor]:
        """Compute the task losses of these boundary tensors."""
        if not ("image" in boundary and "text" in boundary):
            return {}
        latents = (boundary["image"]["latent"], boundary["text"]["latent"])
        return {"contrastive": contrastive(*latents, model.logit_scale, batch.get("paired"))}

    def logits_of(self, model: Any, boundary: Mapping[str, Boundary]) -> Tensor | None:
        """Return the logits, if these boundary tensors are enough."""
        if not ("image" in boundary and "text" in boundary):
            return None
        image, text = (F.normalize(boundary[tower]["latent"].float(), dim=-1) for tower in ("image", "text"))
        return model.logit_scale.detach().float().exp() * image @ text.T  # type: ignore[no-any-return]

    def logits_mask(self, batch: Batch) -> Tensor | None:
        """Return which positions of the logits count."""
        return batch.get("paired")
