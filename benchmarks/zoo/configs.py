"""Tiny models of transformers of many classes, each with a batch that it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor

Batch = dict[str, Any]
Fields = dict[str, Any]

VOCABULARY = 40
IMAGE = 39
"""The token that stands for a picture or a sound in a text."""


@dataclass(frozen=True)
class Tiny:
    """A class of models, in small.

    Attributes:
        model: The class of transformers.
        config: Builds its configuration.
        batch: Builds a batch of two rows from the configuration.
        modules: The modules that are found in it, in order.
        keep: Layers of a student that is cut from it, by module.
    """

    model: str
    config: Callable[[], Any]
    batch: Callable[[], Batch]
    modules: tuple[str, ...]
    keep: Mapping[str, int] = field(default_factory=dict)


def build(name: str, seed: int = 0) -> Any:
    """Return a model with fresh weights, in train mode."""
    torch.manual_seed(seed)
    tiny = CONFIGS[name]
    kind = getattr(transformers, tiny.model)
    return kind(tiny.config()).float().train()


# Configurations

TOKENS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WIDTH = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
VISION = {**WIDTH, "image_size": 8, "patch_size": 4}
DECODER = {**TOKENS, **WIDTH, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64}
BERT = {**TOKENS, **WIDTH, **QUIET, "max_position_embeddings": 64}
SEQ2SEQ = {**TOKENS, "decoder_start_token_id": 2, "d_model": 16, "encoder_layers": 4, "decoder_layers": 4,
           "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
           "max_position_embeddings": 64, "dropout": 0.0}  # fmt: skip
MROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}}
CONVOLUTIONS = {"conv_dim": [16] * 2, "conv_stride": [4] * 2, "conv_kernel": [4] * 2, "num_feat_extract_layers": 2,
                "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}  # fmt: skip
SPEECH = {**WIDTH, **CONVOLUTIONS, "hidden_dropout": 0.0, "attention_dropout": 0.0, "feat_proj_dropout": 0.0,
          "layerdrop": 0.0, "mask_time_prob": 0.0, "activation_dropout": 0.0}  # fmt: skip
SWIN = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [2, 4], "num_heads": [1, 2], "window_size": 2,
        "drop_path_rate": 0.0}  # fmt: skip
LLAMA = {"model_type": "llama", **DECODER}
CLIP_VISION = {"model_type": "clip_vision_model", **VISION}
SIGLIP_VISION = {"model_type": "siglip_vision_model", **VISION}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 2], "layer_type": "basic"}


def config(kind: str, **fields: Any) -> Callable[[], Any]:
    """Return a function that builds a configuration of this class."""
    return lambda: getattr(transformers, kind)(**fields)


def _frame(kind: str, encoder: Callable[[], Any], decoder: Callable[[], Any]) -> Callable[[], Any]:
    """Return a function that builds the configuration of an encoder and a decoder of any two classes."""

    def build_config() -> Any:
        inner = decoder()
        inner.is_decoder = inner.add_cross_attention = True
        frame = getattr(transformers, kind)(encoder=encoder().to_dict(), decoder=inner.to_dict())
        frame.decoder_start_token_id, frame.pad_token_id = 1, 0
        return frame

    return build_config


# Batches


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def words(length: int = 12) -> Batch:
    """Token ids with padding at the end of the first row."""
    ids = torch.randint(3, 30, (2, length), generator=_generator())
    ids[0, length - 3 :] = 0
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def labelled(length: int = 12) -> Batch:
    """Text whose tokens are the labels, those of padding excepted."""
    batch = words(length)
    return {**batch, "labels": batch["input_ids"].masked_fill(batch["input_ids"] == 0, -100)}


def masked() -> Batch:
    """Text in which some tokens are to be found out."""
    batch = words()
    labels = torch.full_like(batch["input_ids"], -100)
    labels[:, 2:5] = batch["input_ids"][:, 2:5]
    return {**batch, "labels": labels}


def classes(batch: Batch) -> Batch:
    """A batch with a class for each row."""
    return {**batch, "labels": torch.tensor([0, 1])}


def pictures(size: int = 8, channels: int = 3) -> Batch:
    """Two pictures."""
    return {"pixel_values": torch.randn(2, channels, size, size, generator=_generator())}


def sounds(length: int = 800) -> Batch:
    """Two waves, of which the first is shorter."""
    mask = torch.ones(2, length, dtype=torch.long)
    mask[0, length * 3 // 4 :] = 0
    return {"input_values": torch.randn(2, length, generator=_generator()) * mask, "attention_mask": mask}


def answers(length: int = 6) -> Tensor:
    """Labels of a decoder."""
    labels = torch.randint(3, 30, (2, length), generator=_generator())
    labels[0, length - 2 :] = -100
    return labels


def shown(tokens: int, picture: Batch, token: int = IMAGE) -> Batch:
    """Text with labels, in which some tokens stand for a picture."""
    batch = labelled(tokens + 10)
    ids, labels = batch["input_ids"].clone(), batch["labels"].clone()
    ids[:, 1 : 1 + tokens] = token
    labels[:, : 1 + tokens] = -100
    return {**batch, "input_ids": ids, "labels": labels, **picture}


def packed(patches: int, width: int, grid: list[int], tokens: int, **more: Any) -> Batch:
    """Text with pictures whose patches are packed: [patches of all pictures, width]."""
    picture = {"pixel_values": torch.randn(2 * patches, width, generator=_generator()),
               "image_grid_thw": torch.tensor([grid, grid])}  # fmt: skip
    batch = shown(tokens, picture)
    return {**batch, "mm_token_type_ids": (batch["input_ids"] == IMAGE).int(), **more}


def boxes() -> Batch:
    """Pictures with the boxes in them."""
    one = {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}
    return {**pictures(32), "labels": [one, one]}


THIRDS = ("lower", "middle", "upper")
JOINED = ("image", "connector", "language")
HEARD = ("audio", "connector", "language")
HALVES = ("encoder", "decoder")
SHORT = {"lower": 1, "upper": 1}
LESS = {"image": 2, "language": 2}
HALF = {"encoder": 2, "decoder": 2}


CONFIGS: dict[str, Tiny] = {
    # Decoders
    "gpt2": Tiny("GPT2LMHeadModel", config("GPT2Config", **TOKENS, n_embd=16, n_layer=4, n_head=2, n_positions=64),
                 labelled, THIRDS, {"upper": 1}),
    "llama": Tiny("LlamaForCausalLM", config("LlamaConfig", **DECODER), labelled, THIRDS, {"upper": 1}),
    "opt": Tiny("OPTForCausalLM", config("OPTConfig", **{**TOKENS, **WIDTH}, ffn_dim=32, word_embed_proj_dim=16,
                max_position_embeddings=64, dropout=0.0), labelled, THIRDS, {"upper": 1}),
    "qwen3_moe": Tiny("Qwen3MoeForCausalLM", config("Qwen3MoeConfig", **DECODER, moe_intermediate_size=8,
                      num_experts=4, num_experts_per_tok=2), labelled, THIRDS, {"upper": 1}),
    "gemma3_text": Tiny("Gemma3ForCausalLM", config("Gemma3TextConfig", **DECODER, sliding_window=4,
                        layer_types=["sliding_attention", "full_attention"] * 2), labelled, THIRDS,
                        {"upper": 1}),
    "mamba": Tiny("MambaForCausalLM", config("MambaConfig", **TOKENS, hidden_size=16, num_hidden_layers=4,
                  state_size=4, time_step_rank=2), labelled, THIRDS, {"upper": 1}),
    "bloom": Tiny("BloomForCausalLM", config("BloomConfig", **TOKENS, hidden_size=16, n_layer=4, n_head=2,
                  hidden_dropout=0.0, attention_dropout=0.0), labelled, THIRDS, {"upper": 1}),
    # Encoders of text
    "bert_encoder": Tiny("BertModel", config("BertConfig", **BERT), words, THIRDS, {"upper": 1}),
    "bert_masked": Tiny("BertForMaskedLM", config("BertConfig", **BERT), masked, THIRDS, {"upper": 1}),
    "bert_classifier": Tiny("BertForSequenceClassification", config("BertConfig", **BERT), lambda: classes(words()),
                            THIRDS, {"upper": 1}),
    "roberta_tokens": Tiny("RobertaForTokenClassification", config("RobertaConfig", **BERT, num_labels=VOCABULARY),
                           labelled, THIRDS, {"upper": 1}),
    "distilbert": Tiny("DistilBertForMaskedLM", config("DistilBertConfig", **TOKENS, dim=16, hidden_dim=32,
                       n_layers=4, n_heads=2, dropout=0.0, attention_dropout=0.0), masked, THIRDS, {"upper": 1}),
    "deberta": Tiny("DebertaV2ForMaskedLM", config("DebertaV2Config", **BERT, relative_attention=True,
                    pos_att_type=["p2c", "c2p"]), masked, THIRDS, {"upper": 1}),
    "modernbert": Tiny("ModernBertForMaskedLM", config("ModernBertConfig", **{**BERT, "pad_token_id": 0},
                       global_attn_every_n_layers=2), masked, THIRDS, {"upper": 1}),
    "electra_question": Tiny("ElectraForQuestionAnswering", config("ElectraConfig", **BERT, embedding_size=16),
                             lambda: {**words(), "start_positions": torch.tensor([1, 2]),
                                      "end_positions": torch.tensor([2, 4])}, THIRDS, {"upper": 1}),
    # Encoders of pictures
    "vit_encoder": Tiny("ViTModel", config("ViTConfig", **VISION), pictures, THIRDS, {"upper": 1}),
    "vit_classifier": Tiny("ViTForImageClassification", config("ViTConfig", **VISION), lambda: classes(pictures()),
                           THIRDS, {"upper": 1}),
    "dinov2": Tiny("Dinov2Model", config("Dinov2Config", **VISION), pictures, THIRDS, {"upper": 1}),
    "clip_vision": Tiny("CLIPVisionModel", config("CLIPVisionConfig", **VISION), pictures, THIRDS, {"upper": 1}),
    "swin": Tiny("SwinForImageClassification", config("SwinConfig", **SWIN), lambda: classes(pictures(16)), THIRDS,
                 {"upper": 1}),
    "convnext": Tiny("ConvNextForImageClassification", config("ConvNextConfig", hidden_sizes=[8, 16], depths=[2, 4],
                     num_stages=2, drop_path_rate=0.0), lambda: classes(pictures(32)), THIRDS, {"upper": 1}),
    "resnet": Tiny("ResNetForImageClassification", config("ResNetConfig", **RESNET),
                   lambda: classes(pictures(32)), THIRDS, {"upper": 1}),
    "segformer": Tiny("SegformerForSemanticSegmentation", config("SegformerConfig", num_encoder_blocks=2,
                      depths=[2, 2], sr_ratios=[2, 1], hidden_sizes=[8, 16], patch_sizes=[3, 3], strides=[2, 2],
                      num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=16, drop_path_rate=0.0,
                      num_labels=3), lambda: {**pictures(16), "labels": torch.randint(0, 3, (2, 16, 16),
                      generator=_generator())}, THIRDS, {"upper": 1}),
    "timm": Tiny("TimmWrapperForImageClassification", config("TimmWrapperConfig", architecture="vit_tiny_patch16_224",
                 model_args={"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 2}),
                 lambda: classes(pictures(16)), THIRDS, {"upper": 1}),
    "timm_resnet": Tiny("TimmWrapperForImageClassification", config("TimmWrapperConfig", architecture="resnet18",
                        model_args={"channels": [8, 8, 16, 16], "stem_width": 8}), lambda: classes(pictures(32)),
                        THIRDS, {"upper": 2}),
    # Encoders of sound
    "wav2vec2_ctc": Tiny("Wav2Vec2ForCTC", config("Wav2Vec2Config", **TOKENS, **SPEECH), lambda: {**sounds(),
                         "labels": answers(4)}, THIRDS, {"upper": 1}),
    "hubert": Tiny("HubertModel", config("HubertConfig", **SPEECH), sounds, THIRDS, {"upper": 1}),
    "wavlm_classifier": Tiny("WavLMForSequenceClassification", config("WavLMConfig", **SPEECH, num_buckets=8,
                             classifier_proj_size=16), lambda: classes(sounds()), THIRDS, {"upper": 1}),
    "ast": Tiny("ASTForAudioClassification", config("ASTConfig", **WIDTH, patch_size=4, max_length=16, num_mel_bins=8,
                frequency_stride=4, time_stride=4), lambda: classes({"input_values": torch.randn(2, 16, 8,
                generator=_generator())}), THIRDS, {"upper": 1}),
    # Encoder and decoder
    "t5": Tiny("T5ForConditionalGeneration", config("T5Config", **TOKENS, d_model=16, d_kv=8, d_ff=32, num_heads=2,
               num_layers=4, num_decoder_layers=4, decoder_start_token_id=0, dropout_rate=0.0),
               lambda: {**words(), "labels": answers()}, HALVES, HALF),
    "bart": Tiny("BartForConditionalGeneration", config("BartConfig", **SEQ2SEQ),
                 lambda: {**words(), "labels": answers()}, HALVES, HALF),
    "whisper": Tiny("WhisperForConditionalGeneration", config("WhisperConfig", **{**SEQ2SEQ, "num_mel_bins": 8,
                    "max_source_positions": 10, "max_target_positions": 16, "suppress_tokens": None,
                    "begin_suppress_tokens": None}), lambda: {"input_features": torch.randn(2, 8, 20,
                    generator=_generator()), "labels": answers()}, HALVES, HALF),
    "moonshine": Tiny("MoonshineForConditionalGeneration", config("MoonshineConfig", **{**TOKENS, "hidden_size": 16,
                      "intermediate_size": 32, "encoder_num_hidden_layers": 4, "decoder_num_hidden_layers": 4,
                      "encoder_num_attention_heads": 2, "decoder_num_attention_heads": 2,
                      "decoder_start_token_id": 1, "max_position_embeddings": 64}),
                      lambda: {"input_values": torch.randn(2, 4000, generator=_generator()), "labels": answers()},
                      HALVES, HALF),
    "pix2struct": Tiny("Pix2StructForConditionalGeneration", config("Pix2StructConfig",
                       text_config={**TOKENS, "hidden_size": 16, "d_kv": 8, "d_ff": 32, "num_layers": 4,
                                    "num_heads": 2, "decoder_start_token_id": 0, "dropout_rate": 0.0},
                       vision_config={"hidden_size": 16, "patch_embed_hidden_size": 12, "d_ff": 32, "d_kv": 8,
                                      "num_hidden_layers": 4, "num_attention_heads": 2, "seq_len": 8,
                                      "dropout_rate": 0.0}),
                       lambda: {"flattened_patches": torch.cat([torch.ones(2, 8, 2), torch.randn(2, 8, 12,
                                generator=_generator())], -1), "attention_mask": torch.ones(2, 8),
                                "labels": answers()}, HALVES, HALF),
    "vit_gpt2": Tiny("VisionEncoderDecoderModel", _frame("VisionEncoderDecoderConfig", config("ViTConfig", **VISION),
                     config("GPT2Config", **TOKENS, n_embd=16, n_layer=4, n_head=2, n_positions=64)),
                     lambda: {**pictures(), "labels": answers()}, HALVES, HALF),
    "trocr": Tiny("VisionEncoderDecoderModel", _frame("VisionEncoderDecoderConfig", config("DeiTConfig", **VISION),
                  config("TrOCRConfig", **{**TOKENS, "d_model": 24, "decoder_layers": 4, "decoder_ffn_dim": 32,
                         "decoder_attention_heads": 2, "max_position_embeddings": 64, "dropout": 0.0,
                         "cross_attention_hidden_size": 16})),
                  lambda: {**pictures(), "labels": answers()}, HALVES, HALF),
    "donut": Tiny("VisionEncoderDecoderModel", _frame("VisionEncoderDecoderConfig", config("DonutSwinConfig", **SWIN),
                  config("MBartConfig", **{**SEQ2SEQ, "is_encoder_decoder": False})),
                  lambda: {**pictures(16), "labels": answers()}, HALVES, {"decoder": 2}),
    "speech_frame": Tiny("SpeechEncoderDecoderModel", _frame("SpeechEncoderDecoderConfig",
                         config("Wav2Vec2Config", **SPEECH), config("BertConfig", **BERT)),
                         lambda: {**sounds(), "labels": answers()}, HALVES, HALF),
    "bert2bert": Tiny("EncoderDecoderModel", _frame("EncoderDecoderConfig", config("BertConfig", **BERT),
                      config("BertConfig", **BERT)), lambda: {**words(), "labels": answers()}, HALVES, HALF),
    # Vision and language
    "blip": Tiny("BlipForConditionalGeneration", config("BlipConfig", vision_config=VISION, text_config={**BERT,
                 "encoder_hidden_size": 16, "sep_token_id": 2}), lambda: {**pictures(), **labelled()},
                 ("image", "text"), {"image": 2, "text": 2}),
    "blip2": Tiny("Blip2ForConditionalGeneration", config("Blip2Config", vision_config=VISION, num_query_tokens=3,
                  qformer_config={**BERT, "encoder_hidden_size": 16, "cross_attention_frequency": 1},
                  text_config={"model_type": "opt", **TOKENS, **WIDTH, "ffn_dim": 32, "word_embed_proj_dim": 16,
                               "max_position_embeddings": 64, "dropout": 0.0}, image_token_index=IMAGE),
                  lambda: shown(3, pictures()), JOINED, {"image": 2, "connector": 2, "language": 2}),
    "llava": Tiny("LlavaForConditionalGeneration", config("LlavaConfig", vision_config=CLIP_VISION,
                  text_config=LLAMA, image_token_index=IMAGE), lambda: shown(4, pictures()), JOINED, LESS),
    "llava_long": Tiny("LlavaForConditionalGeneration", config("LlavaConfig", vision_config=CLIP_VISION,
                       text_config={**LLAMA, "num_hidden_layers": 8}, image_token_index=IMAGE),
                       lambda: shown(4, pictures()), ("image", "connector", *THIRDS),
                       {"image": 2, "lower": 1, "middle": 1, "upper": 2}),
    "llava_next": Tiny("LlavaNextForConditionalGeneration", config("LlavaNextConfig", vision_config=CLIP_VISION,
                       text_config=LLAMA, image_token_index=IMAGE, image_grid_pinpoints=[[8, 8]]),
                       lambda: shown(10, {"pixel_values": torch.randn(2, 2, 3, 8, 8, generator=_generator()),
                                          "image_sizes": torch.tensor([[8, 8], [8, 8]])}), JOINED, LESS),
    "llava_onevision": Tiny("LlavaOnevisionForConditionalGeneration", config("LlavaOnevisionConfig",
                            vision_config=SIGLIP_VISION, text_config={**LLAMA, "model_type": "qwen2"},
                            image_token_index=IMAGE, video_token_index=38, image_grid_pinpoints=[[8, 8]]),
                            lambda: shown(10, {"pixel_values": torch.randn(2, 2, 3, 8, 8, generator=_generator()),
                                               "image_sizes": torch.tensor([[8, 8], [8, 8]])}), JOINED, LESS),
    "paligemma": Tiny("PaliGemmaForConditionalGeneration", config("PaliGemmaConfig", vision_config=SIGLIP_VISION,
                      text_config={**DECODER, "model_type": "gemma"}, projection_dim=16, image_token_index=IMAGE),
                      lambda: {**shown(4, pictures()), "token_type_ids": (torch.arange(14) > 6).long().expand(2, 14)},
                      JOINED, LESS),
    "gemma3": Tiny("Gemma3ForConditionalGeneration", config("Gemma3Config", vision_config=VISION,
                   mm_tokens_per_image=4, text_config={**DECODER, "layer_types": ["sliding_attention",
                   "full_attention"] * 2}, image_token_index=IMAGE),
                   lambda: (lambda batch: {**batch, "token_type_ids": (batch["input_ids"] == IMAGE).long()})(
                       shown(4, pictures())), JOINED, LESS),
    "internvl": Tiny("InternVLForConditionalGeneration", config("InternVLConfig", vision_config={**VISION,
                     "image_size": [8, 8], "patch_size": [2, 2], "layer_scale_init_value": 0.1},
                     text_config={**LLAMA, "model_type": "qwen2"}, image_token_id=IMAGE),
                     lambda: shown(4, pictures()), JOINED, LESS),
    "idefics3": Tiny("Idefics3ForConditionalGeneration", config("Idefics3Config", image_token_id=IMAGE,
                     vision_config=VISION, text_config=LLAMA, scale_factor=2),
                     lambda: shown(1, {"pixel_values": pictures()["pixel_values"][:, None]}), JOINED, LESS),
    "smolvlm": Tiny("SmolVLMForConditionalGeneration", config("SmolVLMConfig", image_token_id=IMAGE,
                    vision_config=VISION, text_config=LLAMA, scale_factor=2),
                    lambda: shown(1, {"pixel_values": pictures()["pixel_values"][:, None]}), JOINED, LESS),
    "mistral3": Tiny("Mistral3ForConditionalGeneration", config("Mistral3Config", vision_config={
                     "model_type": "pixtral", **VISION, "head_dim": 8}, text_config={**LLAMA,
                     "model_type": "mistral"}, image_token_index=IMAGE, spatial_merge_size=2),
                     lambda: shown(1, {**pictures(), "image_sizes": torch.tensor([[8, 8], [8, 8]])}), JOINED, LESS),
    "qwen2_vl": Tiny("Qwen2VLForConditionalGeneration", config("Qwen2VLConfig", image_token_id=IMAGE,
                     video_token_id=38, vision_start_token_id=37, vision_config={"depth": 4, "embed_dim": 16,
                     "hidden_size": 16, "num_heads": 2, "patch_size": 4}, text_config={**DECODER, **MROPE}),
                     lambda: packed(16, 96, [1, 4, 4], 4), JOINED, LESS),
    "qwen2_5_vl": Tiny("Qwen2_5_VLForConditionalGeneration", config("Qwen2_5_VLConfig", image_token_id=IMAGE,
                       video_token_id=38, vision_start_token_id=37, vision_config={"depth": 4, "hidden_size": 16,
                       "out_hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "patch_size": 4,
                       "fullatt_block_indexes": [1, 3]}, text_config={**DECODER, **MROPE}),
                       lambda: packed(16, 96, [1, 4, 4], 4), JOINED, LESS),
    "qwen3_vl": Tiny("Qwen3VLForConditionalGeneration", config("Qwen3VLConfig", image_token_id=IMAGE,
                     video_token_id=38, vision_start_token_id=37, vision_config={"depth": 4, "hidden_size": 16,
                     "out_hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "patch_size": 4,
                     "num_position_embeddings": 16, "deepstack_visual_indexes": [1, 3]},
                     text_config={**DECODER, "rope_parameters": {"rope_type": "default",
                                  "mrope_section": [2, 1, 1]}}), lambda: packed(16, 96, [1, 4, 4], 4), JOINED, LESS),
    "mllama": Tiny("MllamaForConditionalGeneration", config("MllamaConfig", vision_config={"hidden_size": 16,
                   "intermediate_size": 32, "num_hidden_layers": 4, "num_global_layers": 2, "attention_heads": 2,
                   "image_size": 8, "patch_size": 4, "vision_output_dim": 48, "intermediate_layers_indices": [0, 3],
                   "supported_aspect_ratios": [[1, 1]], "max_num_tiles": 1},
                   text_config={**DECODER, "cross_attention_layers": [1, 3]}),
                   lambda: {**labelled(), "pixel_values": pictures()["pixel_values"][:, None, None],
                            "cross_attention_mask": torch.ones(2, 12, 1, 1),
                            "aspect_ratio_ids": torch.ones(2, 1).long(), "aspect_ratio_mask":
                            torch.ones(2, 1, 1).long()}, JOINED, {"language": 2}),
    "git": Tiny("GitForCausalLM", config("GitConfig", **BERT, vision_config=VISION),
                lambda: {**labelled(), **pictures()}, JOINED, LESS),
    "florence2": Tiny("Florence2ForConditionalGeneration", config("Florence2Config", vision_config={
                      "embed_dim": [8, 16], "depths": [1, 1], "num_heads": [1, 2], "num_groups": [1, 2],
                      "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1],
                      "patch_prenorm": [False, True], "window_size": 2, "drop_path_rate": 0.0, "projection_dim": 16,
                      "max_temporal_embeddings": 4, "max_position_embeddings": 8},
                      text_config={"model_type": "bart", **SEQ2SEQ}, image_token_id=IMAGE),
                      lambda: {**shown(17, pictures(32)), "labels": answers()},
                      ("image", "connector", "encoder", "decoder"), HALF),
    # Sound and language
    "qwen2_audio": Tiny("Qwen2AudioForConditionalGeneration", config("Qwen2AudioConfig", audio_config={
                        "model_type": "qwen2_audio_encoder", "d_model": 16, "encoder_layers": 4,
                        "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "num_mel_bins": 8,
                        "max_source_positions": 10}, text_config={**LLAMA, "model_type": "qwen2"},
                        audio_token_index=IMAGE), lambda: shown(5, {"input_features": torch.randn(2, 8, 20,
                        generator=_generator()), "feature_attention_mask": torch.ones(2, 20).long()}), HEARD,
                        {"audio": 2, "language": 2}),
    "voxtral": Tiny("VoxtralForConditionalGeneration", config("VoxtralConfig", audio_config={
                    "model_type": "voxtral_encoder", "hidden_size": 16, "intermediate_size": 64,
                    "num_hidden_layers": 4, "num_attention_heads": 2, "num_mel_bins": 8, "max_source_positions": 8},
                    text_config=LLAMA, audio_token_id=IMAGE), lambda: shown(2, {"input_features": torch.randn(2, 8,
                    16, generator=_generator())}), HEARD, {"audio": 2, "language": 2}),
    # Two towers
    "clip": Tiny("CLIPModel", config("CLIPConfig", vision_config=VISION, text_config={**TOKENS, **WIDTH,
                 "max_position_embeddings": 16}, projection_dim=8), lambda: {**words(), **pictures()},
                 ("image", "text"), {"image": 2, "text": 2}),
    "siglip": Tiny("SiglipModel", config("SiglipConfig", vision_config=VISION, text_config={**TOKENS, **WIDTH,
                   "max_position_embeddings": 16}), lambda: {**words(), **pictures()}, ("image", "text"),
                   {"image": 2, "text": 2}),
    "siglip2": Tiny("Siglip2Model", config("Siglip2Config", vision_config={**WIDTH, "patch_size": 4,
                    "num_patches": 4}, text_config={**TOKENS, **WIDTH, "max_position_embeddings": 16}),
                    lambda: {**words(), "pixel_values": torch.randn(2, 4, 48, generator=_generator()),
                             "pixel_attention_mask": torch.ones(2, 4).long(),
                             "spatial_shapes": torch.tensor([[2, 2], [2, 2]])}, ("image", "text"),
                    {"image": 2, "text": 2}),
    "clap": Tiny("ClapModel", config("ClapConfig", projection_dim=16, text_config={**BERT, "projection_dim": 16},
                 audio_config={"hidden_size": 32, "patch_embeds_hidden_size": 16, "depths": [2, 2],
                 "num_attention_heads": [2, 2], "num_hidden_layers": 2, "spec_size": 32, "num_mel_bins": 8,
                 "window_size": 2, "patch_size": 4, "patch_stride": [4, 4], "projection_dim": 16,
                 "aff_block_r": 2, "num_classes": 2}),
                 lambda: {**words(), "input_features": torch.randn(2, 1, 64, 8, generator=_generator())},
                 ("audio", "text"), {"text": 2}),
    # Detectors
    "detr": Tiny("DetrForObjectDetection", config("DetrConfig", backbone_config={"model_type": "resnet", **RESNET,
                 "out_features": ["stage2"]}, use_timm_backbone=False, backbone=None, d_model=16, encoder_layers=4,
                 decoder_layers=4, encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_attention_heads=2,
                 decoder_attention_heads=2, num_queries=4, num_labels=3, dropout=0.0), boxes,
                 ("backbone", "encoder", "decoder"), HALF),
    "yolos": Tiny("YolosForObjectDetection", config("YolosConfig", **{**VISION, "image_size": [32, 32]},
                  num_detection_tokens=4, num_labels=3), boxes, THIRDS),
}  # fmt: skip
