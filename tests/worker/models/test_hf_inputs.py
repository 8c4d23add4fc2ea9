"""The inputs of transformers' models: every text has an end, padding is at its end, and pictures have one shape."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.worker.models.tokenizers import WORDS, save_tokenizer
from worker.models.hf.inputs import LONGEST, HfInputs, usable_positions

START, END, PAD = (WORDS.index(token) for token in ("<s>", "</s>", "<pad>"))
A, CAT = WORDS.index("a"), WORDS.index("cat")


def inputs(where: Path, config: Any = None, **options: Any) -> HfInputs:
    save_tokenizer(where, **options)
    return HfInputs(str(where), config or transformers.GPT2Config(vocab_size=16, n_positions=6, pad_token_id=None))


def encode(made: HfInputs, *texts: str) -> list[list[int]]:
    tokenizer = pickle.loads(pickle.dumps(made.tokenizer()))
    rows: list[list[int]] = tokenizer(list(texts)).tolist()
    return rows


@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_are_padded_and_truncated_at_their_end(tmp_path: Path, side: str) -> None:
    made = inputs(tmp_path, pad_token="<pad>", padding_side=side, truncation_side=side)
    assert (made.pad_id, made.end_id, made.context_length) == (PAD, END, 6)
    assert encode(made, "a cat", "cat " * 9) == [[START, A, CAT, END, PAD, PAD], [START, *[CAT] * 4, END]]


def test_a_tokenizer_without_a_pad_token_pads_with_the_end_of_texts(tmp_path: Path) -> None:
    made = inputs(tmp_path)
    assert (made.pad_id, made.end_id) == (END, END)
    assert encode(made, "a cat") == [[START, A, CAT, END, END, END]]


def test_an_end_that_the_tokenizer_leaves_out_is_appended_and_survives_truncation(tmp_path: Path) -> None:
    made = inputs(tmp_path, ends=False, pad_token="<pad>")
    assert encode(made, "a cat", "cat " * 9, "") == [[A, CAT, END, PAD, PAD, PAD], [*[CAT] * 5, END], [END, *[PAD] * 5]]
    without = inputs(tmp_path, ends=False, pad_token="<pad>", eos_token=None)
    assert without.end_id is None
    assert encode(without, "a cat") == [[A, CAT, *[PAD] * 4]]


def test_the_tokenizers_pad_token_counts_and_not_the_configurations(tmp_path: Path) -> None:
    config = transformers.GPT2Config(vocab_size=16, pad_token_id=0)
    assert inputs(tmp_path, config, pad_token="<pad>").pad_id == PAD
    # Without a tokenizer, all that is known is the configuration.
    bare = HfInputs(str(tmp_path / "none"), transformers.GPT2Config(eos_token_id=[5, 7], pad_token_id=None))
    assert (bare.pad_id, bare.end_id) == (5, 5)


def test_captions_of_blip_begin_with_the_token_that_it_generates_from(tmp_path: Path) -> None:
    text = {"vocab_size": 16, "max_position_embeddings": 6, "bos_token_id": 12, "pad_token_id": PAD}
    made = inputs(tmp_path, transformers.BlipConfig(text_config=text), pad_token="<pad>")
    assert encode(made, "a cat") == [[12, A, CAT, END, PAD, PAD]]


def test_a_text_is_no_longer_than_the_model_and_its_tokenizer_allow(tmp_path: Path) -> None:
    assert inputs(tmp_path, transformers.GPT2Config(n_positions=999)).context_length == LONGEST
    assert inputs(tmp_path, transformers.T5Config()).context_length == LONGEST
    assert inputs(tmp_path, transformers.GPT2Config(), model_max_length=5).context_length == 5
    # RoBERTa's positions begin behind that of the padding.
    config = transformers.RobertaConfig(vocab_size=16, max_position_embeddings=10, pad_token_id=1, hidden_size=8,
                                        intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)  # fmt: skip
    model: Any = transformers.RobertaModel(config)
    made = HfInputs(str(tmp_path / "none"), config, positions=usable_positions(model))
    assert made.context_length == 8
    model.eval()(torch.full((1, 8), 4))


@pytest.mark.parametrize(
    ("size", "shapes"),
    [
        ({"size": {"shortest_edge": 8}, "do_center_crop": False}, r"\[3, 8, 10\] or \[3, 13, 8\]"),
        ({"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}}, ""),
    ],
)
def test_pictures_of_several_shapes_are_refused(tmp_path: Path, size: dict[str, Any], shapes: str) -> None:
    transformers.CLIPImageProcessor(**size).save_pretrained(tmp_path)
    made = HfInputs(str(tmp_path), transformers.CLIPConfig())
    if shapes:
        with pytest.raises(ValueError, match=rf"not make the same \[C, H, W\] of every picture, but {shapes}; set"):
            made.image_transform(augmented=False)
    else:
        made.image_transform(augmented=False)


def test_packed_patches_are_refused(tmp_path: Path) -> None:
    transformers.Qwen2VLImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"does not make the same .* of every picture, but .*write a data module"):
        HfInputs(str(tmp_path), transformers.CLIPConfig()).image_transform(augmented=False)
