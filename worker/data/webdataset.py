"""Pictures with texts from WebDataset's tar shards, as open_clip writes and reads them.

    data:
      name: webdataset
      options: {train: "shards/{000..009}.tar", held_out: shards/held-out.tar}

Training reads the shards one after the other, in lanes: every loader process of every rank is one. Lanes take turns in
one endless sequence of shards, which is every epoch's order after the other, so that each shard of each epoch is read
once, by one lane, however many shards there are. Within a lane's epoch, blocks of ``shuffle`` samples are mixed.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import groupby, islice
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from worker.data.base import Batch, Context, Cursor
from worker.data.counter import draws, shuffled
from worker.data.options import checked
from worker.data.pairs import Kept, Reader, Sample, Unfit, stack, words_right
from worker.data.shards import expand, samples
from worker.errors import DataError
from worker.imports import import_by_path

log = logging.getLogger(__name__)

_Placed = tuple[int, int, Sample]
"""A sample with its shard's turn, and the number in the shard that follows its own."""

Patterns = str | Annotated[list[str], Field(min_length=1)]
Extensions = Annotated[list[str], Field(min_length=1)]


class WebDatasetOptions(BaseModel):
    """Options of the webdataset data."""

    model_config = ConfigDict(extra="forbid")

    train: Patterns
    """Shards to train on: a path with braces, relative to the recipe, or several of them."""
    held_out: Patterns
    """Shards to measure on, none of which is trained on."""
    image: Extensions = ["jpg", "jpeg", "png", "webp"]
    """Extensions of a sample's picture; the first that it has counts."""
    text: Extensions = ["txt", "json"]
    """Extensions of its text."""
    caption: str = "caption"
    """The field of a ``json`` that holds the text."""
    tokenizer: str | None = None
    """Instead of the model's own: ``package.module:function``, which makes N texts [N, context length] int64."""
    augment: bool = False
    """Whether training pictures go through the model family's random crops."""
    shuffle: int = Field(default=1000, ge=0)
    """Samples that are mixed with each other, in each loader process; 0 reads shards and samples in their order."""
    seed: int = Field(default=0, ge=0)
    """Of all orders and crops."""
    faulty: Literal["skip", "fail"] = "skip"
    """What to do with a sample that lacks its picture or text, or whose picture or text cannot be read."""
    held_out_items: int = Field(default=2048, ge=1)
    """The first so many samples of ``held_out`` are kept in memory."""


class Shards:
    """The training stream.

    A cursor is (turn, at, taken): which shard of the endless sequence the lane's block begins in, and at which of its
    samples, and how many samples of the block are behind.
    """

    def __init__(self, shards: list[str], reader: Reader, *, shuffle: int, seed: int, strict: bool) -> None:
        self._shards, self._reader = shards, reader
        self._shuffle, self._seed, self._strict = shuffle, seed, strict

    def items(self, lane: int, lanes: int, cursor: Cursor | None) -> Iterator[tuple[Batch, Cursor]]:
        turn, at, taken = cursor or (lane, 0, 0)
        good = turn
        left_out = LeftOut(self._strict)
        ahead = self._samples(turn, at, lanes, left_out)
        for block in self._blocks(ahead):
            words = draws(self._seed + turn + 1, np.arange(len(block)) + at, 1)[:, 0]
            order = np.argsort(words, kind="stable") if self._shuffle else np.arange(len(block))
            # The last sample read says where the next block begins.
            following = (*block[-1][:2], 0)
            for place in range(taken, len(block)):
                its_turn, _, sample = block[order[place]]
                try:
                    item = self._reader.item(sample, self._epoch(its_turn))
                except Unfit as fault:
                    left_out.add(self._shard(its_turn), sample, fault)
                    continue
                good = turn
                yield item, following if place + 1 == len(block) else (turn, at, place + 1)
            turn, at, taken = following
            if turn - good > lanes * len(self._shards):
                raise DataError("not one picture with its text can be read in all shards")

    def _blocks(self, ahead: Iterator[_Placed]) -> Iterator[list[_Placed]]:
        """Samples that are mixed with each other, all of one epoch."""
        for _, epoch in groupby(ahead, key=lambda placed: self._epoch(placed[0])):
            while block := list(islice(epoch, max(1, self._shuffle))):
                yield block

    def _samples(self, turn: int, at: int, lanes: int, left_out: LeftOut) -> Iterator[_Placed]:
        """The lane's complete samples from there on."""
        good = turn
        while turn - good <= lanes * len(self._shards):
            shard = self._shard(turn)
            for number, sample in enumerate(samples(shard)):
                if number < at:
                    continue
                try:
                    self._reader.complete(sample)
                except Unfit as fault:
                    left_out.add(shard, sample, fault)
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


