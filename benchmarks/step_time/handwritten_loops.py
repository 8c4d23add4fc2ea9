"""Layerwise distillation of a CoCa as one would write it by hand, of all modules jointly and of one module alone.

Only the loss functions are our worker's. Loops (a) and (b′) use DeepSpeed's engine, (a′) plain PyTorch. The loop of a
single module has its own engine and optimizer and computes only what the module needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
import torch.nn.functional as F
from open_clip.loss import gather_features
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from worker.distill.losses import logit_kl, normalised_mse

Batch = dict[str, Tensor]
Pairs = dict[str, list[tuple[str, str]]]
MODULES = {"image": "visual", "text": "text", "multimodal": "text_decoder"}
# Loss weights and temperature of the built-in recipe.
CAPTION, CONTRASTIVE, LOGITS, LAYERS, TEMPERATURE = 1.0, 0.1, 1.0, 100.0, 2.0
CLIP = 1.0


class CoCa:
    """A model of open_clip that records the outputs of some of its layers.

    Attributes:
        hidden: The outputs by the layer's name.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str]) -> None:
        self.model: Any = model
        self.hidden: dict[str, Tensor] = {}
        for name in layers:
            model.get_submodule(name).register_forward_hook(self._recorder(name))

    def _recorder(self, name: str) -> Callable[[Any, Any, Tensor], None]:
        def record(_module: Any, _inputs: Any, output: Tensor) -> None:
            self.hidden[name] = output

        return record

    def image(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return latent and tokens."""
        return self.model.visual(batch["image"])  # type: ignore[no-any-return]

    def text(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return latent and tokens, without the last one, which predicts nothing."""
        latent, tokens = self.model.text(batch["text"])
        return latent, tokens[:, : batch["text"].shape[1] - 1]

    def logits(self, image_tokens: Tensor, text_tokens: Tensor) -> Tensor:
        """Return the logits of the tokens after the first."""
        return self.model.text_decoder(image_tokens, text_tokens)  # type: ignore[no-any-return]


class Distillation(nn.Module):
    """The loss of a student. The teacher is not a child module, so that it is never trained.

    Args:
        student: The student.
        teacher: The teacher.
        pairs: Compared layers by module: (student's, teacher's).
        module: The module that is trained; None for all of them jointly.
    """

    def __init__(self, student: CoCa, teacher: CoCa, pairs: Pairs, module: str | None) -> None:
        super().__init__()
        path = MODULES.get(module or "")
        self.trained = student.model if path is None else student.model.get_submodule(path)
        self._models = (student, teacher)
        self._pairs = pairs
        self._loss = {None: self._joint, "image": self._image, "text": self._text, "multimodal": self._decoder}[module]

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss of a batch, a scalar."""
        loss = self._loss(batch)
        for model in self._models:
            model.hidden.clear()
        return loss

    def _joint(self, batch: Batch) -> Tensor:
        student, teacher = self._models
        with torch.no_grad():
            their_latent, their_tokens = teacher.image(batch)
            their_text, their_words = teacher.text(batch)
            their_logits = teacher.logits(their_tokens, their_words)
        latent, tokens = student.image(batch)
        text, words = student.text(batch)
        logits = student.logits(tokens, words)
        return (
            LAYERS * self._match("image", batch, (tokens, their_tokens), (latent, their_latent))
            + LAYERS * self._match("text", batch, (text, their_text))
            + LAYERS * self._match("multimodal", batch)
            + self._answers(logits, their_logits, batch)
            + CONTRASTIVE * contrastive(latent, text, student.model.logit_scale, batch["paired"])
        )

    def _image(self, batch: Batch) -> Tensor:
        student, teacher = self._models
        with torch.no_grad():
            their_latent, their_tokens = teacher.image(batch)
        latent, tokens = student.image(batch)
        return LAYERS * self._match("image", batch, (tokens, their_tokens), (latent, their_latent))

    def _text(self, batch: Batch) -> Tensor:
        student, teacher = self._models
        with torch.no_grad():
            their_text, _ = teacher.text(batch)
        text, _ = student.text(batch)
        return LAYERS * self._match("text", batch, (text, their_text))

    def _decoder(self, batch: Batch) -> Tensor:
        student, teacher = self._models
        with torch.no_grad():
            tokens, words = teacher.image(batch)[1], teacher.text(batch)[1]
            their_logits = teacher.logits(tokens, words)
        logits = student.logits(tokens, words)
        return LAYERS * self._match("multimodal", batch) + self._answers(logits, their_logits, batch)

    def _match(self, module: str, batch: Batch, *others: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean distance over a module's layers and other outputs."""
        student, teacher = self._models
        words = batch["text"] != 0
        masks = {"image": None, "text": F.pad(words, (0, 1), value=True), "multimodal": words[:, 1:]}
        distances = [
            normalised_mse(student.hidden[a], teacher.hidden[b], masks[module]) for a, b in self._pairs[module]
        ]
        distances += [normalised_mse(ours, theirs, None) for ours, theirs in others]
        return torch.stack(distances).mean()

    def _answers(self, logits: Tensor, theirs: Tensor, batch: Batch) -> Tensor:
        """Return the loss of the logits against the teacher and against the text."""
        words = batch["text"][:, 1:]
        caption = F.cross_entropy(logits.float().flatten(0, 1), words.flatten(), ignore_index=0)
        return LOGITS * logit_kl(logits, theirs, words != 0, TEMPERATURE) + CAPTION * caption


def contrastive(image: Tensor, text: Tensor, logit_scale: Tensor, paired: Tensor) -> Tensor:
    """Return a rank's share of the contrastive loss over all ranks' rows whose text describes their image alone."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
    images, texts, all_paired = image, text, paired
    if ranks > 1:
        images, texts = gather_features(image, text, local_loss=True, gather_with_grad=True, world_size=ranks)
        marks = [torch.empty_like(paired) for _ in range(ranks)]
        dist.all_gather(marks, paired)
        all_paired = torch.cat(marks)
    scale = logit_scale.detach().float().exp()
    target = rank * len(paired) + torch.arange(len(paired), device=paired.device)
    columns = torch.arange(len(all_paired), device=paired.device)
    impossible = ~all_paired[None, :] & (columns[None, :] != target[:, None])
    both = F.cross_entropy((scale * image @ texts.T).masked_fill(impossible, -1e4), target, reduction="none")
    both = both + F.cross_entropy((scale * text @ images.T).masked_fill(impossible, -1e4), target, reduction="none")
    return (both * paired).sum() * ranks / (2 * all_paired.sum().clamp(min=1))


@dataclass(frozen=True)
class Loop:
    """A training loop.

    Attributes:
        step: Takes one optimizer step on the next batch and returns its loss, a scalar.
        optimizer: The optimizer.
    """

    step: Callable[[], Tensor]
    optimizer: torch.optim.Optimizer


def adamw(trained: nn.Module, lr: float) -> torch.optim.AdamW:
    """Return an optimizer like the worker's: matrices with weight decay, vectors without."""
    parameters = [p for p in trained.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.01},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, betas=(0.9, 0.98), fused=True)


