"""Prompts with answers as rows of tokens, by a model family's own tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.data.base import Inputs


@dataclass(frozen=True)
class Speech:
    """Can be pickled.

    Attributes:
        words: N texts -> [N, length].
        spoken: Tokens -> text.
        length: Tokens of a row.
        pad: The token that fills it up.
        start: The token before a text.
        end: The token behind it.
    """

    words: Callable[[list[str]], Tensor]
    spoken: Callable[[Sequence[int]], str]
    length: int
    pad: int
    start: int
    end: int

    @classmethod
    def of(cls, inputs: Inputs) -> Speech:
        """That of a model. Raises ValueError if its tokenizer does not put a token before and one behind a text."""
        words, pad = inputs.words(), inputs.pad_id
        empty = _unpadded(words([""])[0], pad)
        if len(empty) != 2:
            raise ValueError(
                "questions with answers need a tokenizer that puts a token before and one behind a text; the model's "
                f"makes {len(empty)} of an empty one"
            )
        return cls(words, inputs.spoken(), inputs.context_length, pad, empty[0], empty[1])

    def tokens(self, text: str) -> list[int]:
        """A text's tokens, without those before and behind it; at most as many as a row holds."""
        return _unpadded(self.words([text])[0], self.pad)[1:-1]

    def row(self, prompt: str, answer: str) -> tuple[Tensor, Tensor]:
        """``text`` [length] int64 and ``answer`` [length] bool, which is true of the answer and the end token.

        What is too long loses the end of its prompt, and only then that of its answer.
        """
        said = self.tokens(answer)[: self.length - 2]
        asked = self.tokens(prompt)[: self.length - 2 - len(said)]
        row = [self.start, *asked, *said, self.end]
        text = torch.full((self.length,), self.pad, dtype=torch.int64)
        text[: len(row)] = torch.tensor(row)
        marked = torch.zeros(self.length, dtype=torch.bool)
        marked[1 + len(asked) : len(row)] = True
        return text, marked


def _unpadded(row: Tensor, pad: int) -> list[int]:
    kept: list[int] = row.tolist()
    while kept and kept[-1] == pad:
        kept.pop()
    return kept
