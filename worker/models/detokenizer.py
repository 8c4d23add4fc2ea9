"""Texts of a transformers tokenizer's tokens; imports nothing of transformers, which open_clip does without."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class HfDetokenizer:
    """Makes a text of tokens, special ones left out; can be pickled."""

    tokenizer: Any

    def __call__(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()
