"""Adapters written for version 0.1 work until version 0.3, with a warning that names what to write instead."""

from collections.abc import Mapping

import pytest
import torch
from torch import nn

from worker.distill.modular import ModularModel
from worker.models import base
from worker.models.base import Adapter, Batch, Boundary, ModuleSpec


def _specs() -> tuple[ModuleSpec, ...]:
    from worker.models.base import Part

    return (Part("eyes", path="eyes", layers="eyes"),)


def _class_attribute() -> Adapter:
    class Own(Adapter):
        parts = _specs()

        def run(self, model: nn.Module, part: str, batch: Batch, boundary: Mapping[str, Boundary]) -> Boundary:
            return {"tokens": model.get_submodule(part)(batch["image"])}

    return Own()


def _instance_attribute() -> Adapter:
    class Own(Adapter):
        def __init__(self) -> None:
            self.parts = _specs()

        run = type(_class_attribute()).run

    return Own()


@pytest.mark.parametrize("build", [_class_attribute, _instance_attribute])
def test_an_adapter_that_defines_parts_works_and_is_warned_about(
    build: object, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = build()  # type: ignore[operator]
    model = nn.ModuleDict({"eyes": nn.Linear(2, 3)})
    outputs = ModularModel(model, adapter, {}).run(["eyes"], {"image": torch.ones(1, 2)})
    assert outputs.boundary["eyes"]["tokens"].shape == (1, 3)
    assert adapter.parts == adapter.modules == _specs()
    sentences = [record.getMessage() for record in caplog.records]
    assert any("Part is now called ModuleSpec; the old name works until version 0.3" in line for line in sentences)
    assert any("Own.parts is now called `modules`; the old name works until version 0.3" in line for line in sentences)


def test_an_adapter_with_todays_names_is_not_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    class Own(Adapter):
        modules = (ModuleSpec("eyes", path="eyes", layers="eyes"),)

    assert Own().modules == Own.modules
    assert not caplog.records
    with pytest.raises(AttributeError, match="no attribute 'Parts'"):
        _ = base.Parts
