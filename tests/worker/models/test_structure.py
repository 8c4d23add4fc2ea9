"""The modules that are found in models of transformers, and the model's own forward pass as a module-wise model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.zoo.configs import CONFIGS, build
from worker.distill.arms import ownership
from worker.distill.modular import ModularModel
from worker.models.hf.adapters import find_adapter
from worker.models.hf.loader import HfModel

CUT = (
    "opt", "qwen3_moe", "bert_masked", "bert_classifier", "deberta", "vit_encoder", "dinov2", "clip_vision", "swin",
    "convnext", "resnet", "segformer", "wav2vec2_ctc", "moonshine", "pix2struct", "vit_gpt2", "trocr", "donut",
    "speech_frame", "bert2bert", "blip2", "llava", "llava_long", "gemma3", "internvl", "idefics3", "mistral3",
    "qwen2_5_vl", "qwen3_vl", "florence2", "qwen2_audio", "clip", "siglip", "clap", "detr",
)  # fmt: skip
"""The classes from which a student is cut here; benchmarks.zoo cuts all of them."""


def own_logits(model: Any, output: Any, positions: int) -> Tensor:
    """Return the model's own logits at the positions that are compared."""
    if output.get("logits") is None:
        return torch.stack([output["start_logits"], output["end_logits"]], 1)
    logits: Tensor = output["logits"]
    if logits.ndim == 4:
        return logits.permute(0, 2, 3, 1).flatten(1, 2)
    return logits[:, :-1][:, -positions:] if model.can_generate() and not model.config.is_encoder_decoder else logits


# Of transformers' own: frames of two models train otherwise since 2021, and a mask has another type than a bias.
@pytest.mark.filterwarnings("ignore:Version v4:FutureWarning", "ignore:Support for mismatched:UserWarning")
@pytest.mark.parametrize("name", CONFIGS)
def test_every_class_has_its_modules_and_computes_what_it_does_by_itself(name: str) -> None:
    model, batch = build(name).eval(), CONFIGS[name].batch()
    adapter = find_adapter(model)
    assert tuple(module.name for module in adapter.modules) == CONFIGS[name].modules
    owned = ownership(model, {module.name: module.path for module in adapter.modules})
    assert all(model.get_parameter(parameter).ndim == 0 for parameter in owned.unowned)
    assert all(owned.owned.values())
    modular = ModularModel(model, adapter, {})
    arguments = {**batch, "return_loss": True} if name in ("clip", "siglip", "siglip2", "clap") else batch
    with torch.no_grad():
        outputs, own = modular.run(CONFIGS[name].modules, batch), model(**arguments)
        terms = adapter.task_terms(model, batch, outputs.boundary)
    assert outputs.hidden.keys() == {layer for layers in modular.layers.values() for layer in layers}
    if outputs.logits is not None:
        assert torch.allclose(outputs.logits, own_logits(model, own, outputs.logits.shape[1]), atol=1e-5)
        mask = adapter.logits_mask_for(batch, outputs.logits)
        assert mask is None or mask.shape == outputs.logits.shape[:-1]
    if isinstance(own.get("loss"), Tensor):
        assert torch.allclose(torch.stack(list(terms.values())).sum(), own["loss"].reshape(()), rtol=1e-4)
    for module, layers in modular.layers.items():
        mask = adapter.mask_for(module, "hidden", batch, outputs.hidden[layers[-1]])
        assert mask is None or mask.shape == outputs.hidden[layers[-1]].shape[:-1]
    if name in CUT:
        teacher = HfModel(model.train(), adapter, "/nowhere", {}, "fresh")
        student = teacher.cut(CONFIGS[name].keep, adapter)
        assert tuple(module.name for module in student.adapter.modules) == CONFIGS[name].modules
        assert type(student.adapter) is type(adapter)
        cut = ModularModel(student.model, student.adapter, {})
        expected = {module: len(layers) for module, layers in modular.layers.items()}
        assert {module: len(layers) for module, layers in cut.layers.items()} == {**expected, **CONFIGS[name].keep}
        student.check_export()
