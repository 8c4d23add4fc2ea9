"""Pictures from files, transformed for a model family: one picture, or two on one canvas."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from worker.data.base import Batch
from worker.errors import DataError

CANVAS = 768
"""Side of the canvas for two pictures, in pixels; larger than any family's input, to which it is scaled down."""
DECODING_ERRORS = (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""The exceptions that PIL, and `to_rgb`, raise for a picture that cannot be decoded."""
SIXTEEN_BITS = ("PNG", "PPM")
"""File formats whose pixels have 16 bits where PIL decodes them to 32."""

Transforms = Mapping[str, Callable[[Any], Tensor]]
"""By the batch's entry that it makes: PIL image -> [C, H, W]. Teacher and student may have different ones."""


@dataclass(frozen=True)
class ImageReader:
    """Reads and transforms pictures. Can be pickled.

    Attributes:
        folder: The directory that their paths are relative to.
        transforms: The transforms, by the batch's entry that they make.
    """

    folder: Path
    transforms: Transforms

    def read(self, paths: Sequence[str], seed: int) -> Batch:
        """Return the entries of an item, each [C, H, W]: a function of the files and the seed alone.

        Raises:
            DataError: A picture cannot be read.
        """
        images = [self._open(path) for path in paths]
        image = images[0] if len(images) == 1 else stack_on_canvas(images)
        return transform_with_seed(self.transforms, image, seed)

    def _open(self, path: str) -> Image.Image:
        try:
            with Image.open(self.folder / path) as image:
                return to_rgb(image)
        except FileNotFoundError:
            raise DataError(f"the picture {path} does not exist in {self.folder}") from None
        except DECODING_ERRORS as error:
            raise DataError(f"the picture {self.folder / path} cannot be decoded: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a picture as a viewer shows it: upright, in 8 bits per channel, on white where it is transparent.

    ``convert("RGB")`` alone ignores the orientation that a camera noted (EXIF), clips 16-bit values to white, and shows
    the arbitrary colours under transparent pixels.

    Raises:
        ValueError: The pixels are 32-bit integers or floating-point numbers, whose range is not known.
    """
    sixteen_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format in SIXTEEN_BITS)
    if image.mode in ("I", "F") and not sixteen_bits:
        raise ValueError("its pixels have 32 bits, and their range is not known; save it with 8 or 16 bits")
    image = _upright(image)
    if sixteen_bits:
        values = np.asarray(image.convert("I"))
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        # PIL raises errors of many types for damaged EXIF; the pixels may be whole, and are decoded by the caller.
        return image


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


def transform_with_seed(transforms: Transforms, image: Image.Image, seed: int) -> Batch:
    """Apply transforms, each with torch's global random state seeded, and restore that state afterwards.

    Augmentation draws from the global state, which does not depend on the position in the data; the seed does. With the
    same seed, teacher and student see the same crop.
    """
    entries = {}
    with torch.random.fork_rng(devices=[]):
        for name, transform in transforms.items():
            torch.manual_seed(seed)
            entries[name] = transform(image)
    return entries
