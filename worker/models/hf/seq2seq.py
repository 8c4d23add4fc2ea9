"""The modules of transformers' encoder-decoder models: T5, BART, Whisper and similar ones."""

import re
from collections.abc import Mapping
from dataclasses import replace
from inspect import signature
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutput

from worker.errors import RecipeError
from worker.models.base import Batch, Boundary, OwnForward, entry
from worker.models.hf.structure import Structure
from worker.models.hf.text import IGNORED, TextAdapter, token_loss

_OWN = {"self", "input_ids", "input_features", "labels", "decoder_input_ids", "encoder_outputs", "use_cache"}
"""Parameters of forward passes that the adapter fills itself."""


class Seq2SeqAdapter(TextAdapter):
    """The adapter of encoder-decoder models.

    Batches have the encoder's input: ``input_ids`` or ``text`` [B, L] (optionally with ``attention_mask``), or for
    audio ``input_features`` [B, bins, frames]; and ``labels`` [B, M], -100 at positions that are not predicted.

    The decoder reads the labels shifted right by one, or ``decoder_input_ids`` [B, M]; its logits [B, M, classes]
    predict the labels at the same positions. Parameters that both share belong to the encoder, as the first module.
    """

    logits = ("decoder", "logits")

    def __init__(self, model: Any, structure: Structure) -> None:
        super().__init__(model.config)
        encoder, decoder = structure.modules
        self.modules = (
            replace(encoder, inputs=(), matched=("tokens",)),
            replace(decoder, inputs=("encoder",)),
        )
        self._start = getattr(model.config, "decoder_start_token_id", None)
        self._reads_audio = model.main_input_name == "input_features"

    @staticmethod
    def fits(model: Any, structure: Structure) -> bool:
        """Return whether a model has such an encoder and decoder, of one configuration, and nothing else."""
        names = tuple(module.name for module in structure.modules)
        # Others, such as mixtures of experts, hand more than the encoder's hidden states to the decoder.
        plain = re.search(r"\bSeq2SeqLMOutput\b", str(signature(type(model).forward).return_annotation))
        reads = getattr(model, "main_input_name", None) in ("input_ids", "input_features")
        frames = isinstance(getattr(model.config, "encoder", None), PreTrainedConfig)
        usual = names == ("encoder", "decoder") and reads and not frames
        return usual and plain is not None and model.get_output_embeddings() is not None

    def run(self, model: Any, module: str, batch: Batch, boundary: Mapping[str, Boundary]) -> Boundary:
        """Run one module and return its boundary tensors."""
        if module == "encoder":
            inputs = entry(batch, "input_features") if self._reads_audio else self.token_ids(batch)
            encoder = model.get_encoder()
            return {"tokens": encoder(inputs, **self._others(encoder, batch)).last_hidden_state}
        encoded = BaseModelOutput(last_hidden_state=boundary["encoder"]["tokens"])
        # Through the model's own forward, which knows the layers between decoder and logits.
        ids, others = self._decoder_input(batch), self._others(model, batch)
        output = model(encoder_outputs=encoded, decoder_input_ids=ids, use_cache=False, **others)
        return {"logits": output.logits}

    def mask(self, module: str, name: str, batch: Batch) -> Tensor | None:
        """Return which positions of a tensor count."""
        if module == "encoder":
            return None if self._reads_audio else self.token_mask(batch)
        return entry(batch, "labels") != IGNORED

    def task_terms(self, model: Any, batch: Batch, boundary: Mapping[str, Boundary]) -> dict[str, Tensor]:
        """Compute the task losses of these boundary tensors."""
        if "decoder" not in boundary:
            return {}
        return {"tokens": token_loss(boundary["decoder"]["logits"], entry(batch, "labels"))}

    def own_forward(self, model: Any, batch: Batch) -> OwnForward:
        """Run the model by its own forward pass, with its own loss."""
        inputs = self._others(model, batch)
        if self._reads_audio:
            inputs["input_features"] = entry(batch, "input_features")
        else:
            inputs["input_ids"] = self.token_ids(batch)
        if "decoder_input_ids" in batch:
            inputs["decoder_input_ids"] = batch["decoder_input_ids"]
        output = model(**inputs, labels=entry(batch, "labels"), use_cache=False)
        return OwnForward(output.logits, {"tokens": output.loss})

    def _others(self, module: Any, batch: Batch) -> dict[str, Any]:
        """Return the mask, and what else of a batch the forward pass of a PyTorch module names."""
        names = signature(type(module).forward).parameters.keys() - _OWN
        others = {name: batch[name] for name in names if name in batch}
        return others if self._reads_audio else {**others, "attention_mask": self.token_mask(batch)}

    def _decoder_input(self, batch: Batch) -> Tensor:
        if "decoder_input_ids" in batch:
            return batch["decoder_input_ids"]
        if self._start is None or self.pad is None:
            raise RecipeError(
                "the model's configuration lacks decoder_start_token_id or pad_token_id, which the decoder's input is "
                "made with; add them under options, or add decoder_input_ids to the batches"
            )
        labels = entry(batch, "labels")
        shifted = labels.roll(1, dims=1)
        shifted[:, 0] = self._start
        return shifted.masked_fill(shifted == IGNORED, self.pad)
