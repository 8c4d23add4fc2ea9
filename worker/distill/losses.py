"""Losses of layers and logits. Each reduces in fp32 to a scalar; all but `affinity` are pure functions of tensors."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.models.task_losses import IMPOSSIBLE, Similarities

LayerLoss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(student, teacher, mask) -> scalar; see :func:`normalised_mse`."""
LogitLoss = Callable[[Tensor, Tensor, Tensor | None, float], Tensor]
"""(student, teacher, mask, temperature) -> scalar; see :func:`logit_kl`."""


def normalised_mse(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """Return the squared error divided by the teacher's energy, over the positions that count.

    It is 0 for a perfect match and 1 for a student whose outputs are 0, whatever the layer's scale.

    Args:
        student: [B, …, width].
        teacher: The same shape.
        mask: [B, …] bool, or None for all positions.
    """
    student, teacher = _masked(student, teacher, mask)
    energy = teacher.square().sum().clamp(min=torch.finfo(torch.float32).tiny)
    return (student - teacher).square().sum() / energy


def root_mean_square(tensor: Tensor, mask: Tensor | None) -> float:
    """Return the root mean square of a tensor over the positions that count; shapes as in :func:`normalised_mse`."""
    tensor, _ = _masked(tensor, tensor, mask)
    count = tensor.numel() if mask is None else int(mask.expand(tensor.shape[:-1]).sum()) * tensor.shape[-1]
    return float((tensor.double().square().sum() / max(1, count)).sqrt())


def cosine(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """Return 1 - cosine similarity of each position's vectors, averaged over the positions that count: 0 … 2.

    Shapes are those of :func:`normalised_mse`.
    """
    distance = 1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1)
    if mask is None:
        return distance.mean()
    return (distance * mask).sum() / mask.sum().clamp(min=1)


def _masked(student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    student, teacher = student.float(), teacher.float()
    if mask is None:
        return student, teacher
    # Multiply rather than index by the mask, so that shapes do not depend on the data.
    weight = mask.unsqueeze(-1).float()
    return student * weight, teacher * weight


def logit_kl(student: Tensor, teacher: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
    """Return T² · KL(teacher ‖ student) of the softened class distributions, averaged over the positions that count.

    Hinton et al. 2015, arXiv 1503.02531, §2: T² keeps the gradient's size independent of the temperature.

    Args:
        student: Logits [B, positions, classes].
        teacher: The same shape.
        mask: [B, positions] bool, or None for all positions.
        temperature: T > 0.
    """
    log_student = F.log_softmax(student.float() / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher.float() / temperature, dim=-1)
    divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(-1)
    if mask is None:
        return temperature**2 * divergence.mean()
    return temperature**2 * (divergence * mask).sum() / mask.sum().clamp(min=1)


def affinity(
    student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], paired: Tensor | None, temperature: float
) -> Tensor:
    """Return T² · KL(teacher ‖ student) of the softened affinities of image and text, in both directions.

    The affinity of an image to a text is the softmax of its similarities with the texts of all ranks, and in the other
    direction likewise: TinyCLIP's affinity mimicking (Wu et al. 2023, arXiv 2309.12314, §3.1), which has the
    cross-entropy at T = 1 in place of the KL. The gradient is the same, but the KL is 0 for a perfect match. A bias of
    the similarities has no effect. The widths of student and teacher may differ.

    Args:
        student: Its embeddings, see `worker.models.base.Adapter.embeddings_of`.
        teacher: Those of the teacher on the same rows.
        paired: [B] bool, the rows that count as rows and as candidates; None for all.
        temperature: T > 0.

    Returns:
        This rank's share: the mean of the ranks' shares is the mean over the paired rows of all ranks.
    """
    ours, theirs = (
        Similarities.from_embeddings(each["image"], each["text"], each["scale"] / temperature, paired)
        for each in (student, teacher)
    )
    divergences = [
        F.kl_div(
            F.log_softmax(own.masked_fill(~ours.counts, IMPOSSIBLE), dim=-1),
            F.log_softmax(target.masked_fill(~ours.counts, IMPOSSIBLE), dim=-1),
            reduction="none",
            log_target=True,
        ).sum(-1)
        for own, target in ((ours.by_image, theirs.by_image), (ours.by_text, theirs.by_text))
    ]
    return temperature**2 * ours.mean(torch.stack(divergences).mean(0))


def common_classes(student: Tensor, teacher: Tensor, classes: int | None) -> tuple[Tensor, Tensor]:
    """Return the logits of the first classes: so many, or by default those that both have.

    A vocabulary may be padded to a size that suits the hardware; the classes after the common ones are then no tokens.
    Losses of logits begin with a softmax, which renormalises what is left.

    Args:
        student: Logits [B, …, classes].
        teacher: The same, with more or fewer classes.
        classes: The number of classes to compare.
    """
    count = classes or min(student.shape[-1], teacher.shape[-1])
    return student[..., :count], teacher[..., :count]


LAYER_LOSSES: dict[str, LayerLoss] = {"mse": normalised_mse, "cosine": cosine}
LOGIT_LOSSES: dict[str, LogitLoss] = {"kl": logit_kl}
