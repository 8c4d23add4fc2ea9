"""The scripted worker: real rounds on a real server, without a model."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1.bandit_pb2_grpc import BanditStub
from worker.client.testing import ScriptedWorker, example_spec, measure

RUNS = itertools.count()


@pytest.fixture
def run() -> str:
    return f"scripted-{next(RUNS)}"


@pytest.fixture
def stub(address: str) -> Iterator[BanditStub]:
    with grpc.insecure_channel(address) as channel:
        yield BanditStub(channel)


def test_it_plays_rounds_and_their_scripted_losses_are_rewarded(
    address: str, run: str, tmp_path: Path, stub: BanditStub
) -> None:
    losses = {"good": 0.5, "bad": 0.99}
    spec = example_spec(tuple(losses), policy="round_robin")
    with ScriptedWorker(
        address, run, tmp_path, spec=spec, train=lambda round, arm: measure(1.0, losses[arm])
    ) as worker:
        played = worker.play(4)
        assert worker.next_round == 4
        assert list(worker.played.values()) == played
        assert worker.waited > 0
    assert [one.reported.reward for one in played] == [pytest.approx(1 - losses[one.pull.arm]) for one in played]
    assert stub.GetRun(pb.GetRunRequest(run=run)).run.reports == 4
    assert {one.pull.arm for one in played} == {"good", "bad"}


def test_a_second_one_resumes_from_the_journal(address: str, run: str, tmp_path: Path) -> None:
    with ScriptedWorker(address, run, tmp_path) as first:
        first.play(3)
    with ScriptedWorker(address, run, tmp_path) as second:
        assert second.next_round == 3


def test_it_stops_where_the_run_is_finished(address: str, run: str, tmp_path: Path) -> None:
    with ScriptedWorker(address, run, tmp_path) as worker:
        worker.client.finish()
        assert worker.play(5) == []


def test_it_needs_no_torch() -> None:
    code = "import sys, worker.client.testing; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