def to_device(batch: Batch, device: torch.device, dtype: torch.dtype) -> Batch:
    """Return the batch on a device, floating tensors in this dtype."""
    moved = {name: tensor.to(device) for name, tensor in batch.items()}
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in moved.items()}


def with_deepspeed(
    loop: Distillation,
    batches: Iterator[Batch],
    lr: float,
    micro_batch: int,
    config: Mapping[str, Any],
    dtype: torch.dtype,
) -> Loop:
    """Return a loop around DeepSpeed's engine, whose `config` makes it compute in `dtype`."""
    optimizer = adamw(loop.trained, lr)
    engine, _, _, _ = deepspeed.initialize(
        model=loop,
        optimizer=optimizer,
        config={
            "zero_allow_untested_optimizer": True,
            "gradient_clipping": CLIP,
            "steps_per_print": 10**9,
            **config,
            "train_micro_batch_size_per_gpu": micro_batch,
        },
        dist_init_required=False,
    )
    engine.train()

    def step() -> Tensor:
        loss: Tensor = engine(to_device(next(batches), engine.device, dtype))
        engine.backward(loss)
        engine.step()
        return loss.detach()

    return Loop(step, optimizer)


def with_pytorch(
    loop: Distillation, batches: Iterator[Batch], lr: float, device: torch.device, dtype: torch.dtype
) -> Loop:
    """Return a loop in plain PyTorch; half precision is autocast."""
    optimizer = adamw(loop.trained, lr)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    wrapped: nn.Module = loop.to(device).train()
    if dist.get_world_size() > 1:
        wrapped = DistributedDataParallel(loop)

    def step() -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss: Tensor = wrapped(to_device(next(batches), device, dtype))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return Loop(step, optimizer)
