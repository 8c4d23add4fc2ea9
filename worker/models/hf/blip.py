"""The modules of transformers' BLIP for captions: an image tower, and a text decoder that reads it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from worker.models.base import Batch, Boundary, ModuleSpec, OwnForward, entry
from worker.models.hf.text import IGNORED, TextAdapter, token_loss


class BlipAdapter(TextAdapter):
    """The adapter of BLIP: batches have ``pixel_values`` (or ``image``) [B, C, H, W] and text as in `TextAdapter`.

    The logits at position i predict token i + 1 (Li et al. 2022, arXiv 2201.12086); those of the last position are left
    out.
    """

    modules: tuple[ModuleSpec, ...] = (
        ModuleSpec(
            "image", path="vision_model", layers="vision_model.encoder.layers.*", matched=("tokens",), textless=True
        ),
        ModuleSpec("text", path="text_decoder", layers="text_decoder.bert.encoder.layer.*", inputs=("image",)),
    )
    logits = ("text", "logits")
    task_weights: Mapping[str, float] = {"caption": 1.0}

    def __init__(self, config: Any) -> None:
        super().__init__(config.text_config)

    def run(self, model: Any, module: str, batch: Batch, boundary: Mapping[str, Boundary]) -> Boundary:
        """Run one module and return its boundary tensors."""
        if module == "image":
            return {"tokens": model.vision_model(entry(batch, "pixel_values", "image")).last_hidden_state}
        output = model.text_decoder(
            input_ids=self.token_ids(batch),
            attention_mask=self.token_mask(batch),
            encoder_hidden_states=boundary["image"]["tokens"],
            use_cache=False,
        )
        return {"logits": output.logits[:, :-1]}

    def mask(self, module: str, name: str, batch: Batch) -> Tensor | None:
        """Return which positions of a tensor count."""
        if module == "image":
            return None
        return self.targets(batch) != IGNORED if name == "logits" else self.token_mask(batch)

    def task_terms(self, model: Any, batch: Batch, boundary: Mapping[str, Boundary]) -> dict[str, Tensor]:
        """Compute the task losses of these boundary tensors."""
        if "text" not in boundary:
            return {}
        # BLIP's own loss is smoothed by .1 unless its configuration says otherwise.
        smoothing = model.text_decoder.label_smoothing
        return {"caption": token_loss(boundary["text"]["logits"], self.targets(batch), smoothing)}

    def own_forward(self, model: Any, batch: Batch) -> OwnForward:
        """Run the model by its own forward pass, with its own loss."""
        output = model(
            pixel_values=entry(batch, "pixel_values", "image"),
            input_ids=self.token_ids(batch),
            attention_mask=self.token_mask(batch),
            labels=self.own_labels(batch),
        )
        return OwnForward(output.logits[:, :-1], {"caption": output.loss})
