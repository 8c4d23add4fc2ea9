"""Teacher and student see the same crop, and one tokenizer of two libraries is recognised."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image

from worker.data.base import Context, Inputs
from worker.data.pictures import transform_with_seed
from worker.data.preprocessing import Preprocessing
from worker.models.hf.inputs import HfInputs
from worker.models.open_clip.inputs import OpenClipInputs


def test_both_see_the_same_crop(tmp_path: Path) -> None:
    config = {"vision_cfg": {"image_size": 8}, "text_cfg": {}}
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    inputs = OpenClipInputs(config), OpenClipInputs(config, {"mean": mean, "std": std})
    transforms = Preprocessing(Context(tmp_path, *map(itself, inputs))).image_transforms(augmented=True)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8))
    first, second = (transform_with_seed(transforms, picture, seed) for seed in (1, 2))
    ours, theirs = (
        first[name] * torch.tensor(deviations)[:, None, None] + torch.tensor(means)[:, None, None]
        for name, means, deviations in (
            ("image", OPENAI_DATASET_MEAN, OPENAI_DATASET_STD),
            ("teacher/image", mean, std),
        )
    )
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert not torch.equal(first["image"], second["image"])


def itself(inputs: Inputs) -> Callable[[], Inputs]:
    return lambda: inputs


def test_clips_tokenizers_of_open_clip_and_transformers_differ_by_their_padding_alone(tmp_path: Path) -> None:
    ours = SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(token, token): number for token, number in ours.encoder.items()}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in ours.bpe_ranks)])
    (tmp_path / "merges.txt").write_text(merges, encoding="utf-8")
    transformers.CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")).save_pretrained(tmp_path)
    both: list[Inputs] = [
        OpenClipInputs({"vision_cfg": {"image_size": 8}, "text_cfg": {}}),
        HfInputs(str(tmp_path), transformers.CLIPConfig()),
    ]
    for student, teacher in (both, both[::-1]):
        made = Preprocessing(Context(tmp_path, itself(student), itself(teacher))).texts()
        assert made.difference == ""
        entries = pickle.loads(pickle.dumps(made)).encode("a cat")
        assert entries["text"][:4].tolist() == [49406, 320, 2368, 49407]
        mask = entries["attention_mask"].bool()
        assert mask.sum() == 4
        assert entries["teacher/text"].equal(entries["text"].masked_fill(~mask, teacher.pad_id))
        assert {student.pad_id, teacher.pad_id} == {0, 49407}
