"""Small models of open_clip whose towers are of other kinds than the plain transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import RobertaConfig

TEXT = {"context_length": 6, "vocab_size": 20, "width": 16, "heads": 2, "layers": 3}
IMAGE = {"image_size": 8, "layers": 3, "width": 32, "head_width": 16, "patch_size": 4}


def timm_tower(name: str, *, pool: str, proj: str | None, **more: Any) -> dict[str, Any]:
    image = {"image_size": 160, "timm_model_name": name, "timm_model_pretrained": False}
    return {
        "embed_dim": 16,
        "custom_text": True,
        "vision_cfg": {**image, "timm_pool": pool, "timm_proj": proj},
        "text_cfg": TEXT,
        **more,
    }


def configs(where: Path) -> dict[str, dict[str, Any]]:
    """Return the ``model_cfg`` of each; the text tower of transformers is written to a directory."""
    tower = where / "roberta"
    size: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
    }
    RobertaConfig(vocab_size=20, max_position_embeddings=16, pad_token_id=1, **size).save_pretrained(tower)
    hf_text = {"hf_model_name": str(tower), "hf_proj_type": "linear", "hf_pooler_type": "mean_pooler"}
    siglip_text = {**TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last", "pad_id": 1}
    return {
        "siglip": timm_tower(
            "test_vit3", pool="map", proj="none", embed_dim=96, init_logit_bias=-10, text_cfg=siglip_text
        ),
        "convnext": timm_tower("test_convnext", pool="avg", proj="linear"),
        "resnet of timm": timm_tower("test_resnet", pool="avg", proj="linear"),
        "mobilenet": timm_tower("mobilenetv3_small_050", pool="avg", proj="linear"),
        "resnet": {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 32, "layers": [2, 3, 2, 1], "width": 8, "head_width": 8},
            "text_cfg": TEXT,
        },
        "text tower of transformers": {"embed_dim": 16, "vision_cfg": IMAGE, "text_cfg": hf_text},
    }


def batch(config: dict[str, Any], rows: int = 3) -> dict[str, Tensor]:
    size = config["vision_cfg"]["image_size"]
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(2, 20, (rows, 6), generator=generator)
    text[0, 4:] = 1
    return {"image": torch.randn(rows, 3, size, size, generator=generator), "text": text}
