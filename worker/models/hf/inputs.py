"""How transformers' models take pictures and texts: by the processor and tokenizer that came with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import transformers
from torch import Tensor

from worker.models.detokenizer import HfDetokenizer

LONGEST = 128
"""Tokens of a text at most: a caption has fewer, and padding costs as much as words do."""


@dataclass(frozen=True)
class HfImageTransform:
    """Pictures by an image processor; can be pickled."""

    processor: Any

    def __call__(self, picture: Any) -> Tensor:
        found: Tensor = self.processor(picture, return_tensors="pt")["pixel_values"][0]
        return found


@dataclass(frozen=True)
class HfTokenizer:
    """Texts by a tokenizer, cut or padded at the end to one length; can be pickled."""

    tokenizer: Any
    length: int

    def __call__(self, texts: list[str]) -> Tensor:
        found: Tensor = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )["input_ids"]
        return found


@dataclass(frozen=True)
class HfInputs:
    """The `Inputs` of one model.

    Attributes:
        place: Its directory or its id on the hub.
        config: Its configuration.
        within: Where it is in a repository on the hub: ``revision`` and ``subfolder``, if given.
    """

    place: str
    config: Any
    within: Mapping[str, str] = field(default_factory=dict)

    @property
    def pad_id(self) -> int:
        return int(self._text.pad_token_id or 0)

    @property
    def vocab_size(self) -> int:
        return int(self._text.vocab_size)

    @property
    def context_length(self) -> int:
        return min(LONGEST, int(getattr(self._text, "max_position_embeddings", LONGEST)))

    def image_transform(self, *, augmented: bool) -> Callable[[Any], Tensor]:
        if augmented:
            raise ValueError("transformers' image processors have no random crops: leave out augment")
        return HfImageTransform(self._load(transformers.AutoImageProcessor, "image processor"))

    def tokenizer(self) -> Callable[[list[str]], Tensor]:
        tokenizer = self._load(transformers.AutoTokenizer, "tokenizer")
        if len(tokenizer) > self.vocab_size:
            raise ValueError(
                f"the tokenizer of {self.place} has {len(tokenizer)} tokens, and the model only {self.vocab_size}: "
                "name the one that it was trained with as options.tokenizer, package.module:function"
            )
        return HfTokenizer(tokenizer, self.context_length)

    def detokenizer(self) -> Callable[[Sequence[int]], str]:
        return HfDetokenizer(self._load(transformers.AutoTokenizer, "tokenizer"))

    @property
    def _text(self) -> Any:
        return getattr(self.config, "text_config", None) or self.config

    def _load(self, kind: Any, what: str) -> Any:
        try:
            return kind.from_pretrained(self.place, **self.within)
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"hf:{self.place} comes with no {what} that can be loaded: {reason}") from error
