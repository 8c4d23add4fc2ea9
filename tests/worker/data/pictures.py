"""Tar shards of real collages with their captions, by open_clip's convention, and a small vocabulary for them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from webdataset.writer import TarWriter

from worker.data.digits.rows import MEAN, STD, TRAIN_DIGITS, Collages
from worker.data.digits.text import CONTEXT_LENGTH, KINDS, TOKEN_IDS, decode


def tokenize(texts: Sequence[str]) -> Tensor:
    """Texts of the digits' vocabulary, as its teacher reads them."""
    rows = torch.zeros(len(texts), CONTEXT_LENGTH, dtype=torch.int64)
    for row, text in zip(rows, texts, strict=True):
        tokens = [TOKEN_IDS["<start>"], *(TOKEN_IDS[word] for word in text.split()), TOKEN_IDS["<end>"]]
        row[: len(tokens)] = torch.tensor(tokens)
    return rows


def write(path: Path, samples: Iterable[Mapping[str, Any]]) -> None:
    """One shard of samples: ``__key__``, and the content of each file by extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TarWriter(str(path)) as writer:
        for sample in samples:
            writer.write(dict(sample))


def write_collages(directory: Path, shards: int, each: int, *, first: int = 0) -> str:
    """Write shards of ``each`` captioned collages, numbered from ``first``; returns the pattern that names them."""
    mix = [float(kind == "caption") for kind in KINDS]
    rows = Collages(np.arange(TRAIN_DIGITS), seed=0, length=2**20, mix=mix, shift=0)
    for shard in range(shards):
        numbers = range(first + shard * each, first + (shard + 1) * each)
        items = zip(numbers, rows.__getitems__(numbers), strict=True)
        samples = ({"__key__": f"{n:06d}", "png": png(row["image"]), "txt": decode(row["text"])} for n, row in items)
        write(directory / f"{shard:03d}.tar", samples)
    return f"{directory}/{{000..{shards - 1:03d}}}.tar"


def png(image: Tensor) -> bytes:
    """A normalised image [3, H, W] as a file."""
    pixels = ((image * STD + MEAN) * 255).round().clamp(0, 255).byte()
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "png")
    return file.getvalue()


class Numbers:
    """A model's inputs: a text is a number, a picture its brightest pixel."""

    pad_id, end_id, vocab_size, context_length = -1, None, 1000, 2

    def image_transform(self, *, augmented: bool) -> Callable[[Any], Tensor]:
        return _brightest

    def tokenizer(self) -> Callable[[list[str]], Tensor]:
        return _number


def _brightest(image: Image.Image) -> Tensor:
    return torch.tensor(float(np.asarray(image.convert("L")).max()))


def _number(texts: list[str]) -> Tensor:
    return torch.tensor([[0, int(text)] for text in texts])


def plain(brightness: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2, 2), (brightness,) * 3).save(file, "png")
    return file.getvalue()
