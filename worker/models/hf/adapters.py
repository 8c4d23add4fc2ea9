"""The choice of the adapter for a model of transformers."""

from collections.abc import Mapping
from typing import Any

from worker.models.base import Adapter
from worker.models.generic import GenericAdapter
from worker.models.hf.blip import BlipAdapter
from worker.models.hf.decoder import decoder_adapter
from worker.models.hf.seq2seq import Seq2SeqAdapter
from worker.models.hf.structure import find_structure
from worker.models.hf.whole import WholeAdapter


def find_adapter(model: Any, sizes: Mapping[str, int] | None = None) -> Adapter:
    """Return the adapter of a model; the generic one, without modules, if its structure is not known.

    A few families have one that runs their modules alone, so that an arm costs less. All others are run as a whole.

    Args:
        model: A model of transformers.
        sizes: Number of layers of each module, for a model that was cut.
    """
    if model.config.model_type == "blip" and type(model).__name__ == "BlipForConditionalGeneration":
        return BlipAdapter(model.config)
    structure = find_structure(model, sizes)
    if not structure.modules:
        return GenericAdapter()
    if Seq2SeqAdapter.fits(model, structure):
        return Seq2SeqAdapter(model, structure)
    return decoder_adapter(model, structure) or WholeAdapter(model, structure)
