"""Students cut from models of transformers: each layer is the teacher's, and the export is the student."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from worker.errors import RecipeError
from worker.models.base import Adapter, ModuleSpec
from worker.models.generic import GenericAdapter, NamedModule, RegroupedAdapter
from worker.models.hf.loader import HfModel, load
from worker.recipe.recipe import read_recipe
from worker.setup.models import load_models

SMALL = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODER = {**SMALL, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1,
           "head_dim": 8, "max_position_embeddings": 64}  # fmt: skip
MOE = {**DECODER, "moe_intermediate_size": 8, "num_experts_per_tok": 2}
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2,
          "image_size": 8, "patch_size": 4}  # fmt: skip
MLA = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
LAYER_TYPES = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"] * 2


def config(kind: str, **fields: Any) -> Any:
    return getattr(transformers, kind)(**fields)


def llama(**fields: Any) -> dict[str, Any]:
    return {"model_type": "llama", **DECODER, "num_hidden_layers": 4, **fields}


# Class, configuration, stacks by module, kept layers by module.
CASES: dict[str, tuple[str, Any, dict[str, str], dict[str, list[int]]]] = {
    "qwen2_moe": (
        "Qwen2MoeForCausalLM",
        lambda: config("Qwen2MoeConfig", **MOE, num_hidden_layers=8, num_experts=4, decoder_sparse_step=2,
                       shared_expert_intermediate_size=8, mlp_only_layers=[3]),
        {"text": "model.layers"},
        {"text": [1, 3, 5, 7]},
    ),
    "qwen2_moe, five of eight": (
        "Qwen2MoeForCausalLM",
        lambda: config("Qwen2MoeConfig", **MOE, num_hidden_layers=8, num_experts=4, decoder_sparse_step=2,
                       shared_expert_intermediate_size=8),
        {"text": "model.layers"},
        {"text": [0, 2, 3, 5, 7]},
    ),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        lambda: config("DeepseekV3Config", **{**MOE, "head_dim": 4}, **MLA, num_hidden_layers=6,
                       n_routed_experts=4, n_group=1, topk_group=1, n_shared_experts=1, first_k_dense_replace=3),
        {"text": "model.layers"},
        {"text": [1, 3, 5]},
    ),
    "llama4": (
        "Llama4ForCausalLM",
        lambda: config("Llama4TextConfig", **DECODER, intermediate_size_mlp=32, num_hidden_layers=8,
                       num_local_experts=2, interleave_moe_layer_step=2, no_rope_layer_interval=4),
        {"text": "model.layers"},
        {"text": [1, 3, 5, 7]},
    ),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        lambda: config("GPTNeoConfig", **SMALL, hidden_size=16, num_layers=6, num_heads=2, window_size=4,
                       attention_types=[[["global", "local"], 3]], max_position_embeddings=64),
        {"text": "transformer.h"},
        {"text": [1, 3, 5]},
    ),
    "gemma3": (
        "Gemma3ForCausalLM",
        lambda: config("Gemma3TextConfig", **DECODER, num_hidden_layers=8, layer_types=LAYER_TYPES, sliding_window=4),
        {"text": "model.layers"},
        {"text": [1, 3, 5, 7]},
    ),
    "qwen3_next": (
        "Qwen3NextForCausalLM",
        lambda: config("Qwen3NextConfig", **MOE, num_hidden_layers=8, num_experts=4, linear_num_key_heads=2,
                       linear_num_value_heads=2, linear_key_head_dim=8, linear_value_head_dim=8,
                       shared_expert_intermediate_size=8),
        {"text": "model.layers"},
        {"text": [1, 3, 5, 7]},
    ),
    "t5": (
        "T5ForConditionalGeneration",
        lambda: config("T5Config", **SMALL, d_model=16, d_kv=8, d_ff=32, num_heads=2, num_layers=4,
                       num_decoder_layers=4, decoder_start_token_id=0),
        {"encoder": "encoder.block", "decoder": "decoder.block"},
        {"encoder": [1, 3], "decoder": [3]},
    ),
    "bart": (
        "BartForConditionalGeneration",
        lambda: config("BartConfig", **SMALL, d_model=16, encoder_layers=4, decoder_layers=4, encoder_ffn_dim=16,
                       decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2,
                       decoder_start_token_id=2, max_position_embeddings=64),
        {"encoder": "model.encoder.layers", "decoder": "model.decoder.layers"},
        {"decoder": [1, 3]},
    ),
    "llava": (
        "LlavaForConditionalGeneration",
        lambda: config("LlavaConfig", vision_config={"model_type": "clip_vision_model", **VISION},
                       text_config=llama(), image_token_index=39),
        {"image": "model.vision_tower.encoder.layers", "text": "model.language_model.layers"},
        {"image": [1, 3], "text": [3]},
    ),
    "qwen2_vl": (
        "Qwen2VLForConditionalGeneration",
        lambda: config("Qwen2VLConfig", image_token_id=39, video_token_id=38, vision_start_token_id=37,
                       vision_config={"depth": 4, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "patch_size": 4},
                       text_config={**DECODER, "num_hidden_layers": 4,
                                    "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}}),
        {"image": "model.visual.blocks", "text": "model.language_model.layers"},
        {"image": [1, 3], "text": [1, 3]},
    ),
    "qwen2_5_vl": (
        "Qwen2_5_VLForConditionalGeneration",
        lambda: config("Qwen2_5_VLConfig", image_token_id=39, video_token_id=38, vision_start_token_id=37,
                       vision_config={"depth": 8, "hidden_size": 16, "out_hidden_size": 16, "intermediate_size": 32,
                                      "num_heads": 2, "patch_size": 4, "fullatt_block_indexes": [3, 4, 7]},
                       text_config={**DECODER, "num_hidden_layers": 4,
                                    "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}}),
        {"image": "model.visual.blocks", "text": "model.language_model.layers"},
        {"image": [1, 3, 5, 7], "text": [1, 3]},
    ),
    "qwen3_vl": (
        "Qwen3VLForConditionalGeneration",
        lambda: config("Qwen3VLConfig", image_token_id=39, video_token_id=38, vision_start_token_id=37,
                       vision_config={"depth": 8, "hidden_size": 16, "out_hidden_size": 16, "intermediate_size": 32,
                                      "num_heads": 2, "patch_size": 4, "num_position_embeddings": 16,
                                      "deepstack_visual_indexes": [1, 4, 6]},
                       text_config={**DECODER, "num_hidden_layers": 4,
                                    "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]}}),
        {"image": "model.visual.blocks", "text": "model.language_model.layers"},
        {"image": [1, 3, 5, 7]},
    ),
    "gemma3_vision": (
        "Gemma3ForConditionalGeneration",
        lambda: config("Gemma3Config", vision_config=VISION, mm_tokens_per_image=4,
                       text_config={**DECODER, "num_hidden_layers": 8, "layer_types": LAYER_TYPES}),
        {"image": "model.vision_tower.encoder.layers", "text": "model.language_model.layers"},
        {"image": [1, 3], "text": [1, 3, 5, 7]},
    ),
    "paligemma": (
        "PaliGemmaForConditionalGeneration",
        lambda: config("PaliGemmaConfig", vision_config={"model_type": "siglip_vision_model", **VISION},
                       text_config={"model_type": "gemma", **DECODER, "num_hidden_layers": 4}, projection_dim=16),
        {"image": "model.vision_tower.encoder.layers", "text": "model.language_model.layers"},
        {"image": [1, 3], "text": [1, 3]},
    ),
    "idefics3": (
        "Idefics3ForConditionalGeneration",
        lambda: config("Idefics3Config", image_token_id=39, vision_config=VISION, text_config=llama(), scale_factor=2),
        {"image": "model.vision_model.encoder.layers", "text": "model.text_model.layers"},
        {"image": [1, 3], "text": [1, 3]},
    ),
    "smolvlm": (
        "SmolVLMForConditionalGeneration",
        lambda: config("SmolVLMConfig", image_token_id=39, vision_config=VISION, text_config=llama(), scale_factor=2),
        {"image": "model.vision_model.encoder.layers", "text": "model.text_model.layers"},
        {"image": [1, 3], "text": [1, 3]},
    ),
    "mllama": (
        "MllamaForConditionalGeneration",
        lambda: config("MllamaConfig",
                       vision_config={**{key: value for key, value in VISION.items() if "hidden_l" not in key},
                                      "num_hidden_layers": 4, "num_global_layers": 2, "attention_heads": 2,
                                      "vision_output_dim": 48, "intermediate_layers_indices": [0, 3],
                                      "supported_aspect_ratios": [[1, 1]], "max_num_tiles": 1},
                       text_config={**DECODER, "num_hidden_layers": 8, "cross_attention_layers": [3, 6]}),
        {"text": "model.language_model.layers", "image": "model.vision_model.transformer.layers"},
        {"text": [1, 3, 5, 7], "image": [1, 3]},
    ),
    "bert": (
        "BertForMaskedLM",
        lambda: config("BertConfig", **SMALL, hidden_size=16, intermediate_size=32, num_hidden_layers=4,
                       num_attention_heads=2),
        {"text": "bert.encoder.layer"},
        {"text": [1, 3]},
    ),
    "wavlm": (
        "WavLMModel",
        lambda: config("WavLMConfig", hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32,
                       conv_dim=[16] * 4, conv_stride=[4] * 4, conv_kernel=[4] * 4, num_feat_extract_layers=4,
                       num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, num_buckets=8),
        {"audio": "encoder.layers"},
        {"audio": [1, 3]},
    ),
}  # fmt: skip


def made(kind: str, configuration: Any, where: Path = Path("/nowhere")) -> HfModel:
    torch.manual_seed(0)
    model = getattr(transformers, kind)(configuration).float().train()
    return HfModel(model, GenericAdapter(), str(where), {}, "fresh")


def grouped(stacks: dict[str, str]) -> Adapter:
    return RegroupedAdapter(
        GenericAdapter(), [NamedModule(ModuleSpec(name, stack, f"{stack}.*")) for name, stack in stacks.items()]
    )


def by_hand(name: str, stacks: dict[str, str], kept_layers: dict[str, list[int]]) -> str:
    """The teacher's name of a student's tensor."""
    for module, stack in stacks.items():
        if module in kept_layers and name.startswith(f"{stack}."):
            number, rest = name.removeprefix(f"{stack}.").split(".", 1)
            shared = "relative_attention_bias" in rest or "rel_attn_embed" in rest
            return name if shared else f"{stack}.{kept_layers[module][int(number)]}.{rest}"
    return name


@pytest.mark.parametrize("name", CASES)
def test_every_tensor_is_its_source_and_the_export_is_the_student(name: str) -> None:
    kind, configuration, stacks, kept_layers = CASES[name]
    teacher = made(kind, configuration())
    student = teacher.cut({module: len(numbers) for module, numbers in kept_layers.items()}, grouped(stacks))
    ours, theirs = student.model.state_dict(), teacher.model.state_dict()
    for key, value in ours.items():
        assert torch.equal(value, theirs[by_hand(key, stacks, kept_layers)]), key
    for module, stack in stacks.items():
        length = len(list(teacher.model.get_submodule(stack).children()))
        assert len(list(student.model.get_submodule(stack).children())) == len(kept_layers.get(module, range(length)))
    student.check_export()


def inputs(name: str, configuration: Any) -> dict[str, Tensor]:
    """A batch that a case reads, with a picture if it sees."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 30, (1, 20), generator=generator)
    if name == "wavlm":
        return {"input_values": torch.randn(1, 4000, generator=generator)}
    if name in ("t5", "bart"):
        return {"input_ids": ids, "decoder_input_ids": ids[:, :6]}
    image: Any = getattr(configuration, "image_token_id", None)
    pixels = torch.randn(1, 3, 8, 8, generator=generator)
    if name in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        patches = torch.randn(16, 3 * 2 * 4 * 4, generator=generator)
        ids[0, 2:6] = image
        kinds = torch.eq(ids, image).int()
        return {"input_ids": ids, "pixel_values": patches, "image_grid_thw": torch.tensor([[1, 4, 4]]),
                "mm_token_type_ids": kinds}  # fmt: skip
    if name == "mllama":
        return {"input_ids": ids, "pixel_values": pixels[:, None, None],
                "cross_attention_mask": torch.ones(1, 20, 1, 1), "aspect_ratio_ids": torch.ones(1, 1).long(),
                "aspect_ratio_mask": torch.ones(1, 1, 1).long()}  # fmt: skip
    if name in ("llava", "gemma3_vision", "paligemma"):
        ids[0, 2:6] = image
        return {"input_ids": ids, "pixel_values": pixels}
    if name in ("idefics3", "smolvlm"):
        ids[0, 2:3] = image
        return {"input_ids": ids, "pixel_values": pixels[:, None]}
    return {"input_ids": ids}


