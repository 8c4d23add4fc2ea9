"""Only active groups are updated; learning rates follow each module's own warm-up and the job's decay."""

import torch
from torch import nn

from worker.engine.optimizer import OptimizerRecipe, Schedule, activate, create_optimizer, parameter_groups

OWNED = {"a": ("a.weight", "a.bias"), "b": ("b.weight", "b.bias")}


def model() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})


def test_inactive_groups_keep_weights_and_moments_although_they_have_gradients() -> None:
    net = model()
    optimizer = create_optimizer(parameter_groups(net, OWNED, weight_decay=0.1), OptimizerRecipe())
    for active in (["a", "b"], ["a"]):
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        moments = {p: optimizer.state[p]["exp_avg"].clone() for p in net["b"].parameters() if p in optimizer.state}
        activate(optimizer, active)
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        moved = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
        assert moved == {name for module in active for name in OWNED[module]}
        if "b" not in active:
            assert all(torch.equal(optimizer.state[p]["exp_avg"], before) for p, before in moments.items())
            assert len(moments) == 2


def test_vectors_have_no_weight_decay() -> None:
    groups = parameter_groups(model(), OWNED, weight_decay=0.1)
    decays = {(group["module"], group["params"][0].ndim): group["weight_decay"] for group in groups}
    assert decays == {("a", 2): 0.1, ("a", 1): 0.0, ("b", 2): 0.1, ("b", 1): 0.0}


def test_warm_up_counts_a_modules_own_steps_and_decay_the_jobs() -> None:
    schedule = Schedule(OptimizerRecipe(lr=1.0, warmup_steps=4, final=0.0), total_steps=100)
    for _ in range(50):
        schedule.advance(["a"])
    half = 0.5
    assert abs(schedule.rate("a") - half) < 1e-9
    assert abs(schedule.rate("b") - half / 4) < 1e-9


def test_without_an_end_the_rate_does_not_decay() -> None:
    schedule = Schedule(OptimizerRecipe(lr=1.0, warmup_steps=0), total_steps=0)
    for _ in range(1000):
        schedule.advance(["a"])
    assert schedule.rate("a") == 1.0
