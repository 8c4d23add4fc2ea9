"""What the worker asks of its data: three datasets, how rows become a batch, and how logits are judged.

Items depend on nothing but the seed and their index, so a position in the data is one integer and resuming is
exact. Datasets answer ``__getitem__(i)`` and, in one go, ``__getitems__([i, j, …])``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

Batch = dict[str, Tensor]


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


class DataModule(Protocol):
    """Data for one distillation problem.

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
    def train(self) -> Rows:
        """Training items; its length is nominal and large, each index another item."""
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

    def metrics(self, logits: Tensor, batch: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
        """Judge logits [B, L - 1, V] on a batch: name -> (sum, count), so that batches and ranks add up.

        ``accuracy`` counts the rows that ask something, and among them those whose answer tokens are all right.
        ``accuracy/<kind>`` is the same for one kind, captions too. Every name is there for every batch.
        """
        ...


DataModuleFactory = Callable[[Mapping[str, Any]], DataModule]
"""Builds a data module from a recipe's options. Raises ValueError, in one sentence, on a wrong option."""
