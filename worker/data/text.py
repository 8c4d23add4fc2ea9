"""Texts from files, one a line, for the text models of transformers.

A batch has ``input_ids`` and ``attention_mask`` [B, L], padded at the end to the longest of its texts. A text of more
than 128 tokens, or more than the model reads, is cut off.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.utils.data import Dataset

from worker.data.base import TEACHER, Batch, Context
from worker.data.counter import shuffled
from worker.data.examples import ORDER_SEED, check_index
from worker.data.options import parse_options
from worker.data.pairs import stack
from worker.data.preprocessing import Preprocessing, Texts, vocabulary_size
from worker.data.shuffled import Shuffled

log = logging.getLogger(__name__)


class TextOptions(BaseModel):
    """Options of the text data."""

    model_config = ConfigDict(extra="forbid")

    train: str | list[str]
    """Text files for training, in UTF-8: a path relative to the recipe, a pattern such as ``texts/*.txt``, or several.
    Every line that is not empty is a text."""
    held_out: str | list[str]
    """The files for the probe; none of them may be in ``train``."""
    seed: int = Field(default=0, ge=0)
    """Seed of the order of the training texts."""


class Lines(Dataset[Batch]):
    """Texts as items: ``input_ids`` and ``attention_mask`` [L], and what the teacher reads instead.

    Args:
        lines: The texts.
        texts: Encodes them.
    """

    def __init__(self, lines: Sequence[str], texts: Texts) -> None:
        self._lines, self._texts = lines, texts

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> Batch:
        check_index(index, len(self))
        entries = self._texts.encode(self._lines[index])
        # The name that the models of transformers give to tokens.
        return {name.replace("text", "input_ids"): entry for name, entry in entries.items()}

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        return [self[index] for index in indices]


class TextData:
    """The data module; its attributes are those of ``worker.data.base.DataModule``."""

    kinds = ("text",)

    def __init__(self, options: TextOptions, context: Context) -> None:
        preprocessing = Preprocessing(context)
        inputs, texts = preprocessing.student, preprocessing.texts()
        self.text_difference = texts.difference
        self.pad_id, self.context_length = inputs.pad_id, inputs.context_length
        self.vocab_size = vocabulary_size(texts.student, inputs.vocab_size)
        train = _files("train", options.train, context.directory)
        held_out = _files("held_out", options.held_out, context.directory)
        both = sorted(set(train) & set(held_out))
        if both:
            raise ValueError(f"the file {both[0]} is both in train and in held_out")
        train_lines, held_out_lines = _read("train", train), _read("held_out", held_out)
        repeated = len(set(train_lines) & set(held_out_lines))
        if repeated:
            log.warning("%d of the held-out texts are also training texts", repeated)
        self.train = Shuffled(Lines(train_lines, texts), options.seed)
        # Files often have an order, and the probe reads only the first texts.
        order = shuffled(ORDER_SEED, 0, len(held_out_lines), np.arange(len(held_out_lines)))
        self.held_out = self.questions = Lines([held_out_lines[index] for index in order], texts)

    def collate(self, items: Sequence[Batch]) -> Batch:
        """Stack items without the padding that all of them have."""
        batch = stack(items)
        mask = batch["attention_mask"]
        # Teacher's tokens that differ by their padding alone have the student's mask.
        teacher_mask = batch.get(f"{TEACHER}attention_mask", mask)
        lengths = {teacher: int(own.sum(1).max()) for teacher, own in ((False, mask), (True, teacher_mask))}
        return {name: rows[:, : lengths[name.startswith(TEACHER)]] for name, rows in batch.items()}

    def metrics(self, logits: Tensor, batch: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
        """Compute ``accuracy``, the fraction of tokens that are predicted correctly from those before them.

        Logits that do not predict the next token have no metric here.
        """
        target, counted = batch["input_ids"][:, 1:], batch["attention_mask"][:, 1:].bool()
        if logits.ndim != 3 or logits.shape[:2] != target.shape:
            return {}
        correct = (logits.argmax(dim=-1) == target) & counted
        return {"accuracy": (float(correct.sum()), float(counted.sum()))}


def build_text(options: Mapping[str, object], context: Context) -> TextData:
    """Build the data module from its options.

    Raises:
        ValueError: An option is wrong, or a file cannot be read.
    """
    return TextData(parse_options(TextOptions, options, "text"), context)


def _files(field: str, patterns: str | Sequence[str], directory: Path) -> list[Path]:
    """Return the files that patterns name, each once, in order."""
    found: list[Path] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        # An absolute pattern starts from its own root.
        root, relative = (Path("/"), pattern[1:]) if pattern.startswith("/") else (directory, pattern)
        matching = sorted(path for path in root.glob(relative) if path.is_file())
        if not matching:
            raise ValueError(f"{field} names {pattern!r}, but there is no such file in {directory.resolve()}")
        found += matching
    return list(dict.fromkeys(path.resolve() for path in found))


def _read(field: str, files: Sequence[Path]) -> list[str]:
    """Return the lines of files that are not empty."""
    texts: list[str] = []
    for file in files:
        try:
            with file.open(encoding="utf-8") as lines:
                texts += [line.strip() for line in lines if line.strip()]
        except UnicodeDecodeError as error:
            raise ValueError(f"{field}: the file {file} is not text in UTF-8: {error.reason}") from error
        except OSError as error:
            raise ValueError(f"{field}: the file {file} cannot be read: {error.strerror}") from error
    if not texts:
        raise ValueError(f"{field}: there is no text in {', '.join(map(str, files)) or 'no file'}")
    return texts
