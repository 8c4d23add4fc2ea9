"""Padding is told from text, also where one token does both."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worker.data.tokens import TextCodec, not_padding

ROWS = torch.tensor([[9, 9, 5, 9, 6, 9, 9], [9, 5, 6, 7, 9, 9, 9], [5, 6, 7, 8, 5, 6, 7], [9] * 7])


@pytest.mark.parametrize(
    ("starts", "ends", "expected"),
    [
        ((), (), ["..+++..", ".+++...", "+++++++", "......."]),
        ((), (9, 2), ["..++++.", ".++++..", "+++++++", "+......"]),
        ((9,), (), [".++++..", "++++...", "+++++++", "......."]),
        ((9,), (9,), [".+++++.", "+++++..", "+++++++", "+......"]),
    ],
)
def test_only_the_runs_at_the_ends_of_a_row_are_padding(
    starts: tuple[int, ...], ends: tuple[int, ...], expected: list[str]
) -> None:
    mask = not_padding(ROWS, 9, starts=starts, ends=ends)
    assert ["".join("+" if counts else "." for counts in row) for row in mask.tolist()] == expected


class Letters:
    """Inputs of a model whose tokens are the letters' codes, between a start and an end token."""

    end_id, vocab_size, context_length = 2, 128, 8

    def __init__(self, pad: int) -> None:
        self.pad_id = pad

    def tokenizer(self) -> object:
        def encode(texts: list[str]) -> Tensor:
            rows = torch.full((len(texts), 8), self.pad_id)
            for row, text in zip(rows, texts, strict=True):
                tokens = [1, *map(ord, text[:6]), 2]
                row[: len(tokens)] = torch.tensor(tokens)
            return rows

        return encode

    def detokenizer(self) -> object:
        return lambda tokens: "".join(map(chr, tokens))


@pytest.mark.parametrize("pad", [0, 2])
def test_answers_end_whether_or_not_the_end_also_pads(pad: int) -> None:
    codec = TextCodec.from_inputs(Letters(pad))  # type: ignore[arg-type]
    assert (codec.start, codec.end, codec.encode("ab")) == (1, 2, [97, 98])
    row = codec.row("a", "b")
    assert row["text"].tolist() == [1, 97, 98, 2, *[pad] * 4]
    assert row["answer"].tolist() == [False, False, True, True, *[False] * 4]
    assert row["attention_mask"].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
