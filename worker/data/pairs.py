"""Pictures with texts from the samples of open_clip's shards: ``jpg``, ``png``; ``txt``, ``json``."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from worker.data.base import Batch
from worker.data.counter import draws
from worker.data.examples import check_index
from worker.data.pictures import DECODING_ERRORS, Transforms, to_rgb, transform_with_seed
from worker.data.preprocessing import Texts
from worker.errors import DataError

Sample = Mapping[str, Any]
"""``__key__``, and the bytes of each file by its extension."""


class UnusableSample(Exception):
    """A sample lacks its picture or text, or one of them cannot be read. The message continues "a sample KEY …"."""


@dataclass(frozen=True)
class Reader:
    """Makes items from samples. Can be pickled.

    Attributes:
        image: Extensions of the picture; the first that a sample has is used.
        text: Extensions of the text.
        caption: The field of a ``json`` that holds the text.
        transforms: The image transforms, by the batch's entry that they make.
        texts: Encodes the text.
        seed: Seed of the random choices of ``transforms``.
    """

    image: tuple[str, ...]
    text: tuple[str, ...]
    caption: str
    transforms: Transforms
    texts: Texts
    seed: int

    def check_complete(self, sample: Sample) -> None:
        """Raise UnusableSample unless a sample has a picture and a text; nothing is decoded."""
        _first(sample, self.image)
        _first(sample, self.text)

    def item(self, sample: Sample, epoch: int) -> Batch:
        """Decode a sample into an item, which is a function of seed, epoch and the sample.

        Returns:
            ``image`` [C, H, W], ``text`` [L], ``attention_mask`` [L] and ``paired``; and those of the teacher, if it
            needs others.

        Raises:
            UnusableSample: Picture or text is missing or cannot be read.
        """
        texts = self.texts.encode(self._text(sample))
        key = np.array([zlib.crc32(str(sample["__key__"]).encode())], dtype=np.int64)
        seed = int(draws(self.seed + epoch, key, 1)[0, 0] >> np.uint64(1))
        images = transform_with_seed(self.transforms, self._image(sample), seed)
        return {**images, **texts, "paired": torch.tensor(True)}

    def _image(self, sample: Sample) -> Image.Image:
        extension = _first(sample, self.image)
        try:
            return to_rgb(Image.open(io.BytesIO(sample[extension])))
        except DECODING_ERRORS as error:
            raise UnusableSample(f"with a {extension} that cannot be decoded") from error

    def _text(self, sample: Sample) -> str:
        extension = _first(sample, self.text)
        try:
            text = sample[extension].decode("utf-8")
            if extension == "json":
                text = json.loads(text)[self.caption]
        except (ValueError, KeyError, TypeError) as error:
            expected = f"a JSON object with the field {self.caption!r}" if extension == "json" else "text in UTF-8"
            raise UnusableSample(f"whose {extension} is not {expected}") from error
        if not isinstance(text, str):
            raise UnusableSample(f"whose {extension} has no text in the field {self.caption!r}")
        return text


class HeldOutSamples(Dataset[Batch]):
    """Samples in memory, encoded as in their shards; they are decoded on each access.

    Args:
        samples: The name of each sample's shard, for messages, and the sample.
        reader: Decodes them.
        strict: Whether a sample that cannot be decoded is an error; otherwise the next good one replaces it.
    """

    def __init__(self, samples: Sequence[tuple[str, Sample]], reader: Reader, *, strict: bool) -> None:
        self._samples, self._reader, self._strict = samples, reader, strict

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Batch:
        check_index(index, len(self))
        for number in range(index, index + len(self)):
            shard, sample = self._samples[number % len(self)]
            try:
                return self._reader.item(sample, epoch=0)
            except UnusableSample as fault:
                if self._strict:
                    raise DataError(f"the shard {shard} has a sample {sample['__key__']} {fault}") from fault
        raise DataError(f"none of the {len(self)} held-out samples can be decoded")

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        return [self[index] for index in indices]


def stack(items: Sequence[Batch]) -> Batch:
    """Stack items into one batch."""
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def correct_tokens(logits: Tensor, text: Tensor, counted: Tensor) -> tuple[float, float]:
    """Count the tokens of texts [B, L] that logits [B, L - 1, V] predict.

    Args:
        logits: At position i, of token i + 1.
        text: The texts.
        counted: [B, L], 0 at padding.

    Returns:
        The number of correct tokens, and the number of all tokens without padding.
    """
    mask = counted[:, 1:].bool()
    return float(((logits.argmax(dim=-1) == text[:, 1:]) & mask).sum()), float(mask.sum())


def _first(sample: Sample, extensions: Sequence[str]) -> str:
    extension = next((extension for extension in extensions if extension in sample), None)
    if extension is None:
        raise UnusableSample(f"without any of {', '.join(extensions)}")
    return extension
