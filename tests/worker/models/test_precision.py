"""In a model that computes in bf16, constants keep the precision that they were computed in."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from worker.distill.modular import ModularModel
from worker.distill.objective import LossWeights, Objective
from worker.distill.plan import Planner
from worker.distill.student import Student
from worker.distill.teacher import Placement, Teacher
from worker.engine.engine import Engine
from worker.engine.optimizer import OptimizerRecipe
from worker.engine.process_group import ProcessGroup
from worker.engine.sharding import shard
from worker.models.hf.adapters import find_adapter
from worker.models.precision import exact_buffers, to_dtype

TOKENS = 2048
LATE = 256
"""The last positions, at which rounded rotary frequencies are off by whole radians."""
CONFIGS: dict[str, dict[str, Any]] = {
    "bf16": {"bf16": {"enabled": True}},
    "autocast": {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}},
}


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=TOKENS,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            # Attention and logits that depend on the positions, as those of a trained model do.
            nn.init.normal_(parameter, std=0.15)
    model.train(False)
    return model


def tokens() -> dict[str, Tensor]:
    ids = torch.randint(0, 64, (1, TOKENS), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def late_divergence(logits: Tensor, exact: Tensor) -> float:
    """Return the KL divergence from the fp32 model's distribution at the last positions."""
    # The adapter leaves out the last position, which has no next token.
    ours, theirs = (F.log_softmax(one[:, TOKENS - LATE : TOKENS - 1].float(), -1) for one in (logits, exact))
    return float(F.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1).mean())


@pytest.fixture(scope="module")
def exact() -> Tensor:
    with torch.no_grad():
        logits: Tensor = llama()(**tokens()).logits
    return logits


def rounded_wholly() -> Tensor:
    with torch.no_grad():
        model: Any = llama()
        logits: Tensor = model.to(torch.bfloat16)(**tokens()).logits
    return logits


@pytest.mark.parametrize("placement", [None, partial(shard, offload=False)], ids=["whole", "sharded"])
def test_a_teacher_in_bf16_agrees_with_fp32_at_late_positions(
    exact: Tensor, process_group: ProcessGroup, placement: Placement | None
) -> None:
    model = llama()
    modular = ModularModel(model, find_adapter(model), {})
    teacher = Teacher(modular, process_group.device, torch.bfloat16, placement=placement)
    logits = teacher.run(teacher.modules, tokens()).logits
    assert logits is not None
    assert logits.dtype == torch.bfloat16
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert late_divergence(logits, exact) < 0.1 * late_divergence(rounded_wholly(), exact)


# DeepSpeed's autocast is for stage 0.
@pytest.mark.parametrize(("kind", "stage"), [*((kind, 0) for kind in CONFIGS), ("bf16", 3)])
def test_a_student_in_bf16_agrees_with_fp32_at_late_positions(
    exact: Tensor, process_group: ProcessGroup, kind: str, stage: int
) -> None:
    model = llama()
    adapter = find_adapter(model)
    modular = ModularModel(model, adapter, {})
    student = Student(modular, Objective(adapter, {module.name: [] for module in adapter.modules}, LossWeights()))
    owned: dict[str, list[str]] = {module.name: [] for module in adapter.modules}
    owned[adapter.modules[0].name] = [name for name, _ in student.named_parameters()]
    config = {**CONFIGS[kind], "zero_optimization": {"stage": stage}}
    engine = Engine(student, owned, OptimizerRecipe(), config, micro_batch=1)
    plan = Planner(adapter.modules, adapter.logits[0] if adapter.logits else None, "active").look(list(owned))
    logits = engine.run(tokens(), plan, {}).logits
    assert logits is not None
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert late_divergence(logits, exact) < 0.1 * late_divergence(rounded_wholly(), exact)


class Positions(nn.Module):
    """Adds a table in fp32 to its input, beside a mask and statistics."""

    table: Tensor
    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(24.0).view(3, 8).sin(), persistent=False)
        self.register_buffer("mask", torch.full((3, 3), -1e9).triu(1), persistent=False)
        self.first, self.norm, self.last = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 8)
        with torch.no_grad():
            self.norm.running_mean.fill_(0.1)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x) + self.table
        x = torch.softmax(x @ x.mT + self.mask.to(x.dtype), -1) @ x
        out: Tensor = self.last(self.norm(x.flatten(0, 1)))
        return out


def test_a_table_stays_in_fp32_and_a_mask_and_statistics_follow_the_weights() -> None:
    model = Positions().eval()
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    expected = model(x)
    assert [name for _, name in exact_buffers(model, torch.bfloat16)] == ["table"]
    assert list(exact_buffers(model, torch.float32)) == []
    whole = copy.deepcopy(model)
    to_dtype(model, torch.bfloat16)
    kinds = {name: buffer.dtype for name, buffer in model.named_buffers() if buffer.is_floating_point()}
    assert kinds == {
        "table": torch.float32, "mask": torch.bfloat16,
        "norm.running_mean": torch.bfloat16, "norm.running_var": torch.bfloat16,
    }  # fmt: skip
    assert torch.equal(model.table, whole.table)
    out = model(x.to(torch.bfloat16))
    assert out.dtype == torch.bfloat16
    assert (out.float() - expected).abs().max() < 0.05
