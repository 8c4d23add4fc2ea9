"""The inputs of teacher and student from the same raw item: one entry of the batch where both read the same, else two.

What image processors and tokenizers do is compared, on pictures and texts, rather than their settings, which have other
names and defaults in each library.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from worker.data.base import TEACHER, Batch, Context, Inputs
from worker.data.pictures import Transforms, transform_with_seed
from worker.data.tokens import written
from worker.errors import RecipeError

log = logging.getLogger(__name__)

Tokenizer = Callable[[list[str]], Tensor]

SAME_PIXELS = 1e-3
"""The most by which normalised pixels differ that are the same; a step of 8 bits is 0.004 before the normalisation."""
SIZES = ((64, 48), (300, 500))
"""Width and height of the pictures on which image transforms are compared."""
TEXTS = ("a photo of a cat", "A Bird, seen from BEHIND.", "don't: 3,141.59 km (at 10:30 a.m.)?", "café, naïve, Straße",
         "собака бежит", "一只猫坐在桌子上", "")  # fmt: skip
"""Texts on which tokenizers are compared."""
SAMPLED = 1024
"""The number of tokens by which vocabularies are compared: evenly spread ones, and as many of the last, which are often
added ones."""


@dataclass(frozen=True)
class TextEncoder:
    """Encodes a text for one model. Can be pickled.

    Attributes:
        tokenizer: N texts -> [N, L].
        pad: The token that pads a text.
        end: The token that ends one, if any.
    """

    tokenizer: Tokenizer
    pad: int
    end: int | None

    @classmethod
    def from_inputs(cls, inputs: Inputs) -> TextEncoder:
        """Return the encoder of a model."""
        return cls(inputs.tokenizer(), inputs.pad_id, inputs.end_id)

    def encode(self, text: str) -> Batch:
        """Return ``text`` [L], and its ``attention_mask`` [L], 0 at padding."""
        row = self.tokenizer([text])[0]
        return {"text": row, "attention_mask": written(row, self.pad, self.end).long()}


@dataclass(frozen=True)
class Texts:
    """Encodes texts for the student, and for the teacher what it reads instead. Can be pickled.

    Attributes:
        student: The student's encoder.
        teacher: The teacher's, if its tokens are others.
        teacher_pad: The token that pads the teacher's texts if all else is the same.
        difference: A sentence that says how the teacher's tokens differ; empty if they are the student's.
    """

    student: TextEncoder
    teacher: TextEncoder | None = None
    teacher_pad: int | None = None
    difference: str = ""

    def encode(self, text: str) -> Batch:
        """Return the entries of an item, each [L]; the teacher's only if they differ."""
        entries = self.student.encode(text)
        if self.teacher is not None:
            entries |= {f"{TEACHER}{name}": row for name, row in self.teacher.encode(text).items()}
        elif self.teacher_pad is not None:
            counted = entries["attention_mask"].bool()
            entries[f"{TEACHER}text"] = torch.where(counted, entries["text"], self.teacher_pad)
        return entries


