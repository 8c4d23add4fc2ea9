"""A CoCa of a few thousand parameters, and batches for it."""

import open_clip
import torch
from torch import Tensor, nn

TEXT = {"context_length": 8, "vocab_size": 16, "heads": 2}


def coca(seed: int, *, width: int = 32, layers: int = 2, text_layers: int = 2) -> open_clip.CoCa:
    """Return a model with fresh weights; embeddings, towers and decoder have the same width."""
    torch.manual_seed(seed)
    model = open_clip.CoCa(
        embed_dim=width,
        vision_cfg={"image_size": 8, "layers": layers, "width": width, "head_width": 16, "patch_size": 4,
                    "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        text_cfg={**TEXT, "width": width, "layers": text_layers, "embed_cls": True, "output_tokens": True},
        multimodal_cfg={**TEXT, "width": width, "layers": text_layers},
        nonscalar_logit_scale=True,
    )  # fmt: skip
    nn.init.normal_(model.text_decoder.text_projection, std=width**-0.5)
    return model


def batch(index: int, rank: int = 0) -> dict[str, Tensor]:
    """Return four rows that depend only on index and rank."""
    generator = torch.Generator().manual_seed(1000 * index + rank)
    text = torch.randint(1, 16, (4, 8), generator=generator)
    text[:, 6:] = 0
    return {
        "image": torch.randn(4, 3, 8, 8, generator=generator),
        "text": text,
        "paired": torch.tensor([True, True, False, True]),
    }
