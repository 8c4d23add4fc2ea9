"""Forced rounds of models that remember, write in place, put out named tuples or leave modules out."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from tests.worker.models.test_forced import grouped
from worker.distill.modular import ModularModel
from worker.errors import RecipeError
from worker.models.base import ModuleSpec
from worker.models.generic import GenericAdapter, NamedModule, RegroupedAdapter
from worker.setup.forced import with_stand_ins

MODULES = {"first": ("first", "first"), "second": ("second", "second")}


class Pair(nn.Module):
    """Two modules, and what happens between them."""

    def __init__(self, first: nn.Module, between: Callable[[nn.Module, Tensor], Tensor] = lambda first, x: x) -> None:
        super().__init__()
        self.first, self.second, self.between = first, nn.Linear(4, 4), between

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self.first, self.first(x)))  # type: ignore[no-any-return]


class Remembering(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 4)
        self.seen = torch.zeros(())

    def forward(self, input: Tensor) -> Tensor:
        self.seen = input.abs()
        return super().forward(input)


def test_a_module_that_reads_anothers_attribute_is_refused() -> None:
    def pair() -> nn.Module:
        return Pair(Remembering(), lambda first, x: x + cast(Tensor, first.seen))

    # On the same rows again the attribute would be the right one.
    with pytest.raises(RecipeError, match="second of a Pair computes something else"):
        with_stand_ins(grouped(pair(), pair(), MODULES), {"x": torch.randn(2, 4)})


@pytest.mark.parametrize("forced", [False, True])
def test_a_layers_output_is_what_it_was_before_the_model_wrote_into_it(*, forced: bool) -> None:
    model = Pair(nn.Linear(4, 4), lambda first, x: x.mul_(3))
    batch = {"x": torch.randn(2, 4)}
    own = model.first(batch["x"])
    if forced:
        models = with_stand_ins(grouped(model, model, MODULES), batch)
        assert models.adapter.modules[0].matched == ()
        modular = models.teacher
    else:
        named = [NamedModule(ModuleSpec(name, *paths)) for name, paths in MODULES.items()]
        modular = ModularModel(model, RegroupedAdapter(GenericAdapter(), named), {})
    for with_gradient in (False, True):
        with torch.set_grad_enabled(with_gradient):
            assert torch.equal(modular.run(["first", "second"], batch).hidden["first"], own)


class Recurrent(nn.Module):
    """Passes a named tuple that checks its entries from one module to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Gate(), Gate()

    def forward(self, x: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, torch.tensor([3, 2]), batch_first=True)
        return pad_packed_sequence(self.second(self.first(packed)), batch_first=True)[0].mean(1)


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(4, 4, batch_first=True)

    def forward(self, packed: PackedSequence) -> PackedSequence:
        return self.cell(packed)[0]  # type: ignore[no-any-return]


def test_named_tuples_are_passed_on() -> None:
    models = with_stand_ins(grouped(Recurrent(), Recurrent(), MODULES), {"x": torch.randn(2, 3, 4)})
    assert models.adapter.modules[1].inputs == ("first",)


class Dropping(nn.Module):
    """Leaves its first module out when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.leaves_out = nn.Linear(4, 4), nn.Linear(4, 4), False

    def forward(self, x: Tensor) -> Tensor:
        return self.second(x if self.leaves_out else self.first(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_that_is_left_out_later_is_named(module: str) -> None:
    student, batch = Dropping(), {"x": torch.randn(2, 4)}
    models = with_stand_ins(grouped(Dropping(), student, MODULES), batch)
    answers = models.teacher.run(["first", "second"], batch).boundary
    student.leaves_out = True
    with pytest.raises(RecipeError, match="has left out first"):
        models.student.run([module], batch, answers)
