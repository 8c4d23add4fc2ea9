"""Prompts and answers as rows of tokens, made by the tokenizer of a model family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.data.base import Inputs


@dataclass(frozen=True)
class TextCodec:
    """Encodes texts as tokens and decodes tokens to texts. Can be pickled.

    Attributes:
        tokenizer: N texts -> [N, length].
        decode: Tokens -> text, without special tokens.
        length: Number of tokens in a row.
        pad: The token that fills up a row.
        start: The token before a text.
        end: The token after a text.
    """

    tokenizer: Callable[[list[str]], Tensor]
    decode: Callable[[Sequence[int]], str]
    length: int
    pad: int
    start: int
    end: int

    @classmethod
    def from_inputs(cls, inputs: Inputs) -> TextCodec:
        """Return the codec of a model.

        Raises:
            ValueError: Its tokenizer does not put one token before and one after a text.
        """
        tokenizer, pad = inputs.tokenizer(), inputs.pad_id
        empty = _unpadded(tokenizer([""])[0], pad)
        if len(empty) != 2:
            raise ValueError(
                "questions with answers need a tokenizer that puts one token before and one after a text; the model's "
                f"tokenizer encodes the empty text as {len(empty)} tokens"
            )
        return cls(tokenizer, inputs.detokenizer(), inputs.context_length, pad, empty[0], empty[1])

    def encode(self, text: str) -> list[int]:
        """Return a text's tokens without start and end; at most as many as a row holds."""
        return _unpadded(self.tokenizer([text])[0], self.pad)[1:-1]

    def row(self, prompt: str, answer: str) -> tuple[Tensor, Tensor]:
        """Encode a prompt followed by its answer.

        If both are too long, first the end of the prompt is cut off, then the end of the answer.

        Returns:
            ``text`` [length] int64, and ``answer`` [length] bool, true at the answer's tokens and the end token.
        """
        answer_tokens = self.encode(answer)[: self.length - 2]
        prompt_tokens = self.encode(prompt)[: self.length - 2 - len(answer_tokens)]
        row = [self.start, *prompt_tokens, *answer_tokens, self.end]
        text = torch.full((self.length,), self.pad, dtype=torch.int64)
        text[: len(row)] = torch.tensor(row)
        in_answer = torch.zeros(self.length, dtype=torch.bool)
        in_answer[1 + len(prompt_tokens) : len(row)] = True
        return text, in_answer


def _unpadded(row: Tensor, pad: int) -> list[int]:
    tokens: list[int] = row.tolist()
    while tokens and tokens[-1] == pad:
        tokens.pop()
    return tokens
