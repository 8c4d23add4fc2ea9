"""The word error rate of what a model generates, and what generating costs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.speech.data import Recordings

BATCH = 50


def word_errors(written: Sequence[str], spoken: Sequence[str]) -> int:
    """Return the fewest words to replace, insert or remove that turn one sentence into another (Levenshtein)."""
    row = list(range(len(spoken) + 1))
    for place, word in enumerate(written, 1):
        above, row[0] = row[0], place
        for column, other in enumerate(spoken, 1):
            above, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, above + (word != other))
    return row[-1]


def judge(directory: Path, recordings: Recordings) -> dict[str, float]:
    """Measure the model in a directory, which is loaded by transformers alone.

    Returns:
        ``word_error_rate``: word errors over the words that were said. ``cpu_seconds``: what it cost to transcribe
        all of the recordings. ``decoder_parameters``: their number, embeddings included.
    """
    model: Any = transformers.WhisperForConditionalGeneration.from_pretrained(directory)
    model.eval()
    processor: Any = transformers.WhisperProcessor.from_pretrained(directory)
    errors = words = 0
    seconds = 0.0
    for language in sorted({language for _, language, _ in recordings.rows}):
        own = [index for index, row in enumerate(recordings.rows) if row[1] == language]
        for first in range(0, len(own), BATCH):
            indices = own[first : first + BATCH]
            features = torch.stack([recordings[index]["input_features"] for index in indices])
            began = time.process_time()
            tokens = model.generate(features, language=language, task="transcribe")
            seconds += time.process_time() - began
            for index, text in zip(indices, processor.batch_decode(tokens, skip_special_tokens=True), strict=True):
                spoken = recordings.rows[index][2].split()
                errors += word_errors(text.split(), spoken)
                words += len(spoken)
    return {
        "word_error_rate": round(errors / words, 4),
        "cpu_seconds": round(seconds, 2),
        "decoder_parameters": model.get_decoder().num_parameters(),
    }
