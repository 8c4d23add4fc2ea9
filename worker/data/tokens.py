"""Prompts and answers as rows of tokens, made by the tokenizer of a model family."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.data.base import Batch, Inputs


def not_padding(text: Tensor, pad: int, *, starts: Collection[int] = (), ends: Collection[int | None] = ()) -> Tensor:
    """Return which tokens of padded texts are not padding.

    Padding is the run of pad tokens at the end of a row, or at its beginning; a pad token between others is none. If
    the pad token also ends texts, the first of the run at the end is the text's end token, and counts; if it also
    starts them, so does the last of the run at the beginning.

    Args:
        text: Tokens [..., L].
        pad: The pad token.
        starts: The tokens that may start a text.
        ends: The tokens that may end one.

    Returns:
        [..., L] bool.
    """
    columns = torch.arange(text.shape[-1], device=text.device)
    other = text != pad
    last = torch.where(other, columns, -1).amax(-1, keepdim=True)
    first = torch.where(other, columns, text.shape[-1]).amin(-1, keepdim=True)
    # A row of nothing else is an empty text, padded at its end.
    first = torch.where(last < 0, 0, first)
    return (columns <= last + int(pad in ends)) & (columns >= first - int(pad in starts))


def written(text: Tensor, pad: int, end: int | None) -> Tensor:
    """Return which tokens of a tokenizer's rows [..., L] are not padding; `Inputs.tokenizer` pads only at the end."""
    return not_padding(text, pad, starts=(pad,), ends=(end,))


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
        tokenizer, pad, end = inputs.tokenizer(), inputs.pad_id, inputs.end_id
        empty = _unpadded(tokenizer([""])[0], pad, end)
        if len(empty) != 2:
            raise ValueError(
                "questions with answers need a tokenizer that puts one token before and one after a text; the model's "
                f"tokenizer encodes the empty text as {len(empty)} tokens"
            )
        return cls(tokenizer, inputs.detokenizer(), inputs.context_length, pad, empty[0], empty[1])

    def encode(self, text: str) -> list[int]:
        """Return a text's tokens without start and end; at most as many as a row holds."""
        return _unpadded(self.tokenizer([text])[0], self.pad, self.end)[1:-1]

    def row(self, prompt: str, answer: str) -> Batch:
        """Encode a prompt followed by its answer.

        If both are too long, first the end of the prompt is cut off, then the end of the answer.

        Returns:
            ``text`` [length] int64; ``attention_mask`` [length] int64, 1 at its tokens; and ``answer`` [length] bool,
            true at the answer's tokens and the end token.
        """
        answer_tokens = self.encode(answer)[: self.length - 2]
        prompt_tokens = self.encode(prompt)[: self.length - 2 - len(answer_tokens)]
        row = [self.start, *prompt_tokens, *answer_tokens, self.end]
        text = torch.full((self.length,), self.pad, dtype=torch.int64)
        text[: len(row)] = torch.tensor(row)
        in_answer = torch.zeros(self.length, dtype=torch.bool)
        in_answer[1 + len(prompt_tokens) : len(row)] = True
        mask = torch.zeros_like(text)
        mask[: len(row)] = 1
        return {"text": text, "attention_mask": mask, "answer": in_answer}


def _unpadded(row: Tensor, pad: int, end: int | None) -> list[int]:
    tokens: list[int] = row[written(row, pad, end)].tolist()
    return tokens
