"""The training loop of pretraining, and what it needs of a model."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from worker.data.base import Batch
from worker.data.digits.dataset import DigitsData, build_digits
from worker.data.digits.rows import Collages
from worker.data.digits.text import QUESTIONS

REPORT_EVERY = 250
"""Steps between two lines of progress."""


@dataclass(frozen=True)
class Options:
    """The command's options; each is a flag of the same name."""

    model: str = field(
        default="coca",
        metadata={
            "help": "What to train: coca, vlm (a LLaVA), or the configuration of one: a JSON file of open_clip, or a "
            "directory with one or with the config.json of a LLaVA of transformers."
        },
    )
    output: str = field(
        default="",
        metadata={"help": "Directory for weights, configuration and metrics; by default teachers/NAME OF THE MODEL."},
    )
    start: str = field(
        default="", metadata={"help": "Initial weights, a safetensors file; by default they are random."}
    )
    kinds: str = field(default=",".join(QUESTIONS), metadata={"help": "Kinds of questions, separated by commas."})
    seed: int = field(default=0, metadata={"help": "Seed of weights and data."})
    steps: int = field(default=4000, metadata={"help": "Optimizer steps."})
    batch: int = field(default=64, metadata={"help": "Collages per step."})
    lr: float = field(default=1e-3, metadata={"help": "Peak learning rate."})
    weight_decay: float = field(default=0.1, metadata={"help": "AdamW weight decay of the matrices."})
    captions_first: float = field(
        default=0.2, metadata={"help": "Fraction of steps whose texts are 80 % captions; then 15 %."}
    )
    contrastive: float = field(default=0.05, metadata={"help": "Weight of the contrastive loss of a CoCa."})
    label_smoothing: float = field(default=0.0, metadata={"help": "Label smoothing of the cross-entropy."})
    shift: int = field(
        default=1, metadata={"help": "Training digits are moved by up to this many pixels in each direction."}
    )


class Pretrained(ABC):
    """A kind of model that can be pretrained on the digits.

    Attributes:
        model: The model.
        batches: The form of its batches, an option of the digits data.
        files: Names of the files that `save` writes and that must not exist before.
        library: The package that loads them.
    """

    model: nn.Module
    batches: ClassVar[Literal["coca", "llava"]]
    files: ClassVar[tuple[str, ...]]
    library: ClassVar[str]

    @classmethod
    @abstractmethod
    def from_config(cls, source: Path) -> Self:
        """Build a model with random weights from a configuration."""

    @abstractmethod
    def logits(self, batch: Batch) -> Tensor:
        """Return logits [B, L - 1, V]; those at position i predict token i + 1."""

    @abstractmethod
    def loss(self, batch: Batch, options: Options) -> Tensor:
        """Return the loss of a batch, a scalar."""

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Write weights and configuration so that the library loads them."""

    def load_weights(self, file: Path) -> None:
        """Load weights from a safetensors file."""
        self.model.load_state_dict(load_file(file))


def train(pretrained: Pretrained, data: DigitsData, options: Options) -> None:
    """Train with AdamW, warm-up and cosine decay, and print the held-out accuracy from time to time."""
    model = pretrained.model
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": options.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, options.steps))
    model.train()
    losses: list[float] = []
    started = time.perf_counter()
    for step, batch in enumerate(_batches(pretrained, options), start=1):
        loss = pretrained.loss(batch, options)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if step % REPORT_EVERY == 0 or step == options.steps:
            unseen = evaluate(pretrained, data, data.questions, most=1000)
            kinds = " ".join(f"{kind} {unseen[f'accuracy/{kind}']:.3f}" for kind in options.kinds.split(","))
            print(
                f"step {step}/{options.steps}  loss {np.mean(losses):.3f}  {time.perf_counter() - started:.0f} s  "
                f"held-out accuracy {unseen['accuracy']:.3f} ({kinds})",
                flush=True,
            )
            losses.clear()


@torch.no_grad()
def evaluate(
    pretrained: Pretrained, data: DigitsData, rows: Collages, *, most: int | None = None, batch: int = 500
) -> dict[str, float]:
    """Return the exact-match accuracy in eval mode, in total and by kind, on the first ``most`` items."""
    training = pretrained.model.training
    pretrained.model.eval()
    totals: dict[str, list[float]] = {}
    count = len(rows) if most is None else min(most, len(rows))
    for first in range(0, count, batch):
        items = rows.batch(np.arange(first, min(first + batch, count)))
        for name, (right, count_of_kind) in data.metrics(pretrained.logits(items), items).items():
            total = totals.setdefault(name, [0.0, 0.0])
            total[0], total[1] = total[0] + right, total[1] + count_of_kind
    pretrained.model.train(training)
    return {name: right / count_of_kind for name, (right, count_of_kind) in totals.items() if count_of_kind}


def _batches(pretrained: Pretrained, options: Options) -> Iterator[Batch]:
    """Yield the batches: first mostly captions, then mostly questions."""
    common = {"batches": pretrained.batches, "seed": options.seed, "shift": options.shift}
    captions_first, questions_first = (
        build_digits({**common, "mix": _mix(captions, options.kinds)}).train for captions in (0.8, 0.15)
    )
    for step in range(options.steps):
        rows = captions_first if step < options.captions_first * options.steps else questions_first
        yield rows.batch(np.arange(step * options.batch, (step + 1) * options.batch))


def _rate(step: int, steps: int, warm_up: int = 100) -> float:
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(steps - warm_up, 1)))


def _mix(captions: float, kinds: str) -> dict[str, float]:
    asked = kinds.split(",")
    return {"caption": captions, **dict.fromkeys(asked, (1 - captions) / len(asked))}
