"""The preprocessing of transformers' models: the image processor and tokenizer that come with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor, nn

from worker.models.detokenizer import HfDetokenizer
from worker.models.hf.text import SpecialTokens

LONGEST = 128
"""Maximum number of tokens of a text: a caption has fewer, and padding costs as much as tokens do."""

OWN_DATA = "write a data module of your own (docs/bring-your-own-model.md)"


@dataclass(frozen=True)
class HfImageTransform:
    """Transforms a picture by an image processor. Can be pickled."""

    processor: Any

    def __call__(self, picture: Any) -> Tensor:
        """Return [C, H, W] of a PIL image."""
        pixels: Tensor = self.processor(picture, return_tensors="pt")["pixel_values"]
        return pixels[0]


@dataclass(frozen=True)
class HfTokenizer:
    """Encodes texts, truncated or padded at the end to one length. Can be pickled.

    Attributes:
        tokenizer: The tokenizer of transformers.
        length: The number of tokens in a row.
        pad: The token that fills up a row.
        start: Replaces the first token of a text; None to keep it.
        end: Appended to each text, which keeps it when it is truncated; None if ``tokenizer`` does so itself.
    """

    tokenizer: Any
    length: int
    pad: int
    start: int | None = None
    end: int | None = None

    @property
    def vocab_size(self) -> int:
        """The number of tokens that it knows."""
        return len(self.tokenizer)

    def __call__(self, texts: list[str]) -> Tensor:
        """Return [N, length] of N texts."""
        ends = [] if self.end is None else [self.end]
        encoded = self.tokenizer(texts, truncation=True, max_length=self.length - len(ends))["input_ids"]
        rows = torch.full((len(texts), self.length), self.pad, dtype=torch.int64)
        for row, tokens in zip(rows, encoded, strict=True):
            row[: len(tokens) + len(ends)] = torch.tensor([*tokens, *ends])
            if self.start is not None:
                row[0] = self.start
        return rows


@dataclass(frozen=True)
class HfInputs:
    """The `Inputs` of one model.

    Attributes:
        place: The model's directory or its id on the hub.
        config: Its configuration.
        within: Its place in a repository on the hub: ``revision`` and ``subfolder``, if any.
        positions: Maximum number of tokens that it has positions for; by default as in the configuration.
    """

    place: str
    config: Any
    within: Mapping[str, str] = field(default_factory=dict)
    positions: int | None = None

    @property
    def pad_id(self) -> int:
        """The token that pads a text: the tokenizer's, or the configuration's, or else the one that ends a text."""
        sources = (self._known_tokenizer, self._text)
        named = [getattr(source, "pad_token_id", None) for source in sources]
        return next(int(token) for token in (*named, self.end_id, 0) if token is not None and token >= 0)

    @property
    def end_id(self) -> int | None:
        """The token that ends a text; None if the model has none."""
        return self._end[0]

    @property
    def vocab_size(self) -> int:
        """The number of tokens in the vocabulary; 0 if the model reads no text."""
        return int(getattr(self._text, "vocab_size", 0))

    @property
    def context_length(self) -> int:
        """The length of a text in tokens."""
        # Some configurations say -1 for any length, some tokenizers a huge number.
        limits = (LONGEST, self.positions, getattr(self._text, "max_position_embeddings", None),
                  getattr(self._known_tokenizer, "model_max_length", None))  # fmt: skip
        return min(int(limit) for limit in limits if limit is not None and limit > 0)

    def image_transform(self, *, augmented: bool) -> Callable[[Any], Tensor]:
        """Return a function PIL image -> [C, H, W]."""
        if augmented:
            raise ValueError("transformers' image processors have no random crops; remove the option augment")
        transform = HfImageTransform(self._load(transformers.AutoImageProcessor, "image processor"))
        try:
            shapes = {tuple(transform(Image.new("RGB", size)).shape) for size in ((64, 48), (300, 500))}
        except KeyError as error:
            raise ValueError(f"the image processor of hf:{self.place} makes no {error}; {OWN_DATA}") from error
        if len(shapes) > 1 or len(next(iter(shapes))) != 3:
            raise ValueError(
                f"the image processor of hf:{self.place} does not make the same [C, H, W] of every picture, but "
                f"{' or '.join(str(list(shape)) for shape in sorted(shapes))}; set one size for all pictures in its "
                f"preprocessor_config.json, or {OWN_DATA}"
            )
        return transform

    def tokenizer(self) -> Callable[[list[str]], Tensor]:
        """Return a function N texts -> [N, context_length]."""
        if not self.vocab_size:
            raise ValueError(f"hf:{self.place} reads no text; {OWN_DATA}")
        tokenizer = self._tokenizer
        if len(tokenizer) > self.vocab_size:
            raise ValueError(
                f"the tokenizer of {self.place} has {len(tokenizer)} tokens, but the model only {self.vocab_size}; "
                "name the tokenizer that it was trained with as options.tokenizer, package.module:function"
            )
        # BLIP's generate() puts it in the place of [CLS], as its training did.
        start = self._text.bos_token_id if self.config.model_type == "blip" else None
        end, appended = self._end
        return HfTokenizer(tokenizer, self.context_length, self.pad_id, start, end if appended else None)

    def detokenizer(self) -> Callable[[Sequence[int]], str]:
        """Return a function tokens -> text."""
        return HfDetokenizer(self._tokenizer)

    @property
    def _text(self) -> Any:
        return self.config.get_text_config(decoder=True)

    @cached_property
    def _tokenizer(self) -> Any:
        tokenizer = self._load(transformers.AutoTokenizer, "tokenizer")
        tokenizer.truncation_side = "right"
        return tokenizer

    @property
    def _known_tokenizer(self) -> Any:
        """The tokenizer; None if none can be loaded: then the data have another."""
        with suppress(ValueError):
            return self._tokenizer
        return None

    @cached_property
    def _end(self) -> tuple[int | None, bool]:
        """The token that ends a text, and whether it must be appended, since the tokenizer does not do so."""
        tokenizer = self._known_tokenizer
        if tokenizer is None:
            return next(iter(SpecialTokens.from_config(self._text).ends), None), False
        last = tokenizer("a")["input_ids"][-1:]
        known = [token for token in (tokenizer.eos_token_id, tokenizer.sep_token_id) if token is not None]
        if last and last[0] in known:
            return last[0], False
        return tokenizer.eos_token_id, tokenizer.eos_token_id is not None

    def _load(self, kind: Any, what: str) -> Any:
        try:
            return kind.from_pretrained(self.place, **self.within)
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"hf:{self.place} has no {what} that can be loaded: {reason}") from error


def usable_positions(model: nn.Module) -> int | None:
    """Return how many tokens a model has positions for, if its configuration names more; None if it does not.

    RoBERTa and its relatives number positions from behind the padding's, so a table of 514 rows serves 512 tokens.
    """
    tables = [
        module.num_embeddings - module.padding_idx - 1
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and "position" in name and module.padding_idx is not None
    ]
    return min(tables, default=None)
