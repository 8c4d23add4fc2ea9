"""Pictures from files, transformed for a model family: one picture, or two on one canvas."""

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
"""Side of the canvas for two pictures, in pixels; larger than any family's input, to which it is scaled down."""
DECODING_ERRORS = (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""The exceptions that PIL raises for a picture that it cannot decode."""


@dataclass(frozen=True)
class ImageReader:
    """Reads and transforms pictures. Can be pickled.

    Attributes:
        folder: The directory that their paths are relative to.
        transform: PIL image -> [C, H, W].
    """

    folder: Path
    transform: Callable[[Any], Tensor]

    def read(self, paths: Sequence[str], seed: int) -> Tensor:
        """Return [C, H, W]: a function of the files and the seed alone.

        Raises:
            DataError: A picture cannot be read.
        """
        images = [self._open(path) for path in paths]
        image = images[0] if len(images) == 1 else stack_on_canvas(images)
        return transform_with_seed(self.transform, image, seed)

    def _open(self, path: str) -> Image.Image:
        try:
            with Image.open(self.folder / path) as image:
                return image.convert("RGB")
        except FileNotFoundError:
            raise DataError(f"the picture {path} does not exist in {self.folder}") from None
        except DECODING_ERRORS as error:
            raise DataError(f"the picture {self.folder / path} cannot be decoded: {error}") from error


def stack_on_canvas(images: Sequence[Image.Image]) -> Image.Image:
    """Put pictures one above the other on a square canvas, the first on top, each stretched to the full width.

    Vision towers take squares, so nothing of the canvas is cropped away. Photographs are mostly wider than high:
    side by side, two of 4:3 would be squeezed 2.7 times in width, or fill a third of the canvas.
    """
    canvas = Image.new("RGB", (CANVAS, CANVAS))
    height = CANVAS // len(images)
    for number, image in enumerate(images):
        canvas.paste(image.resize((CANVAS, height), Image.Resampling.BICUBIC), (0, number * height))
    return canvas


def transform_with_seed(transform: Callable[[Any], Tensor], image: Image.Image, seed: int) -> Tensor:
    """Apply a transform with torch's global random state seeded, and restore that state afterwards.

    Augmentation draws from the global state, which does not depend on the position in the data; the seed does.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transform(image)
