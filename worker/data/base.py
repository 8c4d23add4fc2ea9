"""The interface between the worker and its data: three datasets, the collation of a batch, and the task metrics.

Training data is map-style (`Rows`) or a stream (`Stream`). Items of `Rows` depend only on the seed and their index, so
a position in the data is one integer; every item of a `Stream` comes with a cursor from which reading continues.
Either way resuming is exact.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

Batch = dict[str, Tensor]
Cursor = tuple[int, ...]
"""The position at which a lane of a stream continues."""
TEACHER = "teacher/"
"""The prefix of a batch's entries that are made for the teacher: it reads ``teacher/image`` in place of ``image``."""


class Rows(Protocol):
    """A map-style dataset that can return many items in one call.

    Every built-in implementation derives from torch's ``Dataset``; ``torch.utils.data.DataLoader`` calls
    ``__getitems__`` if there is one.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Batch:
        """Return one item: the batch's tensors without their first axis.

        Raises:
            IndexError: The index is not between 0 and len - 1.
        """
        ...

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        """Return the items at these indices, in this order."""
        ...


@runtime_checkable
class Stream(Protocol):
    """An iterable dataset that is read in lanes: one per loader process of each rank, or one per rank.

    It is copied to the loader processes, so it must be possible to pickle it.
    """

    def items(self, lane: int, lanes: int, cursor: Cursor | None) -> Iterator[tuple[Batch, Cursor]]:
        """Yield the items of one lane, endlessly, each with the cursor from which the items after it follow.

        The items depend on the arguments alone: a lane that continues from a cursor yields the same items as one that
        was never interrupted. Together, the lanes yield every item of an epoch once.

        Args:
            lane: The number of this lane, 0 … lanes - 1.
            lanes: The number of all lanes.
            cursor: Where to continue; None begins the first epoch.

        Raises:
            DataError: The data cannot be read.
        """
        ...


class DataModule(Protocol):
    """The data of one distillation problem; either `Measured` or `Judged`.

    A batch is a dict. Its tensors, also those in containers, are moved to the device and converted to the job's
    floating-point type; a data module of one's own may have any other entries, which are passed on as they are (a tuple
    may become a list), and tensors of any shape. The built-in ones have:

    - ``image`` [B, C, H, W] float32, normalised.
    - ``text`` [B, L] int64: start token, text, end token, padded with ``pad_id``.
    - ``attention_mask`` [B, L] int64, optional: 0 at the padding of ``text``. Without it, padding is recognised by the
      model's pad token.
    - ``answer`` [B, L] bool: the positions of ``text`` that are predicted and judged: the answer and the end token; all
      of a caption. The logits at position i - 1 predict position i.
    - ``paired`` [B] bool: whether the text identifies its image among others (a caption does), so that the row takes
      part in the contrastive loss.
    - ``kind`` [B] int64: index into ``kinds``.

    A teacher that needs other inputs than the student, such as pictures of another size, reads the entries that begin
    with ``teacher/`` in place of those with the rest of their name; the student does not see them. If the tokens of
    ``teacher/text`` are not at the same positions as those of ``text``, the data module has the attribute
    ``text_difference``, a sentence that says how they differ: then nothing is compared position by position over text.
    """

    @property
    def train(self) -> Rows | Stream:
        """The training items.

        `Rows` have a large nominal length and another item at each index; `Shuffled` makes such rows from any map-style
        dataset.
        """
        ...

    @property
    def held_out(self) -> Rows:
        """A fixed, finite mix of all kinds, distributed like the training items, from sources never trained on."""
        ...

    @property
    def questions(self) -> Rows:
        """The held-out items for the task metrics: those with a question to answer."""
        ...

    @property
    def pad_id(self) -> int:
        """The token that pads a text."""
        ...

    @property
    def vocab_size(self) -> int:
        """The number of tokens in the vocabulary. Logits may have more classes, the last of which are then padding."""
        ...

    @property
    def context_length(self) -> int:
        """The length of ``text`` rows, in tokens."""
        ...

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of the kinds of items."""
        ...

    def collate(self, items: Sequence[Batch]) -> Batch:
        """Stack items into a batch."""
        ...


