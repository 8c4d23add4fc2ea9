"""Collages of four real handwritten digits with captions, questions and statements, as CoCa reads them.

Nothing is downloaded: the scans come with scikit-learn. 1,400 of them serve for training and the other 397
only for measuring.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from torch import Tensor

from worker.data.base import Batch
from worker.data.digits.rows import TRAIN_DIGITS, Collages, sources
from worker.data.digits.text import ASKING, CONTEXT_LENGTH, KINDS, QUESTIONS, VOCABULARY
from worker.data.options import checked

HELD_OUT_SEED = 7
"""The held-out items are the same for every seed, so that figures can be compared."""


class DigitsOptions(BaseModel):
    """Options of the digits data."""

    model_config = ConfigDict(extra="forbid")

    seed: int = Field(default=0, ge=0)
    """Seed of the training items."""
    source_digits: int = Field(default=TRAIN_DIGITS, ge=10, le=TRAIN_DIGITS)
    """How many of the training scans are used; 150 makes transfer data scarce."""
    mix: dict[str, FiniteFloat] = Field(default={"caption": 0.3, **dict.fromkeys(QUESTIONS, 0.14)})
    """Share of each kind of text in training and in ``held_out``; a kind that is not named has none."""
    asked: dict[str, FiniteFloat] = Field(default=dict.fromkeys(QUESTIONS, 1.0))
    """The same in ``questions``."""
    shift: int = Field(default=1, ge=0, le=2)
    """Training digits are moved by up to this many pixels each way."""
    length: int = Field(default=2**40, ge=1)
    """Nominal number of training items."""
    held_out_items: int = Field(default=2048, ge=1)
    """Number of items in ``held_out``."""
    question_items: int = Field(default=4000, ge=1)
    """Number of items in ``questions``."""


class DigitsData:
    """The data module; see ``worker.data.base.DataModule`` for what its fields mean."""

    pad_id = 0
    vocab_size = len(VOCABULARY)
    context_length = CONTEXT_LENGTH
    kinds = KINDS

    def __init__(self, options: DigitsOptions) -> None:
        shares, asked = ([mix.get(kind, 0.0) for kind in KINDS] for mix in (options.mix, options.asked))
        scans = sources(train=True)[: options.source_digits]
        unseen = sources(train=False)
        self.train = Collages(scans, options.seed, options.length, shares, options.shift)
        self.held_out = Collages(unseen, HELD_OUT_SEED, options.held_out_items, shares, shift=0)
        self.questions = Collages(unseen, HELD_OUT_SEED + 1, options.question_items, asked, shift=0)

    def collate(self, items: Sequence[Batch]) -> Batch:
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}

    def metrics(self, logits: Tensor, batch: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
        """Exact matches: all answer tokens right under teacher forcing.

        That equals greedy decoding being exactly right, since up to its first mistake a greedy decoder reads
        the right tokens. ``accuracy`` is over the questions and statements, without the captions.
        """
        asked = batch["answer"][:, 1:]
        right = ((logits.argmax(dim=-1) == batch["text"][:, 1:]) | ~asked).all(dim=1)
        kind = batch["kind"]
        found = {}
        for number, name in enumerate(KINDS):
            rows = kind == number
            found[f"accuracy/{name}"] = (float(right[rows].sum()), float(rows.sum()))
        sums, counts = zip(*(found[f"accuracy/{name}"] for name in ASKING), strict=True)
        return {"accuracy": (sum(sums), sum(counts)), **found}


def build_digits(options: Mapping[str, Any]) -> DigitsData:
    """The digits data with the given options. Raises ValueError naming every wrong option."""
    found = checked(DigitsOptions, options, "digits")
    for name, mix in (("mix", found.mix), ("asked", found.asked)):
        if set(mix) - set(KINDS) or min(mix.values(), default=0) < 0 or sum(mix.values()) <= 0:
            raise ValueError(
                f"wrong {name} for the digits data: expected shares >= 0, not all 0, of {', '.join(KINDS)}; "
                f"got {dict(mix)}"
            )
    return DigitsData(found)
