"""Checks of what is compared token by token: logits over two vocabularies, and texts in two encodings."""

from __future__ import annotations

import torch
from torch import Tensor

from worker.distill.modular import Outputs
from worker.distill.objective import Objective
from worker.models.base import Batch
from worker.setup.models import Models

TEXTS = ("text", "input_ids", "attention_mask")
"""Entries of a batch that are texts, or go with them."""


def vocabulary_fault(student: Outputs, teacher: Outputs, objective: Objective | None, vocab_size: int) -> str:
    """Return a sentence if the logits cannot be compared; empty if they can.

    A vocabulary is often padded to a multiple of 64, so one of two models with the same tokenizer may have more classes
    than the other. Those that both have are compared, provided that no token of the data is outside of them.

    Args:
        student: The student's outputs on a batch.
        teacher: The teacher's.
        objective: The objective; None counts as one that compares logits.
        vocab_size: The number of tokens that the data have; 0 if that is not known.
    """
    if student.logits is None or teacher.logits is None or (objective is not None and not objective.compares_logits):
        return ""
    ours, theirs = student.logits.shape, teacher.logits.shape
    common = min(ours[-1], theirs[-1])
    classes = None if objective is None else objective.classes
    if ours[:-1] == theirs[:-1]:
        of_tokens = len(ours) == 3 and 0 < vocab_size <= common
        if ours == theirs or of_tokens if classes is None else classes <= common:
            return ""
    sentence = f"the student's logits are {list(ours)} and the teacher's {list(theirs)}"
    if ours[:-1] != theirs[:-1]:
        return f"{sentence}; only the last dimension, the classes, may differ"
    if classes is not None:
        return f"{sentence}, so they do not have the {classes} classes of loss.classes in common; set at most {common}"
    data = f", and the data's vocab_size is {vocab_size}" if vocab_size else ""
    return (
        f"{sentence}{data}, so the classes after {common} may be more than padding; if the first {common} mean the "
        f"same for both, set loss.classes: {common}, or else loss.logits: 0"
    )


def with_other_texts(batch: Batch) -> Batch:
    """Return the batch with other texts: the same ones, back to front."""
    return {name: entry.flip(-1) if name in TEXTS else entry for name, entry in batch.items()}


def text_fault(
    models: Models,
    student: Outputs,
    other_texts: Outputs,
    objective: Objective | None,
    *,
    forced: bool,
    difference: str,
) -> str:
    """Return a sentence if texts are compared position by position although both models encode them differently.

    An output depends on the text if it changes with it. It has positions if it has three dimensions: embeddings of
    texts, and CLIP's similarities, have none, and may be compared.

    Args:
        models: Both models.
        student: The student's outputs on a batch.
        other_texts: Its outputs on the same batch `with_other_texts`.
        objective: The objective; None counts as one that compares everything.
        forced: Whether the student's modules are fed the teacher's boundary tensors.
        difference: A sentence that says how the encodings differ.
    """

    def depends(before: Tensor, after: Tensor) -> bool:
        return before.ndim > 2 and not torch.equal(before, after)

    matched = {module.name: module.matched for module in models.adapter.modules}
    compared = [
        module
        for module, pairs in models.pairs.items()
        if (objective is None or objective.weight(f"layers/{module}"))
        and (
            any(depends(student.hidden[ours], other_texts.hidden[ours]) for ours, _ in pairs)
            or any(depends(student.boundary[module][n], other_texts.boundary[module][n]) for n in matched[module])
        )
    ]
    remedies = [f"loss.layers: {{{', '.join(f'{module}: 0' for module in compared)}}}"] if compared else []
    if any(set(modules) <= set(compared) for modules in models.arms.values()):
        remedies.append(f"arms without {', '.join(compared)}")
    compares_logits = objective is None or objective.compares_logits
    if compares_logits and student.logits is not None and other_texts.logits is not None:
        remedies += ["loss.logits: 0"] if depends(student.logits, other_texts.logits) else []
    read = {name for module in models.adapter.modules for name in module.inputs or ()} if forced else set()
    if any(
        depends(tensor, other_texts.boundary[module][name])
        for module in read
        for name, tensor in student.boundary[module].items()
    ):
        remedies.append("train: active")
    if not remedies:
        return ""
    return (
        f"teacher and student encode texts differently ({difference}), so nothing can be compared token by token; use "
        f"a student with the teacher's tokenizer and context length, or set {' and '.join(remedies)}"
    )
