"""Small tokenizers and image processors of transformers, saved as they come with a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ("<unk>", "<s>", "</s>", "<pad>", "a", "cat", "dog", "bird", "on", "the", "mat")


def save_tokenizer(where: Path, words: Sequence[str] = WORDS, *, ends: bool = True, **options: Any) -> None:
    """Save a tokenizer of whole words.

    Args:
        where: The model's directory.
        words: Its vocabulary, in order.
        ends: Whether it puts <s> before a text and </s> after it.
        options: Special tokens, and others of ``PreTrainedTokenizerFast``.
    """
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", **options}
    if ends:
        ids = [(token, words.index(token)) for token in ("<s>", "</s>")]
        inner.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    kind: Any = transformers.PreTrainedTokenizerFast
    kind(tokenizer_object=inner, **special).save_pretrained(where)
