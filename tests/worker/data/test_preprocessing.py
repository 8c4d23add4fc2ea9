"""Two libraries' versions of one tokenizer are recognised as the same."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import transformers
from open_clip.tokenizer import SimpleTokenizer

from worker.data.base import Context, Inputs
from worker.data.preprocessing import Preprocessing
from worker.models.hf.inputs import HfInputs
from worker.models.open_clip.inputs import OpenClipInputs


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
