"""The preprocessing of transformers' models: the image processor and tokenizer that come with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import transformers
from torch import Tensor

from worker.models.detokenizer import HfDetokenizer

LONGEST = 128
"""Maximum number of tokens of a text: a caption has fewer, and padding costs as much as tokens do."""


@dataclass(frozen=True)
class HfImageTransform:
    """Transforms a picture by an image processor. Can be pickled."""

    processor: Any

    def __call__(self, picture: Any) -> Tensor:
        """Return [C, H, W] of a PIL image."""
        pixels: Tensor = self.processor(picture, return_tensors="pt")["pixel_values"][0]
        return pixels


@dataclass(frozen=True)
class HfTokenizer:
    """Encodes texts, truncated or padded at the end to one length. Can be pickled."""

    tokenizer: Any
    length: int

    def __call__(self, texts: list[str]) -> Tensor:
        """Return [N, length] of N texts."""
        token_ids: Tensor = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )["input_ids"]
        return token_ids


@dataclass(frozen=True)
class HfInputs:
    """The `Inputs` of one model.

    Attributes:
        place: The model's directory or its id on the hub.
        config: Its configuration.
        within: Its place in a repository on the hub: ``revision`` and ``subfolder``, if any.
    """

    place: str
    config: Any
    within: Mapping[str, str] = field(default_factory=dict)

    @property
    def pad_id(self) -> int:
        """The token that pads a text."""
        return int(self._text.pad_token_id or 0)

    @property
    def vocab_size(self) -> int:
        """The number of tokens in the vocabulary."""
        return int(self._text.vocab_size)

    @property
    def context_length(self) -> int:
        """The length of a text in tokens."""
        return min(LONGEST, int(getattr(self._text, "max_position_embeddings", LONGEST)))

    def image_transform(self, *, augmented: bool) -> Callable[[Any], Tensor]:
        """Return a function PIL image -> [C, H, W]."""
        if augmented:
            raise ValueError("transformers' image processors have no random crops; remove the option augment")
        return HfImageTransform(self._load(transformers.AutoImageProcessor, "image processor"))

    def tokenizer(self) -> Callable[[list[str]], Tensor]:
        """Return a function N texts -> [N, context_length]."""
        tokenizer = self._load(transformers.AutoTokenizer, "tokenizer")
        if len(tokenizer) > self.vocab_size:
            raise ValueError(
                f"the tokenizer of {self.place} has {len(tokenizer)} tokens, but the model only {self.vocab_size}; "
                "name the tokenizer that it was trained with as options.tokenizer, package.module:function"
            )
        return HfTokenizer(tokenizer, self.context_length)

    def detokenizer(self) -> Callable[[Sequence[int]], str]:
        """Return a function tokens -> text."""
        return HfDetokenizer(self._load(transformers.AutoTokenizer, "tokenizer"))

    @property
    def _text(self) -> Any:
        return getattr(self.config, "text_config", None) or self.config

    def _load(self, kind: Any, what: str) -> Any:
        try:
            return kind.from_pretrained(self.place, **self.within)
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"hf:{self.place} has no {what} that can be loaded: {reason}") from error
