"""The preprocessing of open_clip's models: its image transforms and its tokenizers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from torch import Tensor

from worker.models.detokenizer import HfDetokenizer


@dataclass(frozen=True)
class ClipDetokenizer:
    """Decodes CLIP's tokens, which have no spaces, and rejoins digits and the endings after an apostrophe."""

    tokenizer: SimpleTokenizer

    def __call__(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        known, special = self.tokenizer.decoder, self.tokenizer.all_special_ids
        text = self.tokenizer.decode([token for token in tokens if token in known and token not in special])
        joined = re.sub(r"(?<=\d) (?=\d)", "", text)
        return re.sub(r" (?='(?:s|t|re|ve|m|ll|d)\b)", "", joined).strip()


@cache
def _simple(context_length: int) -> SimpleTokenizer:
    # Reading its dictionary takes a third of a second.
    return SimpleTokenizer(context_length=context_length)


@dataclass(frozen=True)
class OpenClipInputs:
    """The `Inputs` of one model.

    Attributes:
        config: Its ``model_cfg``.
        preprocess: Its differences from open_clip's default ``preprocess_cfg``, such as mean and std.
    """

    config: Mapping[str, Any]
    preprocess: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pad_id(self) -> int:
        """The token that pads a text."""
        return int(self._text.get("pad_id", 0))

    @property
    def vocab_size(self) -> int:
        """The number of tokens in the vocabulary."""
        return int(self._text.get("vocab_size", 49408))

    @property
    def context_length(self) -> int:
        """The length of a text in tokens."""
        return int(self._text.get("context_length", 77))

    def image_transform(self, *, augmented: bool) -> Callable[[Any], Tensor]:
        """Return a function PIL image -> [C, H, W]."""
        size = self.config["vision_cfg"].get("image_size", 224)
        settings = merge_preprocess_dict(PreprocessCfg(), {"size": size, **self.preprocess})
        transform: Callable[[Any], Tensor] = image_transform_v2(PreprocessCfg(**settings), is_train=augmented)
        return transform

    def tokenizer(self) -> Callable[[list[str]], Tensor]:
        """Return a function N texts -> [N, context_length]."""
        return self._tokenizer()  # type: ignore[no-any-return]

    def detokenizer(self) -> Callable[[Sequence[int]], str]:
        """Return a function tokens -> text."""
        tokenizer = self._tokenizer()
        return (
            ClipDetokenizer(tokenizer) if isinstance(tokenizer, SimpleTokenizer) else HfDetokenizer(tokenizer.tokenizer)
        )

    def _tokenizer(self) -> Any:
        name, options = self._text.get("hf_tokenizer_name"), dict(self._text.get("tokenizer_kwargs") or {})
        if name:
            mode = self._text.get("tokenizer_mode")
            return HFTokenizer(name, context_length=self.context_length, tokenizer_mode=mode, **options)
        length = self.context_length
        tokenizer = SimpleTokenizer(context_length=length, **options) if options else _simple(length)
        if tokenizer.vocab_size > self.vocab_size:
            raise ValueError(
                f"open_clip's tokenizer has {tokenizer.vocab_size} tokens, but the model only {self.vocab_size}; name "
                "the tokenizer that it was trained with as options.tokenizer, package.module:function"
            )
        return tokenizer

    @property
    def _text(self) -> Mapping[str, Any]:
        text: Mapping[str, Any] = self.config["text_cfg"]
        return text
