"""The modules that are found in models of transformers, and the model's own forward pass as a module-wise model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from benchmarks.zoo.configs import CONFIGS, build
from worker.distill.arms import layer_pairs, ownership
from worker.distill.modular import ModularModel
from worker.distill.objective import LossWeights, Objective
from worker.distill.plan import Planner
from worker.distill.student import Student
from worker.distill.teacher import Teacher
from worker.errors import RecipeError
from worker.models.hf.adapters import find_adapter
from worker.models.hf.loader import HfModel, load
from worker.models.hf.model_class import model_class
from worker.models.hf.whole import WholeAdapter
from worker.models.paths import layer_names
from worker.setup.forced import with_stand_ins
from worker.setup.models import Models
from worker.setup.shape_check import compare_shapes

CUT = (
    "qwen3_moe", "bert_masked", "bert_classifier", "dinov2", "clip_vision", "swin", "convnext", "resnet", "segformer",
    "timm_resnet", "wav2vec2_ctc", "pix2struct", "vit_gpt2", "donut", "speech_frame", "bert2bert", "blip2", "llava",
    "gemma3", "idefics3", "mistral3", "qwen3_vl", "florence2", "qwen2_audio", "siglip", "clap",
)  # fmt: skip
"""The classes from which a student is cut here; benchmarks.zoo cuts all of them."""
OWN_WARNINGS = ("ignore:Version v4:FutureWarning", "ignore:Support for mismatched:UserWarning")
"""Of transformers: frames of two models train otherwise since 2021; a mask has another type than a bias."""


def own_logits(model: Any, output: Any, positions: int) -> Tensor:
    """Return the model's own logits at the positions that are compared."""
    if output.get("logits") is None:
        return torch.stack([output["start_logits"], output["end_logits"]], 1)
    logits: Tensor = output["logits"]
    if logits.ndim == 4:
        return logits.permute(0, 2, 3, 1).flatten(1, 2)
    return logits[:, :-1][:, -positions:] if model.can_generate() and not model.config.is_encoder_decoder else logits


@pytest.mark.filterwarnings(*OWN_WARNINGS)
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


def test_layers_of_a_whole_language_model_are_spread_over_its_thirds() -> None:
    teacher = HfModel(build("llava_long"), find_adapter(build("llava_long")), "/nowhere", {}, "fresh")
    student = teacher.cut({"image": 2, "language": 4}, teacher.adapter)
    sizes = {name: len(layers) for name, layers in layer_names(student.model, student.adapter).items()}
    assert sizes == {"image": 2, "connector": 1, "lower": 1, "middle": 1, "upper": 2}
    with pytest.raises(RecipeError, match=r"2 layers of language, which is lower, middle, upper; keep at least 3"):
        teacher.cut({"language": 2}, teacher.adapter)
    with pytest.raises(RecipeError, match=r"keep names language and upper, which is a part of it; remove one of them"):
        teacher.cut({"language": 3, "upper": 1}, teacher.adapter)
    whisper = HfModel(build("whisper"), find_adapter(build("whisper")), "/nowhere", {}, "fresh")
    with pytest.raises(RecipeError, match=r"keep names 'language', but the modules .* are encoder, decoder"):
        whisper.cut({"language": 2}, whisper.adapter)


def usual_class(config: Any) -> str:
    """Return the name of the class that is loaded for a configuration."""
    name: str = model_class("hf:model", config, "model", {}, {}).__name__
    return name


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ("BertConfig", "BertForMaskedLM"),
        ("GPT2Config", "GPT2LMHeadModel"),
        ("T5Config", "T5ForConditionalGeneration"),
        ("WhisperConfig", "WhisperForConditionalGeneration"),
        ("BlipConfig", "BlipForConditionalGeneration"),
        ("LlavaConfig", "LlavaForConditionalGeneration"),
        ("Gemma3Config", "Gemma3ForConditionalGeneration"),
        ("Qwen2AudioConfig", "Qwen2AudioForConditionalGeneration"),
        ("VisionEncoderDecoderConfig", "VisionEncoderDecoderModel"),
        ("DetrConfig", "DetrForObjectDetection"),
        ("CLIPConfig", "CLIPModel"),
        ("ViTConfig", "ViTModel"),
        ("HubertConfig", "HubertModel"),
    ],
)
def test_the_class_of_a_configuration_that_names_none_is_that_of_its_usual_task(config: str, kind: str) -> None:
    halves = {"encoder": {"model_type": "vit"}, "decoder": {"model_type": "gpt2"}} if "EncoderDec" in config else {}
    assert usual_class(getattr(transformers, config)(**halves)) == kind


