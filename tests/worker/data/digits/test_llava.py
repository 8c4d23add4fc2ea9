"""The digits for a LLaVA: the same items as a CoCa's, in one text with the picture."""

import numpy as np
import pytest
import torch

from worker.data.digits.dataset import DigitsData, build_digits
from worker.data.digits.llava import IGNORED, PICTURE_ID, PICTURE_TOKENS, examples
from worker.data.digits.text import KINDS

MIX = {"mix": dict.fromkeys(KINDS, 1.0)}


@pytest.fixture(scope="module")
def data() -> DigitsData:
    return build_digits({"batches": "llava", **MIX})


def test_a_batch_has_the_coca_items_with_the_picture_in_the_text(data: DigitsData) -> None:
    batch = data.collate(data.held_out.__getitems__(range(64)))
    coca = build_digits(MIX).held_out.batch(np.arange(64))
    assert {name: (*tensor.shape,) for name, tensor in batch.items()} == {
        "pixel_values": (64, 3, 16, 16),
        "input_ids": (64, 19),
        "attention_mask": (64, 19),
        "labels": (64, 19),
        "kind": (64,),
    }
    assert torch.equal(batch["pixel_values"], coca["image"])
    pictures = batch["input_ids"] == PICTURE_ID
    assert torch.equal(pictures.nonzero()[:, 1].view(64, -1), torch.arange(1, 1 + PICTURE_TOKENS).expand(64, -1))
    assert torch.equal(batch["input_ids"][~pictures].view(64, -1), coca["text"])
    assert torch.equal(batch["attention_mask"][~pictures].view(64, -1).bool(), coca["text"] != 0)
    assert torch.equal(batch["labels"][~pictures].view(64, -1) != IGNORED, coca["answer"])
    assert set(batch["labels"][pictures].tolist()) == {IGNORED}
    assert (data.vocab_size, data.context_length) == (31, 19)


def test_answers_are_judged_with_and_without_the_last_tokens_logits(data: DigitsData) -> None:
    batch = data.held_out.batch(np.arange(200))
    logits = torch.nn.functional.one_hot(batch["input_ids"].roll(-1, 1), data.vocab_size).float()
    wrong = logits.clone()
    wrong[:50, (batch["labels"][0] != IGNORED).nonzero()[0, 0] - 1] = 0
    for shown in (logits, logits[:, :-1]):
        assert all(right == count for right, count in data.metrics(shown, batch).values())
    assert data.metrics(wrong, batch) == data.metrics(wrong[:, :-1], batch) != data.metrics(logits, batch)


def test_examples_are_what_people_read(data: DigitsData) -> None:
    batch = data.held_out.batch(np.arange(100))
    texts = {(kind, example.prompt, example.answer) for kind, example in
             zip(batch["kind"].tolist(), examples(batch), strict=True)}  # fmt: skip
    captions = [(prompt, answer) for kind, prompt, answer in texts if KINDS[kind] == "caption"]
    assert all(prompt == "<image> :" and answer.startswith("top left ") for prompt, answer in captions)
    positions = [(prompt, answer) for kind, prompt, answer in texts if KINDS[kind] == "position"]
    assert all(prompt.startswith("<image> what is ") and len(answer.split()) == 1 for prompt, answer in positions)
    assert captions
    assert positions