def leave_out(model: Any, stack: str, kept_layers: list[int]) -> None:
    """Make the layers that are not kept pass on their input, at whatever place of their output it is."""

    def passing(module: Any, arguments: Any, named: Any, output: Any) -> Any:
        hidden = arguments[0] if arguments else named["hidden_states"]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    for number, layer in enumerate(model.get_submodule(stack)):
        if number not in kept_layers:
            layer.register_forward_hook(passing, with_kwargs=True, prepend=True)


@pytest.mark.parametrize("name", CASES)
def test_student_computes_what_the_teacher_does_without_the_other_layers(name: str) -> None:
    kind, configuration, stacks, kept_layers = CASES[name]
    teacher = made(kind, configuration())
    student: Any = teacher.cut({module: len(numbers) for module, numbers in kept_layers.items()}, grouped(stacks)).model
    whole: Any = teacher.model.eval()
    data = inputs(name, whole.config)
    with torch.no_grad():
        before = whole(**data)[0]
        for module, numbers in kept_layers.items():
            leave_out(whole, stacks[module], numbers)
        ours, theirs = student.eval()(**data)[0], whole(**data)[0]
    assert torch.isfinite(ours).all()
    assert torch.allclose(ours, theirs, atol=1e-5), (ours - theirs).abs().max()
    assert not torch.allclose(ours, before, atol=1e-5)


