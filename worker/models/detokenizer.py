"""Detokenizer for the tokenizers of transformers; it does not import transformers, which open_clip does not need."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class HfDetokenizer:
    """Decodes tokens to a text without special tokens. Can be pickled."""

    tokenizer: Any

    def __call__(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()
