"""Pictures with texts from WebDataset's tar shards, as open_clip writes and reads them.

    data:
      name: webdataset
      options: {train: "shards/{000..009}.tar", held_out: shards/held-out.tar}

Training reads shards sequentially, in lanes: every loader process of every rank is one lane. Lanes take turns in one
endless sequence of shards, the concatenation of every epoch's order, so that each shard of each epoch is read once, by
one lane, however many shards there are. Within a lane's epoch, blocks of ``shuffle`` samples are shuffled.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import groupby, islice
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from worker.data.base import Batch, Context, Cursor
from worker.data.counter import draws, shuffled
from worker.data.options import parse_options
from worker.data.pairs import HeldOutSamples, Reader, Sample, UnusableSample, correct_tokens, stack
from worker.data.preprocessing import Preprocessing, vocabulary_size
from worker.data.shards import expand, samples
from worker.errors import DataError
from worker.imports import import_by_path

log = logging.getLogger(__name__)

_Placed = tuple[int, int, Sample]
"""The turn of a sample's shard, the number of the sample after it in the shard, and the sample."""

Patterns = str | Annotated[list[str], Field(min_length=1)]
Extensions = Annotated[list[str], Field(min_length=1)]


class WebDatasetOptions(BaseModel):
    """Options of the webdataset data."""

    model_config = ConfigDict(extra="forbid")

    train: Patterns
    """Shards for training: a path with braces, relative to the recipe, or several of them."""
    held_out: Patterns
    """Shards for measuring; none of them may be in ``train``."""
    image: Extensions = ["jpg", "jpeg", "png", "webp"]
    """Extensions of a sample's picture; the first that it has is used."""
    text: Extensions = ["txt", "json"]
    """Extensions of a sample's text; the first that it has is used."""
    caption: str = "caption"
    """The field of a ``json`` that holds the text."""
    tokenizer: str | None = None
    """Replaces that of both models: ``package.module:function``, N texts -> [N, context length] int64, padded at their
    end with the student's pad token."""
    augment: bool = False
    """Whether training pictures are augmented by the model family's random crops."""
    shuffle: int = Field(default=1000, ge=0)
    """Size of the blocks that are shuffled in each loader process; 0 reads shards and samples in their order."""
    seed: int = Field(default=0, ge=0)
    """Seed of all orders and crops."""
    faulty: Literal["skip", "fail"] = "skip"
    """Whether a sample whose picture or text is missing or cannot be read is skipped or ends the job."""
    held_out_items: int = Field(default=2048, ge=1)
    """Number of samples of ``held_out`` that are used, the first ones; they are held in memory."""


class Shards:
    """The training stream.

    A cursor is (turn, at, taken): the shard of the endless sequence and the sample in it at which the lane's block
    begins, and the number of samples of the block that were already taken.

    Args:
        shards: The training shards.
        reader: Decodes their samples.
        shuffle: Size of the blocks that are shuffled; 0 does not shuffle.
        seed: Seed of all orders.
        strict: Whether a sample that cannot be used is an error.
    """

    def __init__(self, shards: list[str], reader: Reader, *, shuffle: int, seed: int, strict: bool) -> None:
        self._shards, self._reader = shards, reader
        self._shuffle, self._seed, self._strict = shuffle, seed, strict

    def items(self, lane: int, lanes: int, cursor: Cursor | None) -> Iterator[tuple[Batch, Cursor]]:
        """Yield the items of one lane with their cursors, endlessly."""
        turn, at, taken = cursor or (lane, 0, 0)
        good = turn
        skipped = SkippedSamples(self._strict)
        ahead = self._samples(turn, at, lanes, skipped)
        for block in self._blocks(ahead):
            words = draws(self._seed + turn + 1, np.arange(len(block)) + at, 1)[:, 0]
            order = np.argsort(words, kind="stable") if self._shuffle else np.arange(len(block))
            # The next block begins after the last sample that was read.
            following = (*block[-1][:2], 0)
            for place in range(taken, len(block)):
                shard_turn, _, sample = block[order[place]]
                try:
                    item = self._reader.item(sample, self._epoch(shard_turn))
                except UnusableSample as fault:
                    skipped.add(self._shard(shard_turn), sample, fault)
                    continue
                good = turn
                yield item, following if place + 1 == len(block) else (turn, at, place + 1)
            turn, at, taken = following
            if turn - good > lanes * len(self._shards):
                raise DataError("no shard has a sample whose picture and text can be read")

    def _blocks(self, ahead: Iterator[_Placed]) -> Iterator[list[_Placed]]:
        """Yield blocks of samples that are shuffled together, all of one epoch."""
        for _, epoch in groupby(ahead, key=lambda placed: self._epoch(placed[0])):
            while block := list(islice(epoch, max(1, self._shuffle))):
                yield block

    def _samples(self, turn: int, at: int, lanes: int, skipped: SkippedSamples) -> Iterator[_Placed]:
        """Yield the lane's complete samples from a position on."""
        good = turn
        while turn - good <= lanes * len(self._shards):
            shard = self._shard(turn)
            for number, sample in enumerate(samples(shard)):
                if number < at:
                    continue
                try:
                    self._reader.check_complete(sample)
                except UnusableSample as fault:
                    skipped.add(shard, sample, fault)
                    continue
                good = turn
                yield turn, number + 1, sample
            turn, at = turn + lanes, 0
        raise DataError("no shard has a sample with a picture and a text")

    def _epoch(self, turn: int) -> int:
        return turn // len(self._shards)

    def _shard(self, turn: int) -> str:
        epoch, place = divmod(turn, len(self._shards))
        if self._shuffle:
            place = int(shuffled(self._seed, epoch, len(self._shards), np.array([place]))[0])
        return self._shards[place]


