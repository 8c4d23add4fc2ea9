"""A dataset's examples, read from its files: pictures, what is asked of them and what may be answered."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from worker.data.base import Batch
from worker.data.counter import below, draws
from worker.data.pictures import Eye
from worker.data.tokens import Speech

ORDER_SEED = 20231104
"""Held-out examples stand in one order for every seed, so that figures of the first N can be compared."""


@dataclass(frozen=True, slots=True)
class Example:
    """One example.

    Attributes:
        pictures: Their paths.
        prompt: What stands before the answer; empty for a caption.
        answers: What may be answered, as the files have it. Training takes one of them by chance each time, so a
            frequent one more often; measuring takes the first.
        key: What it shares with the examples it belongs to, such as those of one picture.
        kind: Which of the dataset's kinds it is.
    """

    pictures: tuple[str, ...]
    prompt: str
    answers: tuple[str, ...]
    key: str
    kind: int = 0


Said = Callable[[Example, int], str]
"""(example, which of its answers) -> what the model is to say."""


class Examples(Dataset[Batch]):
    """Examples as items of a batch; see ``worker.data.base.DataModule``. Item i of an epoch is a function of the seed.

    Args:
        examples: In their order.
        eye: Opens pictures.
        speech: Makes tokens.
        said: (example, which of its answers) -> what the model is to say.
        seed: Of what an epoch draws.
    """

    def __init__(self, examples: Sequence[Example], eye: Eye, speech: Speech, said: Said, seed: int) -> None:
        self.examples = examples
        self._eye, self._speech, self._said, self._seed = eye, speech, said, seed

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(f"Items are numbered 0 to {len(self) - 1}; {index} is not within.")
        return self._item(self.examples[index], answer=0, seed=0)

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        return [self[index] for index in indices]

    def of_epoch(self, index: int, epoch: int) -> Batch:
        """The item as an epoch has it: with an answer of its own, and an augmentation."""
        example = self.examples[index]
        drawn = draws(self._seed + epoch, np.array([index], dtype=np.int64), 2)[0]
        return self._item(example, int(below(drawn[:1], len(example.answers))[0]), int(drawn[1] >> np.uint64(1)))

    def _item(self, example: Example, answer: int, seed: int) -> Batch:
        text, marked = self._speech.row(example.prompt, self._said(example, answer))
        return {
            "image": self._eye.see(example.pictures, seed),
            "text": text,
            "answer": marked,
            "paired": torch.tensor(not example.prompt),
            "kind": torch.tensor(example.kind),
        }


def ordered(examples: Sequence[Example]) -> list[Example]:
    """In an order by chance, the same always, in which those of one key stay together."""
    keys = np.array([zlib.crc32(example.key.encode()) for example in examples], dtype=np.int64)
    words = draws(ORDER_SEED, keys, 1)[:, 0] if len(keys) else keys
    return [examples[at] for at in np.argsort(words, kind="stable")]