def test_an_encoder_that_can_decode_does_so_where_its_configuration_says_it() -> None:
    assert usual_class(transformers.BertConfig(is_decoder=True)) == "BertLMHeadModel"
    assert usual_class(transformers.BertConfig(architectures=["BertForPreTraining"])) == "BertForPreTraining"


def test_a_model_without_a_stack_has_no_modules() -> None:
    model: Any = transformers.XLMModel(transformers.XLMConfig(vocab_size=20, emb_dim=16, n_layers=2, n_heads=2))
    assert find_adapter(model).modules == ()


def test_padding_of_a_text_without_a_mask_is_not_attended_to() -> None:
    model, batch = build("bert_masked").eval(), CONFIGS["bert_masked"].batch()
    adapter: Any = find_adapter(model)
    with torch.no_grad():
        ours = adapter.run_whole(model, {"text": batch["input_ids"], "labels": batch["labels"]})
        theirs = adapter.run_whole(model, batch)
    assert torch.equal(ours["upper"]["logits"], theirs["upper"]["logits"])
    assert torch.equal(adapter.mask("lower", "hidden", {"text": batch["input_ids"]}), batch["attention_mask"].bool())


def test_frames_of_padding_do_not_count() -> None:
    model, batch = build("wav2vec2_ctc"), CONFIGS["wav2vec2_ctc"].batch()
    adapter = find_adapter(model)
    mask = adapter.mask("lower", "hidden", batch)
    lengths = model._get_feat_extract_output_lengths(batch["attention_mask"].sum(-1))
    assert mask is not None
    assert mask.sum(-1).tolist() == lengths.tolist()
    assert lengths[0] < lengths[1] == mask.shape[1]
    assert adapter.mask("lower", "hidden", {"input_values": batch["input_values"]}) is None


def test_a_detectors_losses_are_those_of_all_its_decoders_layers() -> None:
    fields = CONFIGS["detr"].config()
    fields.auxiliary_loss = True
    torch.manual_seed(0)
    kind: Any = transformers.DetrForObjectDetection
    model = kind(fields).eval()
    batch, adapter = CONFIGS["detr"].batch(), find_adapter(model)
    with torch.no_grad():
        terms = adapter.task_terms(model, batch, adapter.run_whole(model, batch))
        own = model(**batch)
    assert terms.keys() == {"loss_ce", "loss_bbox", "loss_giou"}
    assert torch.allclose(torch.stack(list(terms.values())).sum(), own.loss)
    expected = sum(part for name, part in own.loss_dict.items() if name.startswith("loss_giou"))
    assert torch.allclose(terms["loss_giou"], model.config.giou_loss_coefficient * expected)


def test_no_layer_is_left_out_at_random(tmp_path: Path) -> None:
    fields = CONFIGS["hubert"].config()
    fields.layerdrop, fields.architectures = 0.5, ["HubertModel"]
    fields.save_pretrained(tmp_path)
    model: Any = load(str(tmp_path), checkpoint=None, options={}, directory=tmp_path, fresh="always").model
    assert model.config.layerdrop == 0


