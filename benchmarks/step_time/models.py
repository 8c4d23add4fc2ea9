"""The models of `benchmarks.step_time`, as recipes.

They are the built-in recipe's, a student of 50 M parameters, and for a GPU the paper's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from worker.recipe.recipe import BUILT_IN

# A block of a tower has twelve times the width squared parameters, one of the multimodal decoder twice as many.
WIDTH, HEADS = 512, 8
TEACHER = {"image": 8, "text": 6, "multimodal": 6}
STUDENT = {"image": 4, "text": 4, "multimodal": 4}
"""Layers of the two models, which have 82 M and 50 M parameters."""
PAPER = BUILT_IN.parent / "coca_l14_to_tiny12.yaml"
SIZES = ("small", "50m", "l14")


def write(size: str, directory: Path, **changes: Any) -> Path:
    """Write the recipe of a size and return its path.

    Args:
        size: One of `SIZES`. ``small`` is the built-in recipe; ``l14`` is CoCa-Large with a student that has half of
            each of its modules, in bf16, with random weights and data.
        directory: Where the recipe is written, and the teacher's configuration if it needs one.
        changes: Top-level fields of the recipe to replace.
    """
    content = yaml.safe_load(BUILT_IN.read_text(encoding="utf-8"))
    if size == "small":
        teacher = content["teacher"]
        teacher["model"] = "open_clip:" + str(BUILT_IN.parent / teacher["model"].partition(":")[2])
        teacher["checkpoint"] = str(BUILT_IN.parent / teacher["checkpoint"])
    elif size == "l14":
        paper = yaml.safe_load(PAPER.read_text(encoding="utf-8"))
        dtype = paper["teacher"]["dtype"]
        content["teacher"] = {"model": "open_clip:coca_ViT-L-14", "weights": "random", "dtype": dtype}
        content["student"] = {"keep": paper["student"]["keep"]}
        content["data"] = {"name": "benchmarks.step_time.data:build", "batch_size": 32}
        content["deepspeed"] = str(BUILT_IN.parent / paper["deepspeed"])
        # Chosen by autotuning.
        del content["steps_per_round"]
    else:
        (directory / "coca.json").write_text(json.dumps(_config()), encoding="utf-8")
        content["teacher"] = {"model": "open_clip:coca.json", "weights": "random"}
        content["student"] = {"keep": STUDENT}
        content["data"]["batch_size"] = 8
    path = directory / f"{size}.yaml"
    path.write_text(yaml.safe_dump(content | changes), encoding="utf-8")
    return path


def _config() -> dict[str, Any]:
    """Return the configuration of the teacher of 82 M parameters, which reads the built-in data."""
    tower = {"width": WIDTH, "heads": HEADS, "context_length": 15, "vocab_size": 29}
    return {
        "embed_dim": WIDTH,
        "vision_cfg": {
            "image_size": 16, "patch_size": 4, "layers": TEACHER["image"], "width": WIDTH,
            "head_width": WIDTH // HEADS, "output_tokens": True,
        },
        "text_cfg": {**tower, "layers": TEACHER["text"], "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**tower, "layers": TEACHER["multimodal"]},
        "custom_text": True,
    }  # fmt: skip
