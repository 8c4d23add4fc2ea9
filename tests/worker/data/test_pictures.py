"""Pictures of every mode are read as a viewer shows them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from worker.data.pictures import ImageReader, to_rgb
from worker.errors import DataError

ORIENTATION = 0x0112


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> Image.Image:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file)


def pixels(image: Image.Image) -> Any:
    rgb = to_rgb(image)
    assert rgb.mode == "RGB"
    return np.asarray(rgb).astype(int)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_and_not_clipped(kind: str) -> None:
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    found = pixels(saved(Image.fromarray(values), kind))
    assert np.abs(found - np.linspace(0, 255, 64).reshape(8, 8, 1)).max() <= 1


def test_a_camera_that_was_turned_does_not_turn_the_picture() -> None:
    stored = Image.new("RGB", (4, 2))
    stored.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    for orientation, corner in ((1, (0, 0)), (3, (3, 1)), (6, (1, 0)), (8, (0, 3))):
        exif[ORIENTATION] = orientation
        shown = to_rgb(saved(stored, exif=exif))
        assert shown.size == ((4, 2) if orientation < 5 else (2, 4))
        assert shown.getpixel(corner) == (255, 0, 0), orientation


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_make_a_picture_unusable() -> None:
    file = io.BytesIO()
    Image.new("RGB", (4, 2), "blue").save(file, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40)
    assert to_rgb(Image.open(file)).size == (4, 2)


def test_what_is_transparent_is_white() -> None:
    half = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    half.putpixel((1, 1), (200, 0, 0, 255))
    half.putpixel((0, 1), (0, 0, 0, 51))
    found = pixels(saved(half))
    assert [found[0, 0].tolist(), found[1, 1].tolist(), found[1, 0].tolist()] == [[255] * 3, [200, 0, 0], [204] * 3]
    palette = Image.new("RGB", (4, 4), "red").quantize(4)
    for index, expected in ((palette.getpixel((0, 0)), [255, 255, 255]), (3, [255, 0, 0])):
        assert pixels(saved(palette, transparency=index))[0, 0].tolist() == expected
    # A palette with an opacity for each colour, which PIL warns about when it is converted to RGB.
    assert pixels(saved(palette, transparency=bytes([0, 0, 0, 0])))[0, 0].tolist() == [255] * 3
    assert pixels(saved(Image.new("L", (2, 2), 7), transparency=7))[0, 0].tolist() == [255] * 3


def test_grey_bilevel_palette_and_printers_colours() -> None:
    assert pixels(saved(Image.new("L", (2, 2), 77)))[0, 0].tolist() == [77] * 3
    assert pixels(saved(Image.new("LA", (2, 2), (77, 255))))[0, 0].tolist() == [77] * 3
    assert pixels(saved(Image.new("1", (2, 2), 1)))[0, 0].tolist() == [255] * 3
    assert pixels(saved(Image.new("RGB", (2, 2), "red").quantize(2)))[0, 0].tolist() == [255, 0, 0]
    cmyk = pixels(saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))[0, 0]
    assert np.abs(cmyk - [255, 0, 0]).max() <= 2


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_of_unknown_range_are_an_error(tmp_path: Path, dtype: Any) -> None:
    Image.fromarray(np.ones((4, 4), dtype)).save(tmp_path / "deep.tiff")
    with pytest.raises(DataError, match=r"deep\.tiff cannot be decoded: its pixels have 32 bits, and their range is"):
        ImageReader(tmp_path, {"image": tensor}).read(["deep.tiff"], 0)


def test_every_transform_sees_the_same_crop(tmp_path: Path) -> None:
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "grey.png")
    reader = ImageReader(tmp_path, {"image": crop, "teacher/image": lambda picture: crop(picture) * 2})
    found = [reader.read(["grey.png"], seed) for seed in (1, 2, 1)]
    assert all(torch.equal(item["image"] * 2, item["teacher/image"]) for item in found)
    assert torch.equal(found[0]["image"], found[2]["image"])
    assert not torch.equal(found[0]["image"], found[1]["image"])


def tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(picture).copy())


def crop(picture: Image.Image) -> Tensor:
    left, top = torch.randint(0, 5, (2,)).tolist()
    return tensor(picture.crop((left, top, left + 4, top + 4))).float()
