"""The joint layerwise job in torchdistill.

It is a DistillationBox built from a configuration, with forward hooks on the layers of both models, one registered loss
per term, and the loop of torchdistill's examples. The losses are ours, since those of torchdistill for hidden states
have other formulas; the registered classes only look up what the hooks have recorded. On CUDA torchdistill wraps the
student for several ranks itself; on the CPU that is done here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchdistill.core.distillation import get_distillation_box
from torchdistill.core.interfaces.registry import register_forward_proc_func
from torchdistill.losses.registry import register_mid_level_loss

from benchmarks.step_time import handwritten_loops
from benchmarks.step_time.handwritten_loops import Batch, Loop, Pairs, contrastive, to_device
from worker.distill.losses import logit_kl, normalised_mse

IO = dict[str, dict[str, Any]]


@register_forward_proc_func  # type: ignore[untyped-decorator]
def forward_coca(model: Any, sample_batch: Batch, targets: Any = None, supp_dict: Any = None, **_: Any) -> Any:
    """Run open_clip's own forward pass of a CoCa."""
    return model(sample_batch["image"], sample_batch["text"])


@register_mid_level_loss
class LayersLoss(nn.Module):
    """Mean distance between layers, and between other outputs.

    Args:
        pairs: Names of compared layers: (student's, teacher's).
        outputs: Other compared outputs: (module, index among its outputs).
        mask: The mask of the layers: ``none``, ``text`` or ``multimodal``.
    """

    def __init__(self, pairs: list[tuple[str, str]], outputs: list[tuple[str, int]], mask: str, **_: Any) -> None:
        super().__init__()
        self._pairs, self._outputs, self._mask = pairs, outputs, mask

    def forward(self, student: IO, teacher: IO, targets: Batch) -> Tensor:
        """Return the loss; torchdistill calls this."""
        words = targets["text"] != 0
        mask = {"none": None, "text": F.pad(words, (0, 1), value=True), "multimodal": words[:, 1:]}[self._mask]
        distances = [normalised_mse(student[a]["output"], teacher[b]["output"], mask) for a, b in self._pairs]
        for path, index in self._outputs:
            distances.append(normalised_mse(student[path]["output"][index], teacher[path]["output"][index], None))
        return torch.stack(distances).mean()


@register_mid_level_loss
class LogitsLoss(nn.Module):
    """KL divergence of the logits from the teacher's."""

    def __init__(self, temperature: float, **_: Any) -> None:
        super().__init__()
        self._temperature = temperature

    def forward(self, student: IO, teacher: IO, targets: Batch) -> Tensor:
        """Return the loss; torchdistill calls this."""
        ours, theirs = student["text_decoder"]["output"], teacher["text_decoder"]["output"]
        return logit_kl(ours, theirs, targets["text"][:, 1:] != 0, self._temperature)


@register_mid_level_loss
class CaptionLoss(nn.Module):
    """Cross-entropy of the caption."""

    def __init__(self, **_: Any) -> None:
        super().__init__()

    def forward(self, student: IO, teacher: IO, targets: Batch) -> Tensor:
        """Return the loss; torchdistill calls this."""
        logits = student["text_decoder"]["output"]
        return F.cross_entropy(logits.flatten(0, 1), targets["text"][:, 1:].flatten(), ignore_index=0)


@register_mid_level_loss
class ContrastiveLoss(nn.Module):
    """Contrastive loss of images and texts."""

    def __init__(self, scale: Tensor, **_: Any) -> None:
        super().__init__()
        self._scale = scale

    def forward(self, student: IO, teacher: IO, targets: Batch) -> Tensor:
        """Return the loss; torchdistill calls this."""
        image, text = student["visual"]["output"][0], student["text"]["output"][0]
        return contrastive(image, text, self._scale, targets["paired"])


def configuration(pairs: Pairs, scale: Tensor, lr: float) -> dict[str, Any]:
    """Return the configuration that a user of torchdistill writes as YAML."""
    towers = ["visual", "text", "text_decoder"]
    ours, theirs = ([pair[side] for members in pairs.values() for pair in members] for side in (0, 1))

    def term(key: str, weight: float, **kwargs: Any) -> dict[str, Any]:
        return {"criterion": {"key": key, "kwargs": kwargs}, "weight": weight}

    def layers(module: str, outputs: list[tuple[str, int]], mask: str) -> dict[str, Any]:
        return term("LayersLoss", handwritten_loops.LAYERS, pairs=pairs[module], outputs=outputs, mask=mask)

    return {
        "num_epochs": 1,
        "teacher": {
            "forward_proc": "forward_coca", "requires_grad": False, "forward_hook": {"output": [*theirs, *towers]},
        },
        "student": {"forward_proc": "forward_coca", "forward_hook": {"output": [*ours, *towers]}},
        "optimizer": {
            "key": "AdamW",
            "kwargs": {"lr": lr, "betas": (0.9, 0.98), "weight_decay": 0.01},
            "max_grad_norm": handwritten_loops.CLIP,
        },
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {
                "sub_terms": {
                    "image": layers("image", [("visual", 1), ("visual", 0)], "none"),
                    "text": layers("text", [("text", 0)], "text"),
                    "multimodal": layers("multimodal", [], "multimodal"),
                    "logits": term("LogitsLoss", handwritten_loops.LOGITS, temperature=handwritten_loops.TEMPERATURE),
                    "caption": term("CaptionLoss", handwritten_loops.CAPTION),
                    "contrastive": term("ContrastiveLoss", handwritten_loops.CONTRASTIVE, scale=scale),
                }
            },
        },
    }  # fmt: skip


def with_torchdistill(
    student: Any,
    teacher: Any,
    pairs: Pairs,
    batches: Iterator[Batch],
    lr: float,
    device: torch.device,
    dtype: torch.dtype,
) -> Loop:
    """Return torchdistill's loop; half precision is autocast."""
    logging.getLogger("torchdistill").setLevel(logging.ERROR)
    teacher.to(device).eval()
    box = get_distillation_box(
        teacher, student, {}, configuration(pairs, student.logit_scale, lr), device, [], False, 1.0
    )
    box.pre_epoch_process(epoch=0)
    if dist.get_world_size() > 1:
        # Not all outputs of open_clip's forward are in the loss.
        box.student_model = DistributedDataParallel(box.student_model, find_unused_parameters=False)

    def step() -> Tensor:
        batch = to_device(next(batches), device, dtype)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss: Tensor = box.forward_process(batch, batch, None)
        box.post_forward_process(loss=loss)
        return loss.detach()

    return Loop(step, box.optimizer)
