"""Examples of a dataset, read from its files: pictures, a prompt, and the possible answers."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from worker.data.base import Batch
from worker.data.counter import below, draws
from worker.data.pictures import ImageReader
from worker.data.tokens import TextCodec

ORDER_SEED = 20231104
"""Held-out examples are in the same order for every seed, so that metrics on the first N can be compared."""


@dataclass(frozen=True, slots=True)
class Example:
    """One example.

    Attributes:
        pictures: Paths of its pictures.
        prompt: The text before the answer; empty for a caption.
        answers: The possible answers, as in the files. Training draws one of them each time, so a frequent answer is
            drawn more often; measuring takes the first.
        key: A key shared by examples that belong together, such as those of one picture.
        kind: Index of its kind in the dataset's kinds.
    """

    pictures: tuple[str, ...]
    prompt: str
    answers: tuple[str, ...]
    key: str
    kind: int = 0


AnswerText = Callable[[Example, int], str]
"""(example, index of one of its answers) -> the text that the model should write."""


class Examples(Dataset[Batch]):
    """Examples as items of a batch; see ``worker.data.base.DataModule``. Item i of an epoch is a function of the seed.

    Args:
        examples: The examples, in order.
        images: Reads their pictures.
        codec: Encodes their texts.
        answer_text: (example, index of one of its answers) -> the text that the model should write.
        seed: Seed of the random choices in an epoch.
    """

    def __init__(
        self, examples: Sequence[Example], images: ImageReader, codec: TextCodec, answer_text: AnswerText, seed: int
    ) -> None:
        self.examples = examples
        self._images, self._codec, self._answer_text, self._seed = images, codec, answer_text, seed

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Batch:
        check_index(index, len(self))
        return self._item(self.examples[index], answer=0, seed=0)

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        return [self[index] for index in indices]

    def of_epoch(self, index: int, epoch: int) -> Batch:
        """Return the item with the answer and the augmentation that are drawn for an epoch."""
        example = self.examples[index]
        drawn = draws(self._seed + epoch, np.array([index], dtype=np.int64), 2)[0]
        return self._item(example, int(below(drawn[:1], len(example.answers))[0]), int(drawn[1] >> np.uint64(1)))

    def _item(self, example: Example, answer: int, seed: int) -> Batch:
        return {
            **self._images.read(example.pictures, seed),
            **self._codec.row(example.prompt, self._answer_text(example, answer)),
            "paired": torch.tensor(not example.prompt),
            "kind": torch.tensor(example.kind),
        }


def check_index(index: int, length: int) -> None:
    """Raise IndexError unless an index is between 0 and length - 1."""
    if not 0 <= index < length:
        raise IndexError(f"the index {index} is out of range; items are numbered 0 to {length - 1}")


def in_fixed_order(examples: Sequence[Example]) -> list[Example]:
    """Shuffle examples, always in the same way; those with one key stay together."""
    keys = np.array([zlib.crc32(example.key.encode()) for example in examples], dtype=np.int64)
    words = draws(ORDER_SEED, keys, 1)[:, 0] if len(keys) else keys
    return [examples[at] for at in np.argsort(words, kind="stable")]
