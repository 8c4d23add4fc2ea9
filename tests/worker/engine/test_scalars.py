"""Parameters without dimensions train under every ZeRO stage, and keep their shape in the student."""

from __future__ import annotations

from typing import Any

import deepspeed
import pytest
import torch
from torch import Tensor, nn

from worker.engine.process_group import ProcessGroup
from worker.engine.scalars import flatten_scalars, full_names, view_scalars


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.gain = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        assert self.gain.shape == ()
        return self.linear(x) * self.gain  # type: ignore[no-any-return]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.again = self.inner
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).mean() * self.scale.exp()  # type: ignore[no-any-return]


class Wrapper(nn.Module):
    """Reads a parameter of the model itself outside of the model's forward pass, as adapters do."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        loss: Tensor = self.model(x) + self.model.scale.square()
        assert loss.shape == ()
        return loss


def trained(stage: int | None, *, frozen: bool) -> tuple[list[float], list[float]]:
    """Return losses and both scalars after three steps of plain SGD; without DeepSpeed if there is no stage."""
    torch.manual_seed(0)
    model = Model()
    model.scale.requires_grad_(not frozen)
    wrapper = Wrapper(model)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    x, losses = torch.ones(2, 4), []
    if stage is None:
        optimizer = torch.optim.SGD(parameters, lr=0.01)
        for _ in range(3):
            loss = wrapper(x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses, [model.scale.item(), model.inner.gain.item()]
    scalars = flatten_scalars(model)
    assert full_names(scalars) == {"scale", "inner.gain", "again.gain"}
    zero: dict[str, Any] = {"stage": stage, "stage3_param_persistence_threshold": 0}
    config = {"train_micro_batch_size_per_gpu": 2, "zero_allow_untested_optimizer": True, "gradient_clipping": 0.0}
    engine, *_ = deepspeed.initialize(
        model=wrapper,
        optimizer=torch.optim.SGD(parameters, lr=0.01),
        config={**config, "zero_optimization": zero},
        dist_init_required=False,
    )
    if stage == 3:
        deepspeed.zero.register_external_parameter(wrapper, model.scale)
    view_scalars(wrapper, model, scalars)
    for _ in range(3):
        loss = engine(x)
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        return losses, [model.scale.item(), model.inner.gain.item()]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_parameter_without_dimensions_trains_as_without_deepspeed(
    process_group: ProcessGroup, stage: int, frozen: bool
) -> None:
    expected, values = trained(None, frozen=frozen), trained(stage, frozen=frozen)
    assert values[0] == pytest.approx(expected[0], abs=1e-6)
    assert values[1] == pytest.approx(expected[1], abs=1e-6)
    assert (values[1][0] == 2.0) == frozen
