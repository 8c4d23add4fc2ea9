"""Where a text ends: the end token is predicted even if it also pads, and padding never is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from worker.models.hf.adapters import find_adapter
from worker.models.hf.text import IGNORED, TextAdapter, token_loss

SMALL: dict[str, Any] = {"vocab_size": 16, "n_embd": 8, "n_layer": 3, "n_head": 2, "n_positions": 8}


def adapter(**tokens: Any) -> tuple[Any, TextAdapter]:
    torch.manual_seed(0)
    model: Any = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SMALL, **tokens))
    found = find_adapter(model.eval())
    assert isinstance(found, TextAdapter)
    return model, found


def targets(found: TextAdapter, text: list[int], **entries: Tensor) -> list[int]:
    row: list[int] = found.targets({"text": torch.tensor([text]), **entries})[0].tolist()
    return row


@pytest.mark.parametrize(
    ("tokens", "text", "expected"),
    [
        # Another token pads.
        ({"pad_token_id": 0, "eos_token_id": 2}, [1, 5, 6, 2, 0, 0], [5, 6, 2, -100, -100]),
        # The end of texts pads: the first is the end.
        ({"pad_token_id": 2, "eos_token_id": 2}, [1, 5, 6, 2, 2, 2], [5, 6, 2, -100, -100]),
        ({"pad_token_id": 2, "eos_token_id": [7, 2]}, [1, 5, 6, 2, 2, 2], [5, 6, 2, -100, -100]),
        # No token is said to pad, so the end of texts does.
        ({"pad_token_id": None, "eos_token_id": 2}, [1, 5, 6, 2, 2, 2], [5, 6, 2, -100, -100]),
        ({"pad_token_id": None, "eos_token_id": [7, 2]}, [1, 5, 6, 7, 7, 7], [5, 6, 7, -100, -100]),
        # GPT-2: one token starts, ends and pads.
        ({"pad_token_id": None, "bos_token_id": 2, "eos_token_id": 2}, [2, 5, 6, 2, 2, 2], [5, 6, 2, -100, -100]),
        # A pad token within a text is none.
        ({"pad_token_id": 0, "eos_token_id": 2}, [1, 5, 0, 6, 2, 0], [5, 0, 6, 2, -100]),
        ({"pad_token_id": 2, "eos_token_id": 2}, [1, 5, 2, 6, 2, 2], [5, 2, 6, 2, -100]),
        # Padded at the beginning, or not at all.
        ({"pad_token_id": 2, "eos_token_id": 2}, [2, 2, 1, 5, 6, 2], [-100, 1, 5, 6, 2]),
        ({"pad_token_id": 2, "eos_token_id": 2}, [1, 5, 6, 7, 5, 6], [5, 6, 7, 5, 6]),
        ({"pad_token_id": -1, "eos_token_id": None}, [1, 5, 6, 2, 2, 2], [5, 6, 2, 2, 2]),
    ],
)
def test_the_end_is_predicted_and_padding_is_not(tokens: dict[str, Any], text: list[int], expected: list[int]) -> None:
    _, found = adapter(**tokens)
    assert targets(found, text) == expected


def test_a_batchs_own_mask_and_labels_count_instead() -> None:
    _, found = adapter(pad_token_id=2, eos_token_id=2)
    text = [1, 5, 6, 2, 2, 2]
    assert targets(found, text, attention_mask=torch.tensor([[1, 1, 1, 0, 0, 0]])) == [5, 6, *[IGNORED] * 3]
    assert targets(found, text, labels=torch.tensor([[1, -100, 6, 2, 2, -100]])) == [-100, 6, 2, 2, -100]


def test_the_loss_is_the_models_own_on_labels_with_the_end() -> None:
    model, found = adapter(pad_token_id=None, bos_token_id=2, eos_token_id=2)
    text = torch.tensor([[2, 5, 6, 2, 2, 2], [2, 7, 2, 2, 2, 2]])
    labels = torch.tensor([[2, 5, 6, 2, -100, -100], [2, 7, 2, -100, -100, -100]])
    with torch.no_grad():
        boundary = found.run_whole(model, {"text": text})
        own = model(input_ids=text, labels=labels).loss
    logits = found.logits_of(model, boundary)
    assert logits is not None
    assert token_loss(logits, found.targets({"text": text})).item() == pytest.approx(own.item(), rel=1e-6)