class SkippedSamples:
    """Counts skipped samples and logs the 1st, the 10th, the 100th and so on; or fails at the first.

    Args:
        strict: Whether to fail.
    """

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self._counts: Counter[str] = Counter()

    def add(self, shard: str, sample: Sample, fault: UnusableSample) -> None:
        """Count a sample.

        Raises:
            DataError: No sample may be skipped.
        """
        where = f"the shard {shard} has a sample {sample['__key__']} {fault}"
        if self._strict:
            raise DataError(where) from fault
        self._counts[str(fault)] += 1
        total = self._counts.total()
        if total == 10 ** (len(str(total)) - 1):
            kinds = ", ".join(f"{count} {kind}" for kind, count in self._counts.items())
            log.warning("%s; skipped so far by this process: %s", where, kinds)


class WebDataset:
    """The data module; its attributes are those of ``worker.data.base.DataModule``."""

    kinds = ("caption",)
    collate = staticmethod(stack)

    def __init__(self, options: WebDatasetOptions, context: Context) -> None:
        preprocessing = Preprocessing(context)
        inputs = preprocessing.student
        own = import_by_path(options.tokenizer, "a tokenizer") if options.tokenizer else None
        texts = preprocessing.texts(own)
        self.text_difference = texts.difference
        self.pad_id, self.context_length = inputs.pad_id, inputs.context_length
        self.vocab_size = vocabulary_size(texts.student, inputs.vocab_size)
        train = expand("train", options.train, context.directory)
        held_out = expand("held_out", options.held_out, context.directory)
        both = set(train) & set(held_out)
        if both:
            raise ValueError(f"the shard {min(both)} is both in train and in held_out")
        strict = options.faulty == "fail"

        def reader(augmented: bool) -> Reader:
            transforms = preprocessing.image_transforms(augmented=augmented)
            image, text = tuple(options.image), tuple(options.text)
            return Reader(image, text, options.caption, transforms, texts, options.seed)

        self.train = Shards(train, reader(options.augment), shuffle=options.shuffle, seed=options.seed, strict=strict)
        self.held_out = _read_held_out(held_out, reader(False), options.held_out_items, strict=strict)
        self.questions = self.held_out

    def metrics(self, logits: Tensor, batch: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
        """Compute ``accuracy``.

        It is the fraction of tokens that are predicted correctly under teacher forcing, or of a model whose logits are
        similarities [B, B] the fraction of pictures whose own text is the most similar one of the batch.
        """
        if logits.ndim == 2:
            own = torch.arange(len(logits), device=logits.device)
            return {"accuracy": (float((logits.argmax(dim=-1) == own).sum()), float(len(own)))}
        return {"accuracy": correct_tokens(logits, batch["text"], batch["attention_mask"])}


def build_webdataset(options: Mapping[str, Any], context: Context) -> WebDataset:
    """Build the data module from its options.

    Raises:
        ValueError: An option is wrong.
        DataError: A shard cannot be read.
    """
    return WebDataset(parse_options(WebDatasetOptions, options, "webdataset"), context)


def _read_held_out(shards: list[str], reader: Reader, count: int, *, strict: bool) -> HeldOutSamples:
    held_out: list[tuple[str, Sample]] = []
    skipped = SkippedSamples(strict)
    for shard in shards:
        for sample in samples(shard):
            if len(held_out) == count:
                return HeldOutSamples(held_out, reader, strict=strict)
            try:
                reader.check_complete(sample)
            except UnusableSample as fault:
                skipped.add(shard, sample, fault)
            else:
                held_out.append((shard, sample))
    if not held_out:
        raise ValueError(f"held_out has no sample with a picture and a text in {', '.join(shards)}")
    return HeldOutSamples(held_out, reader, strict=strict)