@pytest.mark.filterwarnings(*OWN_WARNINGS)
@pytest.mark.parametrize("name", ["llava", "clip", "detr", "vit_encoder"])
def test_teacher_forced_modules_are_trained_by_what_they_put_out(name: str) -> None:
    model, batch = build(name), CONFIGS[name].batch()
    adapter = find_adapter(model)
    student = HfModel(model, adapter, "/nowhere", {}, "fresh").cut(CONFIGS[name].keep, adapter)
    teacher_modular, modular = ModularModel(model, adapter, {}), ModularModel(student.model, student.adapter, {})
    modules = CONFIGS[name].modules
    pairs = {module: layer_pairs(modular.layers[module], teacher_modular.layers[module]) for module in modules}
    owned = ownership(student.model, {module.name: module.path for module in student.adapter.modules})
    arms = {module: [module] for module in modules}
    models = with_stand_ins(Models(student.adapter, teacher_modular, modular, student, arms, pairs, owned), batch)
    objective = Objective(models.adapter, models.pairs, LossWeights())
    compare_shapes(models, batch, forced=True, objective=objective)
    teacher = Teacher(models.teacher, torch.device("cpu"), torch.float32)
    parameters = dict(student.model.named_parameters())
    planner = Planner(models.adapter.modules, models.adapter.logits[0] if models.adapter.logits else None, "forced")
    for module in modules:
        plan, own = planner.arm([module]), owned.owned[module]
        for key, parameter in parameters.items():
            parameter.grad = None
            parameter.requires_grad_(key in own)
        loss, terms, _ = Student(models.student, objective)(batch, teacher.run(plan.teacher, batch), plan)
        loss.backward()
        assert torch.isfinite(loss)
        reached = {key for key, parameter in parameters.items() if parameter.grad is not None}
        assert reached <= set(own)
        idle = {"post_layernorm", "pooler", "image_newline", "query_position_embeddings"}
        assert all(set(key.split(".")) & idle for key in set(own) - reached)
        ends = module == modules[-1] and name not in ("clip", "vit_encoder")
        assert {term.partition("/")[0] for term in terms} == ({"layers", "logits", "task"} if ends else {"layers"})


def test_layers_that_hold_lists_are_layers() -> None:
    sizes = ("hidden_size", "embedding_size", "true_hidden_size", "intra_bottleneck_size", "intermediate_size")
    fields: dict[str, Any] = {**dict.fromkeys(sizes, 16), "num_hidden_layers": 3, "num_attention_heads": 2}
    fields["vocab_size"] = 20
    adapter = find_adapter(transformers.MobileBertModel(transformers.MobileBertConfig(**fields)))
    assert [module.layers for module in adapter.modules] == [(f"encoder.layer.{number}",) for number in range(3)]


def test_masks_are_those_of_the_positions_that_a_layer_puts_out() -> None:
    batch = CONFIGS["bert_encoder"].batch()
    adapter, mask = find_adapter(build("bert_encoder")), batch["attention_mask"].bool()
    rows, positions = mask.shape
    first = adapter.mask_for("lower", "hidden", batch, torch.zeros(positions, rows, 4))
    assert first is not None
    assert torch.equal(first, mask.T)
    choices = {name: tensor[:, None].repeat(1, 3, 1) for name, tensor in batch.items()}
    several = adapter.mask_for("upper", "hidden", choices, torch.zeros(3 * rows, positions, 4))
    assert several is not None
    assert torch.equal(several, mask.repeat_interleave(3, 0))


@pytest.mark.parametrize("kind", ["SwitchTransformers", "ProphetNet"])
def test_an_encoder_that_hands_over_more_than_hidden_states_is_run_as_a_whole(kind: str) -> None:
    fields = {"hidden_size": 16, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2, "num_layers": 2,
              "vocab_size": 20, "num_experts": 2, "num_encoder_layers": 2, "num_decoder_layers": 2,
              "num_encoder_attention_heads": 2, "num_decoder_attention_heads": 2, "encoder_ffn_dim": 32,
              "decoder_ffn_dim": 32}  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(**fields)
    adapter = find_adapter(getattr(transformers, f"{kind}ForConditionalGeneration")(config))
    assert isinstance(adapter, WholeAdapter)
