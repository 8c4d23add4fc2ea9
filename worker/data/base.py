"""What the worker asks of its data: three datasets, how rows become a batch, and how a model is judged.

Training data is map-style (`Rows`) or a stream (`Stream`). Items of the first depend on nothing but the seed and
their index, so a position in the data is one integer; every item of the second comes with a cursor that says what
follows it. Either way resuming is exact.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

Batch = dict[str, Tensor]
Cursor = tuple[int, ...]
"""Where a lane of a stream goes on."""


class Rows(Protocol):
    """A map-style dataset that makes many items in one go.

    Torch's ``Dataset`` is the base of every implementation; ``torch.utils.data.DataLoader`` uses
    ``__getitems__`` by itself.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Batch:
        """One item: the batch's tensors without their first axis. Raises IndexError outside 0 … len - 1."""
        ...

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        """The items of the given indices, in that order."""
        ...


@runtime_checkable
class Stream(Protocol):
    """An iterable dataset, read in lanes: one for each loader process of each rank, or one for each rank.

    It is copied to the loader processes, so it can be pickled.
    """

    def items(self, lane: int, lanes: int, cursor: Cursor | None) -> Iterator[tuple[Batch, Cursor]]:
        """One lane's items, without end, each with the cursor from which the items after it follow.

        What follows depends on the arguments alone: a lane that goes on from a cursor gives what it would have given.
        Together the lanes give every item of an epoch once.

        Raises:
            DataError: What should be read cannot be.
        """
        ...


class DataModule(Protocol):
    """Data for one distillation problem; either `Measured` or `Judged`.

    A batch is a dict of tensors:

    - ``image`` [B, C, H, W] float32, normalised.
    - ``text`` [B, L] int64: start token, words, end token, padded with ``pad_id``.
    - ``answer`` [B, L] bool: which positions of ``text`` are to be predicted and judged: the answer's words and
      the end token; of a caption, all words. The logits at position i - 1 predict position i.
    - ``paired`` [B] bool: the text tells its image from the others (a caption), so the row takes part in the
      contrastive loss.
    - ``kind`` [B] int64: index into ``kinds``.
    """

    @property
    def train(self) -> Rows | Stream:
        """Training items. The length of rows is nominal and large, each index another item: `Shuffled` makes such
        rows of any map-style dataset."""
        ...

    @property
    def held_out(self) -> Rows:
        """A fixed, finite mix of all kinds like the training items, from sources never trained on."""
        ...

    @property
    def questions(self) -> Rows:
        """Held-out items whose text asks something: what the task metric is taken on."""
        ...

    @property
    def pad_id(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def context_length(self) -> int: ...

    @property
    def kinds(self) -> tuple[str, ...]: ...

    def collate(self, items: Sequence[Batch]) -> Batch:
        """Stack items into a batch."""
        ...


class Measured(DataModule, Protocol):
    """Data whose task metrics are taken on a model's logits, given the right words so far."""

    def metrics(self, logits: Tensor, batch: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
        """Judge logits [B, L - 1, V] on a batch: name -> (sum, count), so that batches and ranks add up.

        ``accuracy`` counts the rows that ask something, and among them those whose answer tokens are all right.
        ``accuracy/<kind>`` is the same for one kind, captions too. Every name is there for every batch.
        """
        ...


@dataclass(frozen=True)
class Writing:
    """How a model writes an answer.

    Attributes:
        end: The token that ends a text.
        most: Tokens it may write, the end included.
        beams: Texts that are followed at a time; 1 takes the likeliest token each time.
        choices: Where not empty, the answer's first token is the likeliest of these.
    """

    end: int
    most: int
    beams: int = 1
    choices: tuple[int, ...] = ()


@runtime_checkable
class Judged(Protocol):
    """Data whose task metrics are taken on what a model writes in the place of the answers of ``questions``."""

    @property
    def writing(self) -> Writing:
        """How it is to write."""
        ...

    def judge(self, written: Mapping[int, Sequence[int]]) -> dict[str, float]:
        """The task metrics, of all that was written: tokens without the end token, by the row of ``questions``."""
        ...


class Inputs(Protocol):
    """How a family of models takes pictures and texts: its own preprocessing and its own tokenizer."""

    @property
    def pad_id(self) -> int:
        """The token that fills up a text."""
        ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def context_length(self) -> int:
        """Tokens of a text, start, end and padding included."""
        ...

    def picture(self, *, augmented: bool) -> Callable[[Any], Tensor]:
        """What makes a PIL image [C, H, W] float32; augmented, by torch's global random numbers. Can be pickled."""
        ...

    def words(self) -> Callable[[list[str]], Tensor]:
        """What makes N texts [N, context_length] int64. Can be pickled.

        Raises:
            ValueError: The family has none that fits this model.
        """
        ...

    def spoken(self) -> Callable[[Sequence[int]], str]:
        """What makes a text of tokens, special ones left out. Can be pickled. Raises as `words` does."""
        ...


@dataclass(frozen=True)
class Context:
    """What the rest of a recipe means for its data.

    Attributes:
        directory: Where relative paths start.
        inputs: Says how its models take pictures and texts; raises RecipeError where that is not known.
    """

    directory: Path
    inputs: Callable[[], Inputs]


DataModuleFactory = Callable[..., DataModule]
"""``factory(options)`` or ``factory(options, context)`` builds a data module from a recipe's options, by name, and its
`Context`. Raises ValueError, in one sentence, on a wrong option."""
