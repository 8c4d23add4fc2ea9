"""The choice of the adapter for a model of transformers."""

from collections.abc import Sequence
from typing import Any

from worker.models.base import Adapter
from worker.models.generic import GenericAdapter, adapter_or_generic
from worker.models.hf.blip import BlipAdapter
from worker.models.hf.decoder import decoder_adapter
from worker.models.hf.seq2seq import Seq2SeqAdapter


def find_adapter(model: Any, sizes: Sequence[int] | None = None) -> Adapter:
    """Return the adapter of a model; the generic one, without modules, if its structure is not known or is unusual.

    Args:
        model: A model of transformers.
        sizes: Number of layers of each module, for a model that was cut.
    """
    return adapter_or_generic(lambda: _find(model, sizes))


def _find(model: Any, sizes: Sequence[int] | None = None) -> Adapter:
    if model.config.model_type == "blip" and hasattr(model, "text_decoder"):
        return BlipAdapter(model.config)
    if getattr(model.config, "is_encoder_decoder", False) and model.get_output_embeddings() is not None:
        return Seq2SeqAdapter(model)
    return decoder_adapter(model, sizes) or GenericAdapter()
