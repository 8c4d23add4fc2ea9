"""The entries of a batch may be anything; only tensors are moved, converted and repeated."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import BatchFeature

from worker.data.entries import describe, map_tensors, repeat_rows


@dataclass
class Box:
    corners: Tensor
    kind: str


class Pair(NamedTuple):
    left: Tensor
    right: None


def double(tensor: Tensor) -> Tensor:
    return tensor * 2


def test_tensors_are_found_in_every_container_and_all_else_is_passed_on() -> None:
    one, note = torch.ones(2), object()
    value = {
        "tensor": one,
        "nested": {"list": [one, "text", None], "tuple": (one, 3)},
        "box": Box(one, "corner"),
        "pair": Pair(one, None),
        "note": note,
        "class": Box,
        "ordered": OrderedDict(a=one),
        "feature": BatchFeature({"pixels": one}),
        "fixed": MappingProxyType({"a": one}),
    }
    mapped = map_tensors(double, value)
    for found in (
        mapped["tensor"], mapped["nested"]["list"][0], mapped["nested"]["tuple"][0], mapped["box"].corners,
        mapped["pair"].left, mapped["ordered"]["a"], mapped["feature"]["pixels"], mapped["fixed"]["a"],
    ):  # fmt: skip
        assert torch.equal(found, one * 2)
    assert mapped["nested"]["list"][1:] == ["text", None]
    assert (mapped["box"].kind, mapped["note"], mapped["class"]) == ("corner", note, Box)
    kinds = [type(mapped[name]) for name in ("pair", "ordered", "feature")]
    assert kinds == [Pair, OrderedDict, BatchFeature]
    assert torch.equal(value["tensor"], torch.ones(2)), "the batch itself is not changed"  # type: ignore[arg-type]


def test_only_entries_with_a_row_each_are_repeated() -> None:
    batch: dict[str, Any] = {
        "text": torch.tensor([[1], [2]]),
        "names": ["a", "b"],
        "packed": torch.arange(5),
        "scalar": torch.tensor(3.0),
        "nested": {"mask": torch.tensor([True, False]), "nothing": None},
        "sizes": [(8, 8), (4, 4)],
        "word": "ab",
    }
    repeated = repeat_rows(batch, rows=2, times=2)
    assert repeated["text"].tolist() == [[1], [1], [2], [2]]
    assert repeated["names"] == ["a", "a", "b", "b"]
    assert repeated["nested"]["mask"].tolist() == [True, True, False, False]
    assert repeated["sizes"] == [(8, 8), (8, 8), (4, 4), (4, 4)]
    assert [repeated[name] is batch[name] for name in ("packed", "scalar", "word")] == [True, True, True]


def test_a_batch_is_described_by_shapes_and_kinds() -> None:
    batch = {"image": torch.ones(2, 3), "names": ["a"], "nested": {"x": None}, "flag": True}
    assert describe(batch) == "image [2, 3], names (list of 1), nested {x (NoneType)}, flag (bool)"
    assert describe({}) == "nothing"
