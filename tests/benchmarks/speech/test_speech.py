"""Sentences, labels and word errors of the speech benchmark; without speech, which needs espeak-ng."""

from __future__ import annotations

import random
import wave
from pathlib import Path

import numpy as np
import pytest

from benchmarks.speech.corpus import DIGITS, FRAMES, RATE, VOICES, sentence, write_wave
from benchmarks.speech.data import IGNORED, Recordings, build, read_wave
from benchmarks.speech.judge import word_errors
from benchmarks.speech.teacher import make_processor
from worker.data.base import Context


def test_no_voice_is_both_trained_on_and_held_out_and_sentences_are_of_one_language() -> None:
    assert not set(VOICES["train"]) & set(VOICES["held-out"])
    generator = random.Random(0)
    for language in ("en", "de"):
        words = {word for frame in FRAMES[language] for word in frame.split()} | set(DIGITS[language])
        for _ in range(20):
            assert set(sentence(language, generator).split()) <= words


@pytest.mark.parametrize(
    ("written", "said", "errors"),
    [("a b c", "a b c", 0), ("", "a b", 2), ("a b", "", 2), ("b c", "a b c", 1), ("a x c d", "a b c", 2)],
)  # fmt: skip
def test_word_errors_are_replaced_inserted_and_removed_words(written: str, said: str, errors: int) -> None:
    assert word_errors(written.split(), said.split()) == errors


def test_labels_are_whispers_and_padded_with_what_is_ignored(tmp_path: Path) -> None:
    processor = make_processor(["one two three eins zwei drei"])
    processor.save_pretrained(tmp_path / "teacher")
    write_wave(tmp_path / "a.wav", np.zeros(RATE, dtype=np.float32))
    for name in ("train", "held"):
        (tmp_path / f"{name}.tsv").write_text("a.wav\ten\tone two three\na.wav\tde\tzwei\n", encoding="utf-8")
    options = {"processor": "teacher", "train": "train.tsv", "held_out": "held.tsv"}
    data = build(options, Context(tmp_path, inputs=lambda: pytest.fail("not needed")))
    batch = data.collate(data.held_out.__getitems__([0, 1]))
    assert batch["input_features"].shape == (2, 40, 150)
    texts = [processor.tokenizer.decode(row[row != IGNORED]) for row in batch["labels"]]
    assert texts == [
        "<|en|><|transcribe|><|notimestamps|> one two three<|endoftext|>",
        "<|de|><|transcribe|><|notimestamps|> zwei<|endoftext|>",
    ]
    logits = np.eye(len(processor.tokenizer))[batch["labels"].clamp(min=0)]
    assert data.metrics(batch["labels"].new_tensor(logits), batch) == {"accuracy": (6.0, 6.0)}


def test_a_recording_of_another_form_is_refused_with_the_command_that_converts_it(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(44100)
        file.writeframes(bytes(8))
    with pytest.raises(ValueError, match=r"2 channels, 16 bits and 44100 samples a second; .* -ac 1 -ar 16000"):
        read_wave(tmp_path / "a.wav", RATE)


def test_a_list_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.tsv cannot be read"):
        Recordings(tmp_path / "none.tsv", None)
    (tmp_path / "bad.tsv").write_text("a.wav\thello\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.tsv, line 1: expected FILE, LANGUAGE and TEXT"):
        Recordings(tmp_path / "bad.tsv", None)
