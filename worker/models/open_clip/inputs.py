"""The preprocessing of open_clip's models: its image transforms and its tokenizers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
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
        of_transformers = self._known_tokenizer
        if "pad_id" in self._text or of_transformers is None:
            return int(self._text.get("pad_id", 0))
        return int(of_transformers.pad_token_id or 0)

    @property
    def end_id(self) -> int | None:
        """The token that ends a text; None if there is none."""
        of_transformers = self._known_tokenizer
        if of_transformers is None:
            return int(_simple(self.context_length).eot_token_id)
        return next(
            (end for end in (of_transformers.eos_token_id, of_transformers.sep_token_id) if end is not None), None
        )

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
        if self._text.get("hf_tokenizer_name"):
            tokenizer = self._of_transformers
            tokenizer.vocab_size = len(tokenizer.tokenizer)
        else:
            options, length = dict(self._text.get("tokenizer_kwargs") or {}), self.context_length
            tokenizer = SimpleTokenizer(context_length=length, **options) if options else _simple(length)
        if tokenizer.vocab_size > self.vocab_size:
            raise ValueError(
                f"open_clip's tokenizer has {tokenizer.vocab_size} tokens, but the model only {self.vocab_size}; name "
                "the tokenizer that it was trained with as options.tokenizer, package.module:function"
            )
        return tokenizer

    @cached_property
    def _of_transformers(self) -> Any:
        name, options = self._text["hf_tokenizer_name"], dict(self._text.get("tokenizer_kwargs") or {})
        mode = self._text.get("tokenizer_mode")
        try:
            return HFTokenizer(name, context_length=self.context_length, tokenizer_mode=mode, **options)
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"text_cfg.hf_tokenizer_name {name} cannot be loaded: {reason}") from error

    @property
    def _known_tokenizer(self) -> Any:
        """The tokenizer of transformers that the configuration names; None if it names none that can be loaded."""
        if self._text.get("hf_tokenizer_name"):
            with suppress(ValueError):
                return self._of_transformers.tokenizer
        return None

    @property
    def _text(self) -> Mapping[str, Any]:
        text: Mapping[str, Any] = self.config["text_cfg"]
        return text
