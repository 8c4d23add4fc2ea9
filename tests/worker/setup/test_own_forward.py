"""An adapter whose logits or losses are not those of the model's own forward pass is an error before training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.worker.models.test_families import assembled
from tests.worker.models.tiny_families import FAMILIES, batch
from worker.distill.modular import ModularModel
from worker.distill.objective import LossWeights, Objective
from worker.errors import RecipeError
from worker.models.base import Adapter, Batch, Boundary
from worker.setup.models import Models
from worker.setup.shape_check import compare_shapes

OWN = [name for name in FAMILIES if name not in ("factory", "opt")]
"""Those whose modules are run one by one; others are run by their own forward pass."""


def check(made: Models, data: Batch, task: dict[str, float] | None = None) -> None:
    compare_shapes(made, data, forced=False, objective=Objective(made.adapter, made.pairs, LossWeights(task=task)))


def altered(made: Models, **methods: Any) -> Models:
    """Return the models with an adapter of the student that does these things otherwise."""
    adapter: Adapter = made.adapter
    for name, method in methods.items():
        setattr(adapter, name, method(getattr(adapter, name)))
    return replace(made, student=ModularModel(made.student.model, adapter, {}))


def shifted(logits_of: Any) -> Any:
    def run(model: nn.Module, boundary: Mapping[str, Boundary]) -> Tensor:
        return logits_of(model, boundary).roll(1, dims=0)  # type: ignore[no-any-return]

    return run


def scaled(task_terms: Any) -> Any:
    def run(*arguments: Any) -> dict[str, Tensor]:
        return {name: 1.01 * term for name, term in task_terms(*arguments).items()}

    return run


@pytest.mark.parametrize("name", OWN)
def test_logits_and_losses_of_every_family_are_the_models_own(name: str, tmp_path: Path) -> None:
    made, data = assembled(name, tmp_path), batch(name)
    with torch.no_grad():
        reference = made.adapter.own_forward(made.student.model.eval(), data)
    assert reference is not None
    assert reference.logits is not None
    assert set(reference.losses) == set(made.adapter.task_weights)
    assert all(float(loss) > 0.1 for loss in reference.losses.values())
    check(made, data)
    number, shape = r"\d[\d.e+-]*", r"\[[\d, ]+\]"
    kind = type(made.student.model).__name__
    (term,) = reference.losses
    wrong = altered(made, task_terms=scaled)
    with pytest.raises(RecipeError) as caught:
        check(wrong, data)
    (line,) = str(caught.value).splitlines()[1:]
    assert line.startswith(f"  the student's loss {term} is ")
    assert f"by {kind}'s own forward pass: the worker does not run this model rightly" in line
    assert "student.model: package.module:function" in line
    # A loss of the recipe's own is in its place.
    check(wrong, data, {"tests.worker.models.tiny_families:sharpness": 1.0})
    with pytest.raises(
        RecipeError,
        match=rf"the student's logits {shape} differ from those of {kind}'s own forward pass {shape} by {number} "
        rf"\(root mean square; the logits' own is {number}\)",
    ):
        check(altered(assembled(name, tmp_path), logits_of=shifted), data)


def test_a_users_adapter_without_a_reference_is_not_compared(tmp_path: Path) -> None:
    made = altered(assembled("gpt2", tmp_path), task_terms=scaled)
    made.adapter.own_forward = lambda model, batch: None  # type: ignore[method-assign]
    check(made, batch("gpt2"))
