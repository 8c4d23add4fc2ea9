"""A user's own vision-language model, of which nothing is declared, with everything that is awkward about such models.

Its connector is a bare ``nn.Linear``; parameters of its own lie between its modules; it writes into what its modules
give it; it has dropout; it may recompute regions that hold more than one of its modules' units.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from worker.distill.arms import layer_pairs, ownership
from worker.distill.modular import ModularModel
from worker.models.base import ModuleSpec, Patterns
from worker.models.factory import FactoryModel
from worker.models.generic import GenericAdapter, NamedModule, RegroupedAdapter
from worker.setup.models import Models

WORDS = 12


class Block(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.5))
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> tuple[Tensor, None]:
        mixed = self.norm(hidden) + hidden.mean(1, keepdim=True)
        return hidden + self.scale * self.dropout(self.down(torch.tanh(self.up(mixed)))), None


class Vlm(nn.Module):
    def __init__(self, depth: int = 4, width: int = 16, dropout: float = 0.0) -> None:
        super().__init__()
        self.patches = nn.Linear(4, width)
        self.place = nn.Parameter(0.1 * torch.randn(3, width))
        self.eye = nn.ModuleList(Block(width, dropout) for _ in range(depth))
        self.bridge = nn.Linear(width, width)
        self.gain = nn.Parameter(torch.ones(1))
        self.words = nn.Embedding(WORDS, width)
        self.mind = nn.ModuleList(Block(width, dropout) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, WORDS, bias=False)
        self.recompute = False

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any) -> None:
        self.recompute = True

    def forward(self, picture: Tensor, text: Tensor) -> dict[str, Tensor]:
        hidden = self.words(text)
        seen = self.patches(picture) + self.place
        for layer in self.eye:
            seen = layer(seen)[0]
        # In place.
        hidden[:, :3] += self.gain * self.bridge(seen)
        for first, second in zip(self.mind[::2], self.mind[1::2], strict=True):

            def pair(hidden: Tensor, first: nn.Module = first, second: nn.Module = second) -> Tensor:
                return self.gain * second(self.gain * first(hidden)[0])[0]  # type: ignore[no-any-return]

            recompute = self.recompute and self.training
            hidden = checkpoint(pair, hidden, use_reentrant=False) if recompute else pair(hidden)
        logits = self.head(self.norm(hidden))[:, :-1]
        return {
            "logits": logits,
            "loss": nn.functional.cross_entropy(logits.flatten(0, 1).float(), text[:, 1:].flatten()),
        }


MODULES: dict[str, tuple[Patterns, Patterns]] = {
    "eye": (("patches", "place", "eye"), "eye.*"),
    "bridge": (("bridge",), "bridge"),
    "lower": (("words", "mind.0"), "mind.0"),
    "upper": (("mind.1", "norm", "head"), "mind.1"),
}


def vlm(seed: int, **options: Any) -> Vlm:
    torch.manual_seed(seed)
    return Vlm(**options)


def batch(index: int, rank: int = 0) -> dict[str, Tensor]:
    """Return four rows that depend only on index and rank."""
    generator = torch.Generator().manual_seed(1000 * index + rank)
    return {
        "picture": torch.randn(4, 3, 4, generator=generator),
        "text": torch.randint(0, WORDS, (4, 6), generator=generator),
    }


def models(teacher: Vlm, student: Vlm, arms: dict[str, list[str]]) -> Models:
    """Return both models; the teacher's ``lower`` and ``upper`` are twice as deep."""
    deep: dict[str, tuple[Patterns, Patterns]] = {
        **MODULES,
        "lower": (("words", "mind.0", "mind.1"), ("mind.0", "mind.1")),
        "upper": (("mind.2", "mind.3", "norm", "head"), ("mind.2", "mind.3")),
    }
    ours, theirs = (
        ModularModel(
            model,
            RegroupedAdapter(
                GenericAdapter(),
                [NamedModule(ModuleSpec(name, path, layers)) for name, (path, layers) in modules.items()],
            ),
            {},
        )
        for model, modules in ((student, MODULES), (teacher, deep))
    )
    pairs = {name: layer_pairs(ours.layers[name], theirs.layers[name]) for name in MODULES}
    owned = ownership(student, {module.name: module.path for module in ours.adapter.modules})
    exported = FactoryModel(student, GenericAdapter(), "")
    return Models(ours.adapter, theirs, ours, exported, arms, pairs, owned)