class Preprocessing:
    """The preprocessing of both models.

    Args:
        context: The recipe's context.

    Raises:
        RecipeError: The student's is not known.
    """

    def __init__(self, context: Context) -> None:
        self.student = context.inputs()
        self.teacher: Inputs | None = None
        if context.teacher is not None:
            try:
                self.teacher = context.teacher()
            except RecipeError as error:
                log.warning("the teacher is given the student's inputs: %s", error)

    def image_transforms(self, *, augmented: bool) -> Transforms:
        """Return the transforms that make ``image`` and, if the teacher's pictures differ, ``teacher/image``.

        Raises:
            ValueError: A model has no such transform.
        """
        student = self.student.image_transform(augmented=augmented)
        if self.teacher is None:
            return {"image": student}
        try:
            teacher = self.teacher.image_transform(augmented=augmented)
        except ValueError as error:
            raise ValueError(f"the teacher's pictures: {error}") from error
        transforms = {"image": student, f"{TEACHER}image": teacher}
        for seed, size in enumerate(SIZES):
            ours, theirs = transform_with_seed(transforms, _picture(size), seed).values()
            if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=0, atol=SAME_PIXELS):
                log.info("the teacher gets pictures of its own: %s, the student's %s", _pixels(theirs), _pixels(ours))
                return transforms
        return {"image": student}

    def texts(self, tokenizer: Tokenizer | None = None) -> Texts:
        """Return what encodes texts.

        Args:
            tokenizer: Replaces the tokenizers of both models.

        Raises:
            ValueError: A model has no tokenizer that fits it.
        """
        if tokenizer is not None:
            return Texts(TextEncoder(tokenizer, self.student.pad_id, self.student.end_id))
        student = TextEncoder.from_inputs(self.student)
        if self.teacher is None:
            return Texts(student)
        try:
            teacher = TextEncoder.from_inputs(self.teacher)
        except ValueError as error:
            raise ValueError(f"the teacher's texts: {error}") from error
        difference = _difference(student, teacher) or self._vocabulary_difference(student, teacher)
        if difference:
            log.info("the teacher gets texts of its own: %s", difference)
            return Texts(student, teacher, difference=difference)
        return Texts(student, teacher_pad=None if teacher.pad == student.pad else teacher.pad)

    def _vocabulary_difference(self, student: TextEncoder, teacher: TextEncoder) -> str:
        """Return a sentence about the first token of a sample that means different things; empty if there is none."""
        assert self.teacher is not None
        sizes = [vocabulary_size(encoder, 0) for encoder in (student, teacher)]
        last = max(sizes)
        sampled = {int(token) for token in np.linspace(0, last, SAMPLED, endpoint=False)}
        decode = self.student.detokenizer(), self.teacher.detokenizer()
        for token in sorted(sampled | set(range(max(0, last - SAMPLED), last))):
            ours, theirs = (each([token]) for each in decode)
            # Special tokens decode to nothing, and a text contains none; so do tokens that a vocabulary does not have.
            special = any(not word and token < size for word, size in zip((ours, theirs), sizes, strict=True))
            if ours != theirs and not special:
                return f"the token {token} is {theirs!r} for the teacher and {ours!r} for the student"
        return ""


def vocabulary_size(encoder: TextEncoder, default: int) -> int:
    """Return how many tokens the tokenizer of an encoder knows; the default if it does not say."""
    return int(getattr(encoder.tokenizer, "vocab_size", default))


def _difference(student: TextEncoder, teacher: TextEncoder) -> str:
    """Return a sentence about the first text that is encoded in two ways, padding aside; empty if there is none."""
    for text in TEXTS:
        ours, theirs = student.encode(text), teacher.encode(text)
        lengths = len(ours["text"]), len(theirs["text"])
        # The last of these may be the end of a text that was truncated.
        shorter = min(lengths) - (lengths[0] != lengths[1])
        counted, others = (entries["attention_mask"][:shorter] for entries in (ours, theirs))
        tokens, theirs_tokens = (
            entries["text"][:shorter][mask.bool()].tolist() for entries, mask in ((ours, counted), (theirs, others))
        )
        if tokens != theirs_tokens or not torch.equal(counted, others):
            return f"the text {text!r} is {theirs_tokens} for the teacher and {tokens} for the student"
    if lengths[0] != lengths[1]:
        return f"a text has {lengths[1]} tokens for the teacher and {lengths[0]} for the student, padding included"
    return ""


def _picture(size: tuple[int, int]) -> Image.Image:
    """Return a picture of smooth colours with some noise, always the same."""
    width, height = size
    y, x = np.mgrid[:height, :width] / max(size)
    noise = np.random.default_rng(0).random((height, width, 3))
    channels = np.stack([x, y, 1 - x], -1) * 0.8 + noise * 0.2
    return Image.fromarray((channels * 255).astype(np.uint8))


def _pixels(image: Tensor) -> str:
    """Return the shape and range of a picture, for a message."""
    return f"{list(image.shape)} with values from {float(image.min()):.2f} to {float(image.max()):.2f}"
