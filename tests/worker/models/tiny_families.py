"""Small models of every family, made from configurations, and batches that they read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worker.models.base import Batch

TEXT = {"vocab_size": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def clip(**text: Any) -> dict[str, Any]:
    return {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 8, "layers": 3, "width": 32, "head_width": 16, "patch_size": 4},
        "text_cfg": {"context_length": 6, "vocab_size": 20, "width": 16, "heads": 2, "layers": 3},
        **text,
    }


CONFIGS: dict[str, dict[str, Any]] = {
    "clip": clip(),
    "custom_clip": clip(custom_text=True),
    "blip": {
        "model_type": "blip",
        "vision_config": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
                          "image_size": 8, "patch_size": 4},
        "text_config": {**TEXT, "sep_token_id": 2, "hidden_size": 16, "encoder_hidden_size": 16,
                        "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
                        "max_position_embeddings": 16, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    },
    "t5": {"model_type": "t5", **TEXT, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2, "num_layers": 3,
           "num_decoder_layers": 3, "decoder_start_token_id": 0, "dropout_rate": 0.0, "is_encoder_decoder": True},
    "whisper": {"model_type": "whisper", **TEXT, "d_model": 16, "num_mel_bins": 8, "encoder_layers": 3,
                "decoder_layers": 3, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32,
                "decoder_ffn_dim": 32, "max_source_positions": 10, "max_target_positions": 8,
                "decoder_start_token_id": 1, "is_encoder_decoder": True, "dropout": 0.0,
                "suppress_tokens": None, "begin_suppress_tokens": None},
    "gpt2": {"model_type": "gpt2", **TEXT, "n_embd": 16, "n_layer": 6, "n_head": 2, "n_positions": 16,
             "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "llama": {"model_type": "llama", **TEXT, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 6,
              "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 16},
    # One of which it is not known how its layers are run.
    "opt": {"model_type": "opt", **TEXT, "hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 6,
            "num_attention_heads": 2, "word_embed_proj_dim": 16, "max_position_embeddings": 16, "dropout": 0.0},
}  # fmt: skip


class Towers(nn.Module):
    """A user's own model: two stacks, a head, a parameter by itself."""

    def __init__(self, depth: int = 4, width: int = 8) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(width))
        self.words = nn.Embedding(20, width)
        self.below = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(depth))
        self.above = nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)))
        self.head = nn.Linear(width, 20)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> dict[str, Any]:
        hidden = self.words(input_ids) + self.query
        for layer in self.below:
            hidden = layer(hidden)
        logits = self.head(self.above(hidden))
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), input_ids.flatten())
        return {"logits": logits, "loss": loss, "losses": {"small": logits.square().mean()}}


MODULES = """
modules:
  below: {path: [query, words, below], layers: below.*, mask: attention_mask}
  above: {path: [above, head], layers: [above.*, head]}
logits_mask: attention_mask
"""


@dataclass(frozen=True)
class Family:
    """A model family, and what is expected of it.

    Attributes:
        modules: Its modules, in order.
        declared: Whether its adapter declares what feeds what; otherwise it is found.
        keep: Layers of a student cut from it.
        spec: What a recipe calls it; a configuration's directory takes the braces' place.
        more: Further lines of the recipe.
    """

    modules: tuple[str, ...]
    keep: dict[str, int]
    spec: str = "hf:{}"
    declared: bool = True
    more: str = ""


THIRDS = ("lower", "middle", "upper")
FAMILIES: dict[str, Family] = {
    "clip": Family(("image", "text"), {"image": 1, "text": 2}, spec="open_clip:{}"),
    "custom_clip": Family(("image", "text"), {"image": 1, "text": 2}, spec="open_clip:{}"),
    "blip": Family(("image", "text"), {"image": 1, "text": 2}),
    "t5": Family(("encoder", "decoder"), {"encoder": 2, "decoder": 1}),
    "whisper": Family(("encoder", "decoder"), {"encoder": 1, "decoder": 2}),
    "gpt2": Family(THIRDS, {"lower": 1, "upper": 1}),
    "llama": Family(THIRDS, {"middle": 1, "upper": 1}),
    "opt": Family(THIRDS, {"lower": 1}, declared=False),
    "factory": Family(("below", "above"), {"below": 2}, "tests.worker.models.tiny_families:Towers", False, MODULES),
}


def directory(name: str, where: Path) -> Path:
    """A directory that holds a family's configuration and no weights."""
    place = where / name
    place.mkdir(exist_ok=True)
    file = "open_clip_config.json" if "clip" in name.split("_") else "config.json"
    (place / file).write_text(json.dumps(CONFIGS[name]), encoding="utf-8")
    return place


def rows(seed: int = 0) -> dict[str, Tensor]:
    """Four rows that every family reads something of; some words are padding."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(3, 20, (4, 6), generator=generator)
    words[0, 4:] = 0
    labels = torch.randint(3, 20, (4, 5), generator=generator)
    labels[1, 3:] = -100
    return {
        "image": torch.randn(4, 3, 8, 8, generator=generator),
        "input_features": torch.randn(4, 8, 20, generator=generator),
        "input_ids": words,
        "attention_mask": (words != 0).long(),
        "labels": labels,
    }


def batch(name: str, seed: int = 0) -> Batch:
    """Return a batch of a family's data."""
    every = rows(seed)
    if name in ("t5", "whisper"):
        return every
    without = ("labels", "input_features")
    return {key: tensor for key, tensor in every.items() if key not in without}


Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def half(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """A user's own layer loss."""
    return 0.5 * (student.float() - teacher.float()).square().mean()


def sharpness(logits: Tensor, batch: Batch) -> Tensor:
    """A user's own task loss."""
    return -logits.float().softmax(-1).square().sum(-1).mean()