class Measured(DataModule, Protocol):
    """Data whose task metrics are computed from a model's logits under teacher forcing."""

    def metrics(self, logits: Tensor, batch: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
        """Compute the task metrics of logits [B, L - 1, V] on a batch.

        Returns:
            name -> (sum, count), which add up over batches and ranks; every batch has the same names. ``accuracy``
            is over the rows with a question: the sum counts those whose answer tokens are all correct.
            ``accuracy/<kind>`` is the same for one kind, captions included.
        """
        ...


@dataclass(frozen=True)
class Writing:
    """The way in which a model generates an answer.

    Attributes:
        end: The token that ends a text.
        most: Maximum number of generated tokens, the end included.
        beams: Width of the beam search; 1 is greedy.
        choices: If not empty, the answer's first token is the likeliest of these.
    """

    end: int
    most: int
    beams: int = 1
    choices: tuple[int, ...] = ()


@runtime_checkable
class Judged(Protocol):
    """Data whose task metrics are computed from the answers that a model generates for ``questions``."""

    @property
    def writing(self) -> Writing:
        """The way in which the answers are generated."""
        ...

    def judge(self, written: Mapping[int, Sequence[int]]) -> dict[str, float]:
        """Compute the task metrics of all answers: tokens without the end token, by the row of ``questions``."""
        ...


class Inputs(Protocol):
    """The preprocessing of a model family: its image transform and its tokenizer."""

    @property
    def pad_id(self) -> int:
        """The token that pads a text."""
        ...

    @property
    def end_id(self) -> int | None:
        """The token that ends a text; None if there is none. It may also be the one that pads."""
        ...

    @property
    def vocab_size(self) -> int:
        """The number of tokens in the model's vocabulary."""
        ...

    @property
    def context_length(self) -> int:
        """The length of a text in tokens, start, end and padding included."""
        ...

    def image_transform(self, *, augmented: bool) -> Callable[[Any], Tensor]:
        """Return a function PIL image -> [C, H, W] float32; it can be pickled.

        Args:
            augmented: Whether it augments, with torch's global random state.

        Raises:
            ValueError: The family has no such transform.
        """
        ...

    def tokenizer(self) -> Callable[[list[str]], Tensor]:
        """Return a function N texts -> [N, context_length] int64; it can be pickled.

        Texts are padded at their end, and truncated so that they keep their end token. Its attribute ``vocab_size`` is
        the number of tokens that it knows, which may be fewer than the model's.

        Raises:
            ValueError: The family has no tokenizer that fits this model.
        """
        ...

    def detokenizer(self) -> Callable[[Sequence[int]], str]:
        """Return a function tokens -> text, without special tokens; it can be pickled.

        Raises:
            ValueError: The family has no tokenizer that fits this model.
        """
        ...


@dataclass(frozen=True)
class Context:
    """The parts of a recipe that its data depend on.

    Attributes:
        directory: The directory that relative paths start from.
        inputs: Returns the student's preprocessing; raises RecipeError if that is not known.
        teacher: Returns the teacher's, in the same way; None if it is the student's.
    """

    directory: Path
    inputs: Callable[[], Inputs]
    teacher: Callable[[], Inputs] | None = None


def entries_for(batch: Mapping[str, Any], *, teacher: bool) -> Mapping[str, Any]:
    """Return the entries of a batch that the teacher, or the student, reads, by their plain names."""
    own = {name.removeprefix(TEACHER): entry for name, entry in batch.items() if name.startswith(TEACHER)}
    if not own:
        return batch
    plain = {name: entry for name, entry in batch.items() if not name.startswith(TEACHER)}
    return {**plain, **own} if teacher else plain


DataModuleFactory = Callable[..., DataModule]
"""``factory(options)`` or ``factory(options, context)`` builds a data module from a recipe's options, by name, and its
`Context`. It raises ValueError, with one sentence, if an option is wrong."""