REFUSED: dict[str, tuple[str, Any, str, int, str]] = {
    "a kind that no rhythm describes": (
        "Blip2QFormerModel",
        lambda: config("Blip2QFormerConfig", hidden_size=16, intermediate_size=32, num_hidden_layers=4,
                       num_attention_heads=2, cross_attention_frequency=2, encoder_hidden_size=16),
        "encoder.layer", 2,
        r"cross_attention_frequency: 2\) cannot describe the layers 1, 3 that are kept of encoder\.layer: "
        r"layer 0, from 1: has_cross_attention is True instead of False; .*; keep another number of layers",
    ),
    "layers that compute with their number": (
        "GPT2LMHeadModel",
        lambda: config("GPT2Config", **SMALL, n_embd=16, n_layer=4, n_head=2, scale_attn_by_inverse_layer_idx=True),
        "transformer.h", 2, "scale_attn_by_inverse_layer_idx: true",
    ),
    "deepstack features without a layer": (
        "Qwen3VLForConditionalGeneration", CASES["qwen3_vl"][1], "model.language_model.layers", 2,
        "keep at least 3 layers instead of 2",
    ),
    "deepstack features of the same layer": (
        "Qwen3VLForConditionalGeneration", CASES["qwen3_vl"][1], "model.visual.blocks", 2,
        r"deepstack_visual_indexes reads the outputs of 3 layers of model\.visual\.blocks \(1, 4, 6\), and 2 layers",
    ),
    "tensors that depend on the depth": (
        "Gemma3nForCausalLM",
        lambda: config("Gemma3nTextConfig", **{**DECODER, "intermediate_size": [32] * 4}, num_hidden_layers=4,
                       vocab_size_per_layer_input=40, hidden_size_per_layer_input=8, num_kv_shared_layers=0,
                       laurel_rank=4, activation_sparsity_pattern=[0.0] * 4, layer_types=LAYER_TYPES[:4]),
        "model.layers", 2, r"no source of the same shape in the teacher: model\.embed_tokens_per_layer\.weight",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_cut_that_would_be_wrong_is_refused_with_the_reason(name: str) -> None:
    kind, configuration, stack, count, message = REFUSED[name]
    teacher = made(kind, configuration())
    with pytest.raises(RecipeError, match=message):
        teacher.cut({"stack": count}, grouped({"stack": stack}))


@pytest.mark.parametrize(
    ("depths", "count", "sources"), [([2, 6], 2, [2, 5]), ([2, 8], 4, [0, 3, 4, 7]), ([2, 2], 1, [0])]
)
def test_blocks_of_a_stage_come_from_the_nearest_that_are_built_alike(
    depths: list[int], count: int, sources: list[int]
) -> None:
    """The windows of every second block are shifted."""
    fields = config(
        "SwinConfig", image_size=32, patch_size=2, embed_dim=8, depths=depths, num_heads=[1, 2], window_size=4
    )
    teacher, stack = made("SwinModel", fields), "encoder.layers.1.blocks"
    student: Any = teacher.cut({"stack": count}, grouped({"stack": stack}))
    assert student.model.config.depths == [2, count]
    ours, theirs = student.model.state_dict(), teacher.model.state_dict()
    kept_layers = {"stack": sources}
    assert all(torch.equal(value, theirs[by_hand(key, {"stack": stack}, kept_layers)]) for key, value in ours.items())
    student.check_export()


def test_a_module_that_keep_does_not_name_keeps_the_layers_that_are_not_compared() -> None:
    kind, configuration, _, _ = CASES["bart"]
    teacher = made(kind, configuration())
    modules = [
        NamedModule(ModuleSpec("encoder", "model.encoder", ("model.encoder.layers.1", "model.encoder.layers.3"))),
        NamedModule(ModuleSpec("decoder", "model.decoder", "model.decoder.layers.*")),
    ]
    student: Any = teacher.cut({"decoder": 1}, RegroupedAdapter(GenericAdapter(), modules)).model
    assert (len(student.model.encoder.layers), len(student.model.decoder.layers)) == (4, 1)
    assert (student.config.encoder_layers, student.config.decoder_layers) == (4, 1)


def test_a_student_that_cannot_be_loaded_back_fails_before_training() -> None:
    kind, configuration, _, _ = CASES["gpt_neo"]
    student = made(kind, configuration())
    broken: Any = student.model
    broken.config.attention_layers = ["global", "local"]
    with pytest.raises(RecipeError, match=r"GPTNeoForCausalLM, cannot be loaded after it was exported: IndexError"):
        student.check_export()


def test_of_a_large_student_names_and_shapes_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.models.hf.loader.WHOLE", 100)
    for name in ("llava", "gpt_neo", "t5"):
        kind, configuration, *_ = CASES[name]
        student = made(kind, configuration())
        student.check_export()
        student.model.register_buffer("stray", torch.zeros(1))
        with pytest.raises(RecipeError, match=r"other tensors .*: stray"):
            student.check_export()


def test_what_says_how_to_generate_goes_with_a_cut_whisper(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fields = config("WhisperConfig", **SMALL, d_model=16, num_mel_bins=8, encoder_layers=4, decoder_layers=4,
                    encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
                    max_source_positions=10, max_target_positions=16, decoder_start_token_id=3, suppress_tokens=None,
                    begin_suppress_tokens=None)  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(fields)
    generation: Any = model.generation_config
    settings = {
        "is_multilingual": True, "lang_to_id": {"<|en|>": 10, "<|de|>": 11}, "no_timestamps_token_id": 14,
        "task_to_id": {"transcribe": 12, "translate": 13}, "num_beams": 3, "forced_eos_token_id": 2,
        "alignment_heads": [[1, 0], [2, 1], [3, 1]], "_from_model_config": False,
    }  # fmt: skip
    for name, value in settings.items():
        setattr(generation, name, value)
    model.save_pretrained(tmp_path / "teacher")
    teacher = load(str(tmp_path / "teacher"), checkpoint=None, options={}, directory=tmp_path)
    student = teacher.cut({"decoder": 2}, teacher.adapter)
    assert "1 of the 3 alignment_heads" in caplog.text
    student.export(student.model.state_dict(), tmp_path / "out")
    loaded: Any = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert loaded.generation_config.alignment_heads == [[0, 0], [1, 1]]
    assert (loaded.generation_config.num_beams, loaded.generation_config.forced_eos_token_id) == (3, 2)
    spoken = loaded.generate(torch.randn(1, 8, 20), language="de", task="transcribe", max_new_tokens=4)
    assert spoken.shape[0] == 1
    # A teacher of which only the configuration is there, as for a run with fresh weights, has them too.
    (tmp_path / "teacher" / "model.safetensors").unlink()
    fresh: Any = load(str(tmp_path / "teacher"), checkpoint=None, options={}, directory=tmp_path, fresh="always")
    assert fresh.model.generation_config.num_beams == 3
    fresh.model.generation_config.alignment_heads = [[0, 1]]
    one: Any = fresh.cut({"decoder": 1}, fresh.adapter)
    assert not hasattr(one.model.generation_config, "alignment_heads")
    assert "the student has none" in caplog.text
    one.check_export()


FILES = {
    "tokenizer_config.json": '{"vocab_file": "words.lst", "tokenizer_class": "MarianTokenizer"}', "words.lst": "w",
    "source.spm": "s", "target.spm": "t", "vocab.json": "{}", "target_vocab.json": "{}", "merges.txt": "m",
    "sentencepiece.bpe.model": "b", "video_preprocessor_config.json": "{}", "chat_template.jinja": "c",
    "special_tokens_map.json": "{}", "added_tokens.json": "{}", "preprocessor_config.json": "{}", "LICENSE": "l",
    "additional_chat_templates/tools.jinja": "t", "tokenization_own.py": "p", "ranks.dat": "d", "voices/one.npy": "n",
    "modules.json": '[{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}]', "sentence_bert_config.json": "{}",
    "config_sentence_transformers.json": "{}", "1_Pooling/config.json": "{}", "2_Dense/config.json": "{}",
    "2_Dense/model.safetensors": "w",
}  # fmt: skip
STRAYS = {"README.md": "r", "summary.json": "{}", "metrics.jsonl": "", "recipe.yaml": "", "trainer_state.json": "{}",
          "training_args.bin": "", "pytorch_model.bin": "", "model.gguf": "", "rust_model.ot": "", "picture.png": "",
          "onnx/config.json": "{}", "onnx/model.onnx": "", "checkpoints/tokens.txt": "",
          "checkpoint-5/vocab.json": "{}", "checkpoint-5/model.safetensors": "", ".cache/vocab.json": "{}",
          "video.dat": "too large" * 100}  # fmt: skip


@pytest.mark.parametrize("hub", [False, True])
def test_every_file_that_goes_with_the_weights_is_exported(
    tmp_path: Path, hub: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fields = config("MarianConfig", **SMALL, d_model=16, encoder_layers=2, decoder_layers=4, encoder_ffn_dim=16,
                    decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2,
                    decoder_start_token_id=0, max_position_embeddings=32, num_beams=4)  # fmt: skip
    place = tmp_path / "hub" / "models--org--marian" / "snapshots" / "abc" if hub else tmp_path / "marian"
    transformers.MarianMTModel(fields).save_pretrained(place)
    for name, text in {**FILES, **STRAYS}.items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(text)
    (place / "pytorch_model.bin").unlink()
    monkeypatch.setattr("worker.models.hf.preparation.LARGEST", 200)
    if hub:
        (place.parents[1] / "refs").mkdir()
        (place.parents[1] / "refs" / "main").write_text("abc")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("transformers.utils.hub.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
        monkeypatch.setattr("transformers.utils.hub.is_offline_mode", lambda: True)
    teacher = load("org/marian" if hub else str(place), checkpoint=None, options={}, directory=tmp_path)
    student = teacher.cut({"decoder": 2}, teacher.adapter)
    student.export(student.model.state_dict(), tmp_path / "out")
    paths = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    written = {path.relative_to(tmp_path / "out").as_posix() for path in paths}
    assert "video.dat" in caplog.text
    assert written == FILES.keys() | {"config.json", "generation_config.json", "model.safetensors"}
    assert all((tmp_path / "out" / name).read_text() == text for name, text in FILES.items())


def test_settings_of_generation_that_transformers_only_warns_about_are_exported_too(tmp_path: Path) -> None:
    """Several published models have a temperature and do not sample."""
    fields = config("GPT2Config", **SMALL, n_embd=16, n_layer=4, n_head=2, n_positions=16)
    transformers.GPT2LMHeadModel(fields).save_pretrained(tmp_path / "teacher")
    (tmp_path / "teacher" / "generation_config.json").write_text('{"do_sample": false, "temperature": 0.5}')
    teacher = load(str(tmp_path / "teacher"), checkpoint=None, options={}, directory=tmp_path)
    student = teacher.cut({"upper": 1}, teacher.adapter)
    student.check_export()
    student.export(student.model.state_dict(), tmp_path / "out")
    assert transformers.GenerationConfig.from_pretrained(tmp_path / "out").temperature == 0.5


def test_a_recipe_cuts_a_vision_language_model_by_its_modules(tmp_path: Path) -> None:
    configuration = CASES["llava"][1]()
    configuration.architectures = ["LlavaForConditionalGeneration"]
    configuration.save_pretrained(tmp_path / "llava")
    recipe = """
teacher: {model: 'hf:llava', weights: random}
student: {keep: {image: 2, text: 1}}
data: {name: digits}
train: active
modules:
  image: {path: model.vision_tower, layers: model.vision_tower.encoder.layers.*}
  connector: {path: model.multi_modal_projector}
  text: {path: [model.language_model, lm_head], layers: model.language_model.layers.*}
"""
    (tmp_path / "recipe.yaml").write_text(recipe, encoding="utf-8")
    models = load_models(read_recipe(tmp_path / "recipe.yaml", {}))
    assert {name: len(layers) for name, layers in models.student.layers.items()} == {
        "image": 2,
        "connector": 1,
        "text": 1,
    }
    assert models.pairs["text"] == [("model.language_model.layers.0", "model.language_model.layers.3")]
    (tmp_path / "recipe.yaml").write_text(recipe.partition("modules:")[0], encoding="utf-8")
    with pytest.raises(
        RecipeError,
        match=r"student\.keep: keep names 'text', but the modules of a Llava\w+ are image, connector, language",
    ):
        load_models(read_recipe(tmp_path / "recipe.yaml", {}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_configuration_of_a_student_names_the_type_of_its_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    kind, configuration, stacks, _ = CASES["llava"]
    model = getattr(transformers, kind)._from_config(configuration(), dtype=dtype)
    model.save_pretrained(tmp_path / "teacher", max_shard_size="20KB")
    assert (tmp_path / "teacher" / "model.safetensors.index.json").exists()
    # Of sections inside of sections, transformers changes the outer ones only.
    content = json.loads((tmp_path / "teacher" / "config.json").read_text())
    content["vision_config"]["dtype"] = content["text_config"]["dtype"] = str(dtype).removeprefix("torch.")
    (tmp_path / "teacher" / "config.json").write_text(json.dumps(content))
    teacher = load(str(tmp_path / "teacher"), checkpoint=None, options={}, directory=tmp_path)
    originals = model.state_dict()
    assert all(torch.equal(tensor, originals[name].float()) for name, tensor in teacher.model.state_dict().items())
    student = teacher.cut({"image": 2}, grouped(stacks))
    student.check_export()
    student.export(student.model.state_dict(), tmp_path / "out")
    content = json.loads((tmp_path / "out" / "config.json").read_text())
    dtypes = [content["dtype"], content["vision_config"].get("dtype"), content["text_config"].get("dtype")]
    assert set(dtypes) <= {"float32", None}
    loaded: Any = getattr(transformers, kind).from_pretrained(tmp_path / "out", dtype="auto")
    tensors = student.model.state_dict()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in loaded.state_dict().items())
