"""Pictures from files as a model family takes them: one, or two on one canvas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from worker.errors import DataError

CANVAS = 768
"""Pixels of a side of the canvas for two pictures; more than any family's own size, to which it is scaled down."""


@dataclass(frozen=True)
class Eye:
    """Opens pictures; can be pickled.

    Attributes:
        folder: Where their paths start.
        picture: PIL image -> [C, H, W].
    """

    folder: Path
    picture: Callable[[Any], Tensor]

    def see(self, paths: Sequence[str], seed: int) -> Tensor:
        """[C, H, W]: a function of the files and the seed.

        Raises:
            DataError: One cannot be read.
        """
        images = [self._opened(path) for path in paths]
        return seeded(self.picture, images[0] if len(images) == 1 else stacked(images), seed)

    def _opened(self, path: str) -> Image.Image:
        try:
            with Image.open(self.folder / path) as image:
                return image.convert("RGB")
        except FileNotFoundError:
            raise DataError(f"the picture {path} is not there; it was expected in {self.folder}") from None
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"the picture {self.folder / path} cannot be decoded: {error}") from error


def stacked(images: Sequence[Image.Image]) -> Image.Image:
    """Pictures one above the other on a square, the first on top, each stretched to the full width.

    A square is what vision towers take, so nothing of it is cropped away; and a photograph is mostly wider than high:
    beside each other two of 4:3 would be squeezed 2.7 times in width, or fill a third of the canvas.
    """
    canvas = Image.new("RGB", (CANVAS, CANVAS))
    height = CANVAS // len(images)
    for number, image in enumerate(images):
        canvas.paste(image.resize((CANVAS, height), Image.Resampling.BICUBIC), (0, number * height))
    return canvas


def seeded(picture: Callable[[Any], Tensor], image: Image.Image, seed: int) -> Tensor:
    """What ``picture`` makes of an image. Augmentation draws from torch's global numbers, which know nothing of a
    position in the data: for so long they are those of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return picture(image)
