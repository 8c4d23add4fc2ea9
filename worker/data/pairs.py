"""Pictures with their texts, out of samples as open_clip's shards hold them: ``jpg``, ``png``; ``txt``, ``json``."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from worker.data.base import Batch
from worker.data.counter import draws
from worker.data.pictures import seeded
from worker.errors import DataError

Sample = Mapping[str, Any]
"""``__key__``, and the bytes of each of its files by extension."""


class Unfit(Exception):
    """A sample lacks something, or something of it cannot be read; says what."""


@dataclass(frozen=True)
class Reader:
    """Makes items of samples; can be pickled.

    Attributes:
        image: Extensions of the picture; the first that a sample has counts.
        text: Extensions of the text.
        caption: The field of a ``json`` that holds the text.
        picture: PIL image -> [C, H, W].
        words: N texts -> [N, L].
        seed: Of what ``picture`` draws.
    """

    image: tuple[str, ...]
    text: tuple[str, ...]
    caption: str
    picture: Callable[[Any], Tensor]
    words: Callable[[list[str]], Tensor]
    seed: int

    def complete(self, sample: Sample) -> None:
        """See, without decoding anything, whether picture and text are there. Raises Unfit."""
        _first(sample, self.image)
        _first(sample, self.text)

    def item(self, sample: Sample, epoch: int) -> Batch:
        """``image`` [C, H, W], ``text`` [L], ``paired``: a function of seed, epoch and the sample. Raises Unfit."""
        text = self.words([self._text(sample)])[0]
        key = np.array([zlib.crc32(str(sample["__key__"]).encode())], dtype=np.int64)
        seed = int(draws(self.seed + epoch, key, 1)[0, 0] >> np.uint64(1))
        image = seeded(self.picture, self._image(sample), seed)
        return {"image": image, "text": text, "paired": torch.tensor(True)}

    def _image(self, sample: Sample) -> Image.Image:
        extension = _first(sample, self.image)
        try:
            return Image.open(io.BytesIO(sample[extension])).convert("RGB")
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise Unfit(f"with a {extension} that cannot be decoded") from error

    def _text(self, sample: Sample) -> str:
        extension = _first(sample, self.text)
        try:
            text = sample[extension].decode("utf-8")
            if extension == "json":
                text = json.loads(text)[self.caption]
        except (ValueError, KeyError, TypeError) as error:
            wanted = f" with the field {self.caption!r}" if extension == "json" else ""
            raise Unfit(f"whose {extension} is no text{wanted}") from error
        if not isinstance(text, str):
            raise Unfit(f"whose {extension} holds no text in the field {self.caption!r}")
        return text


class Kept(Dataset[Batch]):
    """Samples kept in memory as they come from their shards, and decoded each time that they are asked for.

    Args:
        samples: Each with its name for an error.
        strict: Whether one that cannot be decoded is an error; otherwise the next that can stands in for it.
    """

    def __init__(self, samples: Sequence[tuple[str, Sample]], reader: Reader, *, strict: bool) -> None:
        self._samples, self._reader, self._strict = samples, reader, strict

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(f"Items are numbered 0 to {len(self) - 1}; {index} is not within.")
        for at in range(index, index + len(self)):
            where, sample = self._samples[at % len(self)]
            try:
                return self._reader.item(sample, epoch=0)
            except Unfit as fault:
                if self._strict:
                    raise DataError(f"the shard {where} has a sample {sample['__key__']} {fault}") from fault
        raise DataError(f"none of the {len(self)} held-out samples can be decoded")

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        return [self[index] for index in indices]


def stack(items: Sequence[Batch]) -> Batch:
    """Items as one batch."""
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def words_right(logits: Tensor, text: Tensor, pad_id: int) -> tuple[float, float]:
    """How many tokens of texts [B, L] the logits [B, L - 1, V] predict, and of how many, padding aside."""
    target = text[:, 1:]
    counted = target != pad_id
    return float(((logits.argmax(dim=-1) == target) & counted).sum()), float(counted.sum())


def _first(sample: Sample, extensions: Sequence[str]) -> str:
    found = next((extension for extension in extensions if extension in sample), None)
    if found is None:
        raise Unfit(f"without any of {', '.join(extensions)}")
    return found
