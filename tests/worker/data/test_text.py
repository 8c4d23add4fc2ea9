"""Texts from files: which lines, which tokens, in which order."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from worker.data import Context, build
from worker.data.counter import shuffled
from worker.data.loader import first_batches, fixed_batch
from worker.data.text import TextData
from worker.errors import RecipeError
from worker.models.hf.inputs import HfInputs

WORDS = [f"w{number}" for number in range(20)]


@pytest.fixture
def inputs(tmp_path: Path) -> HfInputs:
    """A tokenizer of words, and a model that reads 8 tokens."""
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    transformers.BertTokenizer(str(tmp_path / "vocab.txt"), model_max_length=512).save_pretrained(tmp_path)
    (tmp_path / "train.txt").write_text("w0 w1\n\n  w2  \nw3 w4 w5\n", encoding="utf-8")
    (tmp_path / "held-out.txt").write_text("".join(f"{word} w0\n" for word in WORDS[6:]), encoding="utf-8")
    return HfInputs(str(tmp_path), transformers.BertConfig(vocab_size=25, max_position_embeddings=8))


def _data(inputs: Any, directory: Path, **options: Any) -> TextData:
    settings = {"train": "train.txt", "held_out": "held-out.txt", **options}
    data = build("text", settings, Context(directory, lambda: inputs))
    assert isinstance(data, TextData)
    return data


def test_a_batch_has_the_tokens_of_its_texts_padded_to_the_longest(inputs: HfInputs, tmp_path: Path) -> None:
    data = _data(inputs, tmp_path)
    # An epoch has every text once; empty lines are none.
    (batch,) = first_batches(data, count=1, size=3)
    rows = sorted(zip(batch["input_ids"].tolist(), batch["attention_mask"].tolist(), strict=True))
    assert rows == [
        ([2, 5, 6, 3, 0], [1, 1, 1, 1, 0]),
        ([2, 7, 3, 0, 0], [1, 1, 1, 0, 0]),
        ([2, 8, 9, 10, 3], [1, 1, 1, 1, 1]),
    ]
    # The model reads 8 tokens.
    (tmp_path / "train.txt").write_text(" ".join(WORDS), encoding="utf-8")
    (long,) = first_batches(_data(inputs, tmp_path), count=1, size=2)
    assert long["input_ids"].tolist() == [[2, 5, 6, 7, 8, 9, 10, 3]] * 2


def test_a_teacher_with_another_tokenizer_reads_its_own_tokens(inputs: HfInputs, tmp_path: Path) -> None:
    """Each side is padded to its own longest text."""
    (tmp_path / "teacher").mkdir()
    vocabulary = tmp_path / "teacher" / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "w", *(f"##{n}" for n in range(6))]))
    transformers.BertTokenizer(str(vocabulary)).save_pretrained(vocabulary.parent)
    teacher = HfInputs(str(vocabulary.parent), transformers.BertConfig(vocab_size=12, max_position_embeddings=32))
    settings = {"train": "train.txt", "held_out": "held-out.txt"}
    data = build("text", settings, Context(tmp_path, lambda: inputs, lambda: teacher))
    assert isinstance(data, TextData)
    assert data.text_difference
    (batch,) = first_batches(data, count=1, size=3)
    shapes = {name: rows.shape[1] for name, rows in batch.items()}
    assert shapes == {"input_ids": 5, "attention_mask": 5, "teacher/input_ids": 8, "teacher/attention_mask": 8}
    assert sorted(batch["teacher/input_ids"].tolist())[-1] == [2, 5, 9, 5, 10, 5, 11, 3]


def test_held_out_texts_are_in_one_order_for_every_seed(inputs: HfInputs, tmp_path: Path) -> None:
    first, second = (_data(inputs, tmp_path, seed=seed) for seed in (0, 1))
    batches = [fixed_batch(data, data.held_out, 0, 14)["input_ids"] for data in (first, second)]
    assert torch.equal(batches[0], batches[1])
    words = batches[0][:, 1].tolist()
    assert sorted(words) == list(range(11, 25)) != words
    orders = [[data.train[index]["input_ids"].tolist() for index in range(30)] for data in (first, second)]
    assert orders[0] != orders[1]
    first_words = [row[1] for row in orders[0][3:6]]
    assert first_words == [(5, 7, 8)[index] for index in shuffled(0, 1, 3, np.arange(3))]


def test_the_next_token_is_the_metric_of_logits_that_predict_it(inputs: HfInputs, tmp_path: Path) -> None:
    data = _data(inputs, tmp_path)
    batch = {
        "input_ids": torch.tensor([[2, 5, 3, 0], [2, 6, 7, 3]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0], [1] * 4]),
    }
    logits = torch.nn.functional.one_hot(torch.tensor([[5, 3, 0], [6, 9, 3]]), 25).float()
    assert data.metrics(logits, batch) == {"accuracy": (4.0, 5.0)}
    # Those of a masked language model, and of a classifier.
    assert data.metrics(torch.zeros(2, 4, 25), batch) == data.metrics(torch.zeros(2, 3), batch) == {}


def test_texts_in_both_are_counted(inputs: HfInputs, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "more.txt").write_text("w6 w0\nw1\nw7 w0\n", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        _data(inputs, tmp_path, train=["train.txt", "m*.txt"])
    assert [record.getMessage() for record in caplog.records] == ["2 of the held-out texts are also training texts"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": "trein.txt"}, r"train names 'trein\.txt', but there is no such file in /"),
        ({"train": "*.txt"}, r"the file /.*held-out\.txt is both in train and in held_out"),
        ({"train": []}, "train: there is no text in no file"),
        ({"held_out": "empty.txt"}, r"held_out: there is no text in /.*empty\.txt"),
        ({"held_out": "latin.txt"}, r"held_out: the file /.*latin\.txt is not text in UTF-8"),
        (
            {"shuffle": 1},
            r"wrong options for the text data: shuffle: .*; the options are train, held_out, seed",
        ),
    ],
)
def test_wrong_options_are_one_sentence(
    inputs: HfInputs, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "empty.txt").write_text("\n \n", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes("é\n".encode("latin-1"))
    with pytest.raises((ValueError, RecipeError), match=message):
        _data(inputs, tmp_path, **options)