class LeftOut:
    """Counts the samples that are left out, and says so at the 1st, the 10th, the 100th …; or fails at the first."""

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self._counts: Counter[str] = Counter()

    def add(self, shard: str, sample: Sample, fault: Unfit) -> None:
        """One more. Raises DataError where none may be left out."""
        where = f"the shard {shard} has a sample {sample['__key__']} {fault}"
        if self._strict:
            raise DataError(where) from fault
        self._counts[str(fault)] += 1
        total = self._counts.total()
        if total == 10 ** (len(str(total)) - 1):
            kinds = ", ".join(f"{count} {kind}" for kind, count in self._counts.items())
            log.warning("%s; left out so far by this process: %s", where, kinds)


class WebDataset:
    """The data module; see ``worker.data.base.DataModule`` for what its fields mean."""

    kinds = ("caption",)
    collate = staticmethod(stack)

    def __init__(self, options: WebDatasetOptions, context: Context) -> None:
        inputs = context.inputs()
        self.pad_id, self.vocab_size, self.context_length = inputs.pad_id, inputs.vocab_size, inputs.context_length
        train = expand("train", options.train, context.directory)
        held_out = expand("held_out", options.held_out, context.directory)
        both = set(train) & set(held_out)
        if both:
            raise ValueError(f"the shard {min(both)} is both in train and in held_out")
        words = import_by_path(options.tokenizer, "a tokenizer") if options.tokenizer else inputs.words()
        strict = options.faulty == "fail"

        def reader(augmented: bool) -> Reader:
            picture = inputs.picture(augmented=augmented)
            return Reader(tuple(options.image), tuple(options.text), options.caption, picture, words, options.seed)

        self.train = Shards(train, reader(options.augment), shuffle=options.shuffle, seed=options.seed, strict=strict)
        self.held_out = _kept(held_out, reader(False), options.held_out_items, strict=strict)
        self.questions = self.held_out

    def metrics(self, logits: Tensor, batch: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
        """``accuracy``: the share of a caption's tokens that are predicted, each after the right ones before it."""
        return {"accuracy": words_right(logits, batch["text"], self.pad_id)}


def build_webdataset(options: Mapping[str, Any], context: Context) -> WebDataset:
    """The data with the given options. Raises ValueError or DataError, in one sentence, on what is wrong with them."""
    return WebDataset(checked(WebDatasetOptions, options, "webdataset"), context)


def _kept(shards: list[str], reader: Reader, count: int, *, strict: bool) -> Kept:
    found: list[tuple[str, Sample]] = []
    left_out = LeftOut(strict)
    for shard in shards:
        for sample in samples(shard):
            if len(found) == count:
                return Kept(found, reader, strict=strict)
            try:
                reader.complete(sample)
            except Unfit as fault:
                left_out.add(shard, sample, fault)
            else:
                found.append((shard, sample))
    if not found:
        raise ValueError(f"held_out has no sample with a picture and a text in {', '.join(shards)}")
    return Kept(found, reader, strict=strict)
