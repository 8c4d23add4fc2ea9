"""A check of an adapter before training: are its logits and losses those of the model's own forward pass?"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from worker.distill.modular import ModularModel, Outputs
from worker.distill.objective import Objective
from worker.models.base import Batch

TOLERANCE = 1e-4
"""The largest relative difference that counts as none. Other kernels for the same sums differ by about 1e-6 in fp32,
and by up to 1e-5 behind many layers; a wrong mask, shift, scale or target by far more."""
NOTHING = 1e-5
"""The largest absolute difference of two losses that counts as none: a contrastive loss of one row is 0."""
MASKED = 1e30
"""Logits at or beyond this size are those of classes that a model excludes."""


def own_forward_faults(
    modular: ModularModel, outputs: Outputs, batch: Batch, objective: Objective, role: str
) -> Iterator[str]:
    """Yield a sentence for each difference between a model's adapter and its own forward pass, in eval mode.

    Compared are the logits, and those of the family's task terms that are in the loss; not a recipe's own functions.
    An adapter without a reference is not compared.

    Args:
        modular: The model with its adapter, in fp32, on the CPU.
        outputs: Those of all modules on the batch, by the adapter, in eval mode.
        batch: A few rows.
        objective: It says which task terms are in the loss.
        role: ``student`` or ``teacher``.
    """
    model, adapter, batch = modular.model, modular.adapter, modular.entries(batch)
    name = type(model).__name__
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            own = adapter.own_forward(model, batch)
            terms = adapter.task_terms(model, batch, outputs.boundary)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        yield f"the own forward pass of the {role}'s {name} fails on the data's batches: {error}"
        return
    finally:
        model.train(training)
    if own is None:
        return
    instead = (
        "the worker does not run this model rightly; load it by a factory of your own that returns the model, "
        f"{role}.model: package.module:function, which is then trained by its own forward pass"
    )
    if own.logits is not None and outputs.logits is not None:
        difference, size = _distance(outputs.logits, own.logits, adapter.logits_mask(batch))
        if not difference <= TOLERANCE * size:
            yield (
                f"the {role}'s logits {list(outputs.logits.shape)} differ from those of {name}'s own forward pass "
                f"{list(own.logits.shape)} by {difference:.3g} (root mean square; the logits' own is {size:.3g}): "
                f"{instead}"
            )
    for term, reference in own.losses.items():
        # Without any target the mean of a library's loss is NaN.
        if not objective.takes(term) or term not in terms or not torch.isfinite(reference):
            continue
        ours, theirs = float(terms[term]), float(reference)
        if not abs(ours - theirs) <= NOTHING + TOLERANCE * abs(theirs):
            yield (
                f"the {role}'s loss {term} is {ours:.6g}, but {theirs:.6g} by {name}'s own forward pass: {instead}; or "
                "name a loss of your own under loss.task, package.module:function of (logits, batch)"
            )


def _distance(ours: Tensor, theirs: Tensor, mask: Tensor | None) -> tuple[float, float]:
    """Return the root mean squares of the difference and of the reference, over the positions that count."""
    ours, theirs = ours.double(), theirs.double()
    if ours.shape != theirs.shape:
        return float("inf"), float(theirs.square().mean().sqrt())
    if mask is not None:
        ours, theirs = ours[mask.bool()], theirs[mask.bool()]
    alike = ours == theirs
    excluded = alike & (theirs.abs() >= MASKED)
    count = max(1, int((~excluded).sum()))
    difference, size = (ours - theirs).masked_fill(alike, 0.0), theirs.masked_fill(excluded, 0.0)
    return float((difference.square().sum() / count).sqrt()), float((size.square().sum() / count).sqrt())
