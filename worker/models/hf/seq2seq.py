"""transformers' encoder-decoders taken apart: T5, BART, Whisper and their kin."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from worker.errors import RecipeError
from worker.models.base import Batch, Boundary, ModuleSpec, Patterns, entry
from worker.models.hf.text import IGNORED, TextAdapter, token_loss


class Seq2SeqAdapter(TextAdapter):
    """Batches hold the encoder's input, ``input_ids`` or ``text`` [B, L] (perhaps with ``attention_mask``) or, of a
    model of speech, ``input_features`` [B, bins, frames]; and ``labels`` [B, M], -100 where nothing is to be predicted.

    The decoder reads the labels moved right by one, or ``decoder_input_ids`` [B, M]; its logits [B, M, classes] predict
    the labels at the same positions. What is shared by both belongs to the encoder, as the first module.
    """

    logits = ("decoder", "logits")

    def __init__(self, model: Any) -> None:
        names = {id(module): name for name, module in model.named_modules()}
        encoder, decoder = names[id(model.get_encoder())], names[id(model.get_decoder())]
        head = names[id(model.get_output_embeddings())]
        self.modules = (
            ModuleSpec("encoder", encoder, _stack(model, encoder), matched=("tokens",)),
            ModuleSpec("decoder", (decoder, head), _stack(model, decoder), inputs=("encoder",)),
        )
        self.pad = model.config.pad_token_id
        self._start = getattr(model.config, "decoder_start_token_id", None)
        self._hears = model.main_input_name == "input_features"

    def run(self, model: Any, module: str, batch: Batch, boundary: Mapping[str, Boundary]) -> Boundary:
        given = {} if self._hears else {"attention_mask": self.token_mask(batch)}
        if module == "encoder":
            inputs = entry(batch, "input_features") if self._hears else self.token_ids(batch)
            return {"tokens": model.get_encoder()(inputs, **given).last_hidden_state}
        encoded = BaseModelOutput(last_hidden_state=boundary["encoder"]["tokens"])
        # Through the model's own forward: what stands between decoder and logits is its own affair.
        output = model(encoder_outputs=encoded, decoder_input_ids=self._decoder_input(batch), use_cache=False, **given)
        return {"logits": output.logits}

    def mask(self, module: str, name: str, batch: Batch) -> Tensor | None:
        if module == "encoder":
            return None if self._hears else self.token_mask(batch)
        return entry(batch, "labels") != IGNORED

    def task_terms(self, model: Any, batch: Batch, boundary: Mapping[str, Boundary]) -> dict[str, Tensor]:
        if "decoder" not in boundary:
            return {}
        return {"tokens": token_loss(boundary["decoder"]["logits"], entry(batch, "labels"))}

    def _decoder_input(self, batch: Batch) -> Tensor:
        if "decoder_input_ids" in batch:
            return batch["decoder_input_ids"]
        if self._start is None or self.pad is None:
            raise RecipeError(
                "the model's configuration has no decoder_start_token_id and pad_token_id to make the decoder's input "
                "of: add them (options), or give batches decoder_input_ids"
            )
        labels = entry(batch, "labels")
        moved = labels.roll(1, dims=1)
        moved[:, 0] = self._start
        return moved.masked_fill(moved == IGNORED, self.pad)


def _stack(model: nn.Module, path: str) -> Patterns:
    """The glob of the layers in a tower: its longest list of modules."""
    tower = model.get_submodule(path)
    lists = [(len(module), name) for name, module in tower.named_children() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise RecipeError(f"{path} of {type(model).__name__} has no list of layers; name its modules under `modules`")
    return f"{path}.{max(lists)[1]}.*"
