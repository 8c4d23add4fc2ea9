"""The modules of open_clip's CLIP: image tower and text tower, which meet only in the contrastive loss."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor, nn

from worker.models.base import Adapter, Batch, Boundary, ModuleSpec, OwnForward, entry
from worker.models.open_clip.towers import TextPositions, checkpoint_activations, layer_paths
from worker.models.task_losses import contrastive


class ClipAdapter(Adapter):
    """The adapter of CLIP and SigLIP: batches have ``image`` [B, C, H, W], ``text`` [B, L], ``paired`` as for CoCa.

    The logits are the similarities of every image with every text, [B, B]. They need both towers, so no module computes
    them alone: under ``train: forced`` a tower is compared layer by layer and by its embedding, and the contrastive
    loss and the similarities are only in the joint rounds of the tail. (Comparing the similarities of a student's tower
    with the teacher's other tower would double the cost of a round, and teaches nothing that the embedding does not.)

    Args:
        model: Either of open_clip's two kinds of CLIP: with a text tower, or with the text tower's components next to
            the image tower. One with a ``logit_bias`` is a SigLIP: its loss is the sigmoid one.
    """

    task_weights: Mapping[str, float] = {"contrastive": 1.0}

    def __init__(self, model: nn.Module) -> None:
        own = hasattr(model, "text")
        pieces = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")
        children = {name for name, _ in model.named_children()} | {
            name for name, _ in model.named_parameters(recurse=False)
        }
        text = "text" if own else tuple(name for name in pieces if name in children)
        self._positions = TextPositions.of(model)
        self.modules = (
            ModuleSpec("image", path="visual", layers=layer_paths(model, "visual"), matched=("latent",)),
            ModuleSpec(
                "text", path=text, layers=layer_paths(model, "text" if own else "transformer"), matched=("latent",)
            ),
        )

    def run(self, model: Any, module: str, batch: Batch, boundary: Mapping[str, Boundary]) -> Boundary:
        """Run one module and return its boundary tensors."""
        if module == "image":
            return {"latent": model.encode_image(_image(batch))}
        return {"latent": model.encode_text(_text(batch))}

    def checkpoint_activations(self, model: Any) -> None:
        """Make the model recompute its layers in the backward pass."""
        checkpoint_activations(model)

    def mask(self, module: str, name: str, batch: Batch) -> Tensor | None:
        """Return which positions of a tensor count."""
        return None if module == "image" or name == "latent" else self._positions.mask(_text(batch))

    def task_terms(self, model: Any, batch: Batch, boundary: Mapping[str, Boundary]) -> dict[str, Tensor]:
        """Compute the task losses of these boundary tensors."""
        if not ("image" in boundary and "text" in boundary):
            return {}
        latents = (boundary["image"]["latent"], boundary["text"]["latent"])
        return {"contrastive": contrastive(*latents, model.logit_scale, batch.get("paired"), model.logit_bias)}

    def embeddings_of(self, model: Any, boundary: Mapping[str, Boundary]) -> Boundary | None:
        """Return the embeddings of both towers."""
        if not ("image" in boundary and "text" in boundary):
            return None
        scale = model.logit_scale.detach().float().exp()
        return {"image": boundary["image"]["latent"], "text": boundary["text"]["latent"], "scale": scale}

    def logits_of(self, model: Any, boundary: Mapping[str, Boundary]) -> Tensor | None:
        """Return the similarities of the batch's own rows, if these boundary tensors are enough."""
        embeddings = self.embeddings_of(model, boundary)
        if embeddings is None:
            return None
        image, text = (F.normalize(embeddings[tower].float(), dim=-1) for tower in ("image", "text"))
        similarity: Tensor = embeddings["scale"] * image @ text.T
        return similarity if model.logit_bias is None else similarity + model.logit_bias.detach().float()

    def logits_mask(self, batch: Batch) -> Tensor | None:
        """Return which rows of the logits count."""
        return batch.get("paired")

    def own_forward(self, model: Any, batch: Batch) -> OwnForward:
        """Run the model by its own forward pass, with open_clip's loss: the softmax or the sigmoid one."""
        image, text, scale, *bias = model(_image(batch), _text(batch))
        logits = model.get_logits(_image(batch), _text(batch))[0]
        paired = batch.get("paired")
        rows = slice(None) if paired is None else paired.bool()
        loss = SigLipLoss() if bias else ClipLoss()
        return OwnForward(logits, {"contrastive": loss(image[rows], text[rows], scale, *bias)})


def _image(batch: Batch) -> Tensor:
    return entry(batch, "image", "pixel_values")


def _text(batch: Batch) -> Tensor:
    return entry(batch, "text", "input_ids")
