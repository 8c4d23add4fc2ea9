"""Recorded sentences with their texts, for Whisper; an example of a data module for speech.

    data:
      name: "benchmarks.speech.data:build"
      options: {processor: teacher, train: corpus/train.tsv, held_out: corpus/held-out.tsv}

``processor`` is a directory (or a hub id) with a WhisperProcessor. The lists have a line for each recording: its file,
relative to the list, its language and its text, separated by tabs. A batch has the log-mel spectra
``input_features`` [B, bins, frames] and ``labels`` [B, L]: language, task, text and end, -100 behind the end.
"""

from __future__ import annotations

import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from worker.data.base import Batch, Context
from worker.data.options import parse_options
from worker.data.shuffled import Shuffled

IGNORED = -100
"""The label of positions that are not predicted."""
PROMPT = 3
"""Labels before the text: language, task, no timestamps."""


class SpeechOptions(BaseModel):
    """Options of the speech data."""

    model_config = ConfigDict(extra="forbid")

    processor: str
    """Directory or hub id of the WhisperProcessor."""
    train: str
    """The list of recordings for training, relative to the recipe."""
    held_out: str
    """The list for measuring."""
    seed: int = 0
    """Seed of the order of training."""


class Recordings:
    """Recordings as items: ``input_features`` [bins, frames] and ``labels`` [L].

    Attributes:
        rows: File, language and text of each.

    Args:
        path: The list.
        processor: The WhisperProcessor.
    """

    def __init__(self, path: Path, processor: Any) -> None:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ValueError(f"the list of recordings {path} cannot be read: {error.strerror}") from error
        self.rows: list[tuple[Path, str, str]] = []
        for number, line in enumerate(lines, 1):
            columns = line.split("\t")
            if len(columns) != 3:
                raise ValueError(f"{path}, line {number}: expected FILE, LANGUAGE and TEXT, separated by tabs")
            self.rows.append((path.parent / columns[0], columns[1], columns[2]))
        self._processor = processor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        path, language, text = self.rows[index]
        extractor, tokenizer = self._processor.feature_extractor, self._processor.tokenizer
        sound = read_wave(path, extractor.sampling_rate)
        features = extractor(sound, sampling_rate=extractor.sampling_rate, return_tensors="pt").input_features[0]
        tokenizer.set_prefix_tokens(language=language, task="transcribe")
        # The first token, <|startoftranscript|>, is not predicted: the model puts it before the labels.
        return {"input_features": features, "labels": torch.tensor(tokenizer(text).input_ids[1:])}

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        return [self[index] for index in indices]


class SpeechData:
    """The data module; its attributes are those of ``worker.data.base.DataModule``."""

    kinds = ("speech",)

    def __init__(self, options: SpeechOptions, context: Context) -> None:
        local = context.directory / options.processor
        processor: Any = transformers.WhisperProcessor.from_pretrained(local if local.exists() else options.processor)
        self.pad_id, self.vocab_size = processor.tokenizer.pad_token_id, len(processor.tokenizer)
        self.context_length = processor.tokenizer.model_max_length
        self.train = Shuffled(Recordings(context.directory / options.train, processor), options.seed)
        self.held_out = self.questions = Recordings(context.directory / options.held_out, processor)

    def collate(self, items: Sequence[Batch]) -> Batch:
        """Stack items into a batch."""
        return collate(items)

    def metrics(self, logits: Tensor, batch: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
        """Compute ``accuracy``: the fraction of the text's tokens that are predicted from those before them."""
        labels = batch["labels"][:, PROMPT:]
        counted = labels != IGNORED
        correct = (logits[:, PROMPT:].argmax(-1) == labels) & counted
        return {"accuracy": (float(correct.sum()), float(counted.sum()))}


def collate(items: Sequence[Batch]) -> Batch:
    """Stack items into a batch; their labels are padded to the longest."""
    labels = pad_sequence([item["labels"] for item in items], batch_first=True, padding_value=IGNORED)
    return {"input_features": torch.stack([item["input_features"] for item in items]), "labels": labels}


def read_wave(path: Path, rate: int) -> NDArray[np.float32]:
    """Return the samples of a wave file, between -1 and 1.

    Raises:
        ValueError: It is not mono, of 16 bits and of this rate.
    """
    with wave.open(str(path)) as file:
        found = (file.getnchannels(), 8 * file.getsampwidth(), file.getframerate())
        if found != (1, 16, rate):
            raise ValueError(
                f"{path} has {found[0]} channels, {found[1]} bits and {found[2]} samples a second; convert it: "
                f"ffmpeg -i {path.name} -ac 1 -ar {rate} -c:a pcm_s16le OUT.wav"
            )
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
    return samples.astype(np.float32) / np.float32(2**15)


def build(options: Mapping[str, object], context: Context) -> SpeechData:
    """Build the data module from its options.

    Raises:
        ValueError: An option is wrong, or a list cannot be read.
    """
    return SpeechData(parse_options(SpeechOptions, options, "speech"), context)
