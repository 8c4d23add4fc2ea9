"""The joint layerwise job in torchdistill's own terms: a DistillationBox made from a configuration, with forward hooks
on the layers of both models, one registered loss a term, and the loop of its examples.

Its losses are ours: every one of torchdistill's for hidden states is another formula. The registered classes only look
up what the hooks have kept. On CUDA it wraps the student for several ranks by itself, on the CPU it does not: there it
is done here.
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

from benchmarks.step_time import handwritten_loops as step_loops
from benchmarks.step_time.handwritten_loops import Batch, Loop, Pairs, contrastive, there
from worker.distill.losses import logit_kl, normalised_mse

IO = dict[str, dict[str, Any]]


@register_forward_proc_func
def forward_coca(model: Any, sample_batch: Batch, targets: Any = None, supp_dict: Any = None, **_: Any) -> Any:
    """open_clip's own forward pass of a CoCa."""
    return model(sample_batch["image"], sample_batch["text"])


@register_mid_level_loss
class LayersLoss(nn.Module):
    """Mean distance between layers, and between other tensors: (module, index in what it puts out)."""

    def __init__(self, pairs: list[tuple[str, str]], outputs: list[tuple[str, int]], mask: str, **_: Any) -> None:
        super().__init__()
        self._pairs, self._outputs, self._mask = pairs, outputs, mask

    def forward(self, student: IO, teacher: IO, targets: Batch) -> Tensor:
        """As torchdistill calls it."""
        words = targets["text"] != 0
        mask = {"none": None, "text": F.pad(words, (0, 1), value=True), "multimodal": words[:, 1:]}[self._mask]
        found = [normalised_mse(student[a]["output"], teacher[b]["output"], mask) for a, b in self._pairs]
        for path, index in self._outputs:
            found.append(normalised_mse(student[path]["output"][index], teacher[path]["output"][index], None))
        return torch.stack(found).mean()


@register_mid_level_loss
class LogitsLoss(nn.Module):
    """What is said, against the teacher."""

    def __init__(self, temperature: float, **_: Any) -> None:
        super().__init__()
        self._temperature = temperature

    def forward(self, student: IO, teacher: IO, targets: Batch) -> Tensor:
        """As torchdistill calls it."""
        ours, theirs = student["text_decoder"]["output"], teacher["text_decoder"]["output"]
        return logit_kl(ours, theirs, targets["text"][:, 1:] != 0, self._temperature)


@register_mid_level_loss
class CaptionLoss(nn.Module):
    """What is said, against the text."""

    def __init__(self, **_: Any) -> None:
        super().__init__()

    def forward(self, student: IO, teacher: IO, targets: Batch) -> Tensor:
        """As torchdistill calls it."""
        logits = student["text_decoder"]["output"]
        return F.cross_entropy(logits.flatten(0, 1), targets["text"][:, 1:].flatten(), ignore_index=0)


@register_mid_level_loss
class ContrastiveLoss(nn.Module):
    """Images against texts."""

    def __init__(self, scale: Tensor, **_: Any) -> None:
        super().__init__()
        self._scale = scale

    def forward(self, student: IO, teacher: IO, targets: Batch) -> Tensor:
        """As torchdistill calls it."""
        image, text = student["visual"]["output"][0], student["text"]["output"][0]
        return contrastive(image, text, self._scale, targets["paired"])


def configuration(pairs: Pairs, scale: Tensor, lr: float) -> dict[str, Any]:
    """What its users write as YAML."""
    towers = ["visual", "text", "text_decoder"]
    ours, theirs = ([pair[side] for members in pairs.values() for pair in members] for side in (0, 1))

    def term(key: str, weight: float, **kwargs: Any) -> dict[str, Any]:
        return {"criterion": {"key": key, "kwargs": kwargs}, "weight": weight}

    def layers(module: str, outputs: list[tuple[str, int]], mask: str) -> dict[str, Any]:
        return term("LayersLoss", step_loops.LAYERS, pairs=pairs[module], outputs=outputs, mask=mask)

    return {
        "num_epochs": 1,
        "teacher": {
            "forward_proc": "forward_coca", "requires_grad": False, "forward_hook": {"output": [*theirs, *towers]},
        },
        "student": {"forward_proc": "forward_coca", "forward_hook": {"output": [*ours, *towers]}},
        "optimizer": {
            "key": "AdamW",
            "kwargs": {"lr": lr, "betas": (0.9, 0.98), "weight_decay": 0.01},
            "max_grad_norm": step_loops.CLIP,
        },
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {
                "sub_terms": {
                    "image": layers("image", [("visual", 1), ("visual", 0)], "none"),
                    "text": layers("text", [("text", 0)], "text"),
                    "multimodal": layers("multimodal", [], "multimodal"),
                    "logits": term("LogitsLoss", step_loops.LOGITS, temperature=step_loops.TEMPERATURE),
                    "caption": term("CaptionLoss", step_loops.CAPTION),
                    "contrastive": term("ContrastiveLoss", step_loops.CONTRASTIVE, scale=scale),
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
    """Its loop; in half precision by autocast."""
    logging.getLogger("torchdistill").setLevel(logging.ERROR)
    teacher.to(device).eval()
    box = get_distillation_box(
        teacher, student, {}, configuration(pairs, student.logit_scale, lr), device, [], False, 1.0
    )
    box.pre_epoch_process(epoch=0)
    if dist.get_world_size() > 1:
        # Of what open_clip's forward puts out, not everything is in the loss.
        box.student_model = DistributedDataParallel(box.student_model, find_unused_parameters=False)

    def step() -> Tensor:
        batch = there(next(batches), device, dtype)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss: Tensor = box.forward_process(batch, batch, None)
        box.post_forward_process(loss=loss)
        return loss.detach()

    return Loop(step, box.optimizer)
