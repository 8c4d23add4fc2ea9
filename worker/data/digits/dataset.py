"""Collages of four real handwritten digits with captions, questions and statements, for CoCa and LLaVA.

Nothing is downloaded: the scans come with scikit-learn. 1,400 of them are for training, the other 397 only for
measuring.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from torch import Tensor

from worker.data.digits.llava import IGNORED, LLAVA_CONTEXT_LENGTH, LLAVA_VOCABULARY, LlavaRows
from worker.data.digits.rows import TRAIN_DIGITS, Collages, sources
from worker.data.digits.text import ASKING, CONTEXT_LENGTH, KINDS, QUESTIONS, VOCABULARY
from worker.data.options import parse_options
from worker.data.pairs import stack

HELD_OUT_SEED = 7
"""The held-out items are the same for every seed, so that metrics can be compared."""


class DigitsOptions(BaseModel):
    """Options of the digits data."""

    model_config = ConfigDict(extra="forbid")

    batches: Literal["coca", "llava"] = "coca"
    """The form of a batch: ``image`` and ``text`` as in ``worker.data.base.DataModule``, or what a LLaVA of
    transformers reads (worker/data/digits/llava.py)."""
    seed: int = Field(default=0, ge=0)
    """Seed of the training items."""
    source_digits: int = Field(default=TRAIN_DIGITS, ge=10, le=TRAIN_DIGITS)
    """Number of training scans that are used; with 150, transfer data is scarce."""
    mix: dict[str, FiniteFloat] = Field(default={"caption": 0.3, **dict.fromkeys(QUESTIONS, 0.14)})
    """Share of each kind of text in training and in ``held_out``; a kind that is not named is left out."""
    asked: dict[str, FiniteFloat] = Field(default=dict.fromkeys(QUESTIONS, 1.0))
    """Share of each kind of text in ``questions``."""
    shift: int = Field(default=1, ge=0, le=2)
    """Training digits are shifted by up to this many pixels in each direction."""
    length: int = Field(default=2**40, ge=1)
    """Nominal number of training items."""
    held_out_items: int = Field(default=2048, ge=1)
    """Number of items in ``held_out``."""
    question_items: int = Field(default=4000, ge=1)
    """Number of items in ``questions``."""


class DigitsData:
    """The data module; its attributes are those of ``worker.data.base.DataModule``.

    Attributes:
        rows: The class of its three datasets.
    """

    pad_id = 0
    kinds = KINDS
    collate = staticmethod(stack)

    def __init__(self, options: DigitsOptions) -> None:
        llava = options.batches == "llava"
        self.rows = LlavaRows if llava else Collages
        self.vocab_size = len(LLAVA_VOCABULARY if llava else VOCABULARY)
        self.context_length = LLAVA_CONTEXT_LENGTH if llava else CONTEXT_LENGTH
        shares, asked = ([mix.get(kind, 0.0) for kind in KINDS] for mix in (options.mix, options.asked))
        scans = sources(train=True)[: options.source_digits]
        unseen = sources(train=False)
        self.train = self.rows(scans, options.seed, options.length, shares, options.shift)
        self.held_out = self.rows(unseen, HELD_OUT_SEED, options.held_out_items, shares, shift=0)
        self.questions = self.rows(unseen, HELD_OUT_SEED + 1, options.question_items, asked, shift=0)

    def metrics(self, logits: Tensor, batch: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
        """Count exact matches: all answer tokens are correct under teacher forcing.

        This equals an exact match of greedy decoding, since up to its first mistake a greedy decoder reads the correct
        tokens. ``accuracy`` is over the questions and statements, without the captions.

        Args:
            logits: [B, positions, V]; those at position i predict token i + 1, and any at the last token are ignored.
            batch: The batch.
        """
        labels = batch["labels"] if "labels" in batch else batch["text"].masked_fill(~batch["answer"], IGNORED)
        labels = labels[:, 1:]
        right = ((logits[:, : labels.shape[1]].argmax(dim=-1) == labels) | (labels == IGNORED)).all(dim=1)
        kind = batch["kind"]
        by_kind = {}
        for number, name in enumerate(KINDS):
            rows = kind == number
            by_kind[f"accuracy/{name}"] = (float(right[rows].sum()), float(rows.sum()))
        sums, counts = zip(*(by_kind[f"accuracy/{name}"] for name in ASKING), strict=True)
        return {"accuracy": (sum(sums), sum(counts)), **by_kind}


def build_digits(options: Mapping[str, Any]) -> DigitsData:
    """Build the digits data.

    Raises:
        ValueError: Options are wrong; the message names all of them.
    """
    parsed = parse_options(DigitsOptions, options, "digits")
    for name, mix in (("mix", parsed.mix), ("asked", parsed.asked)):
        if set(mix) - set(KINDS) or min(mix.values(), default=0) < 0 or sum(mix.values()) <= 0:
            raise ValueError(
                f"wrong {name} for the digits data: expected shares >= 0, not all 0, of {', '.join(KINDS)}; "
                f"got {dict(mix)}"
            )
    return DigitsData(parsed)
