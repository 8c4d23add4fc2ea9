"""Versions of modules in an exchange: whole or not there, checked when they are read, never written over."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest
import torch

from protos.optima.v1 import bandit_pb2 as pb
from worker.errors import ExchangeError
from worker.exchange.exchange import Exchange
from worker.exchange.module_state import ModuleState, digest

START = pb.ModuleVersion(module="image", digest=digest(b"start"))


def state(seed: int = 0, steps: int = 3) -> ModuleState:
    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.randn(2, 3, generator=generator) for name in ("model.b", "model.a")}
    moments = {moment: {name: torch.randn(2, 3, generator=generator) for name in weights} for moment in
               ("exp_avg", "exp_avg_sq")}  # fmt: skip
    return ModuleState(weights, {"model.mean": torch.ones(3)}, moments if steps else {}, rounds=2, steps=steps)


def equal(one: ModuleState, other: ModuleState) -> bool:
    return one.to_bytes() == other.to_bytes()


@pytest.fixture(params=["directory", "memory"])
def exchange(request: pytest.FixtureRequest, tmp_path: Path) -> Exchange:
    """A directory, and a store in which files appear once they are written."""
    url = str(tmp_path / "shared") if request.param == "directory" else f"memory://{tmp_path.name}"
    return Exchange(url, "run")


def test_a_version_comes_back_as_it_was(exchange: Exchange) -> None:
    exchange.check()
    version = exchange.publish(START, state(), loss=0.5)
    assert (version.module, version.version, version.base) == ("image", 1, START.digest)
    assert (version.rounds, version.steps, version.loss) == (2, 3, 0.5)
    assert equal(exchange.fetch(version), state())
    assert exchange.places("image") == [version.place]
    untrained = exchange.publish(version, state(1, steps=0), loss=0.4)
    assert (untrained.version, exchange.fetch(untrained).moments) == (2, {})
    assert exchange.places("image") == [version.place, untrained.place]


def test_the_bytes_depend_on_the_content_alone() -> None:
    first = state()
    weights, moments = (dict(sorted(part.items(), reverse=True)) for part in (first.weights, first.moments))
    shuffled = ModuleState(weights, first.buffers, moments, 2, 3)  # type: ignore[arg-type]
    assert first.to_bytes() == shuffled.to_bytes()
    assert first.to_bytes() != state(1).to_bytes()


def test_two_versions_of_one_number_do_not_meet(exchange: Exchange) -> None:
    one, other = (exchange.publish(START, state(seed), loss=1.0) for seed in (1, 2))
    assert one.version == other.version
    assert equal(exchange.fetch(one), state(1))
    assert equal(exchange.fetch(other), state(2))


def test_a_damaged_or_missing_version_is_not_used(tmp_path: Path) -> None:
    exchange = Exchange(str(tmp_path), "run")
    version = exchange.publish(START, state(), loss=1.0)
    file = tmp_path / version.place
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(ExchangeError, match=r"version 1 of image .* is damaged: its SHA-256 is not "):
        exchange.fetch(version)
    exchange.remove(version.place)
    with pytest.raises(ExchangeError, match=r"version 1 of image .* cannot be read: "):
        exchange.fetch(version)
    exchange.remove(version.place)
    other = b"not a module"
    (tmp_path / "other").write_bytes(other)
    with pytest.raises(ExchangeError, match="cannot be used: it is no version of a module"):
        exchange.fetch(pb.ModuleVersion(module="image", version=1, digest=digest(other), place="other"))


def test_an_exchange_that_cannot_be_used_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ExchangeError, match=r"the exchange .*file cannot be used: "):
        Exchange(str(tmp_path / "file"), "run").check()
    with pytest.raises(ExchangeError, match="the exchange nothing://x cannot be opened: "):
        Exchange("nothing://x", "run")


def test_other_file_systems_show_a_file_once_it_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    files = fsspec.filesystem("memory")
    monkeypatch.setattr("worker.exchange.exchange._WHOLE_PUTS", frozenset())
    exchange = Exchange("memory://plain", "run")
    version = exchange.publish(START, state(), loss=1.0)
    assert equal(exchange.fetch(version), state())
    assert [path for path in files.find("/plain") if not path.endswith(".safetensors")] == []
