"""Leases over gRPC on a real server: workers of one student wait for a module, and get it when it is free."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1.bandit_pb2_grpc import BanditStub
from tests.bandit_server.run.fleet import LOSSES, fleet_spec, made
from tests.calls import connected, measured, run_summary


@pytest.fixture
def stub(address: str) -> Iterator[BanditStub]:
    with connected(address) as stub:
        yield stub


class FleetWorker:
    """A worker's process in a run with an exchange."""

    def __init__(self, stub: BanditStub, run: str, worker: str, process: str = "p") -> None:
        self.stub = stub
        self.caller = pb.Caller(run=run, worker=worker, process=process)
        info = pb.WorkerInfo(module_losses=LOSSES)
        stub.CreateRun(pb.CreateRunRequest(caller=self.caller, spec=fleet_spec(), info=info))

    def select(self, round: int, wait_seconds: float = 0.0) -> pb.SelectArmResponse:
        """Select the arm of a round."""
        request = pb.SelectArmRequest(caller=self.caller, round=round, wait_seconds=wait_seconds)
        return self.stub.SelectArm(request, timeout=30)

    def report(self, pull: pb.Pull, **fields: object) -> pb.RewardReported:
        """Report a round."""
        versions = [made(base, base.loss * 0.9) for base in pull.base]
        request = pb.ReportRewardRequest(
            caller=self.caller,
            round=pull.round,
            arm=pull.arm,
            chosen_by=pull.chosen_by,
            measurement=measured(0.9),
            made=versions,
            **fields,  # type: ignore[arg-type]
        )
        return self.stub.ReportReward(request, timeout=10).report


def test_a_worker_waits_for_a_module_and_gets_it_when_it_is_free(stub: BanditStub) -> None:
    workers = [FleetWorker(stub, "waiting", name) for name in "abcd"]
    pulls = [worker.select(0).pull for worker in workers[:3]]
    assert len({pull.arm for pull in pulls}) == 3
    told = workers[3].select(0)
    assert told.wait
    assert [pull.worker for pull in told.waits_for] == ["a", "b", "c"]
    asked = threading.Event()

    def ask() -> pb.SelectArmResponse:
        asked.set()
        return workers[3].select(0, wait_seconds=20)

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask)
        asked.wait(5)
        report = workers[1].report(pulls[1])
        got = answer.result(20).pull
    assert (got.arm, got.base[0].version, got.base[0].digest) == (pulls[1].arm, 1, report.made[0].digest)
    modules = {status.newest.module: status for status in run_summary(stub, "waiting").modules}
    status = modules[got.base[0].module]
    assert (status.newest.version, status.newest.worker, status.lease.worker) == (1, "b", "d")


def test_a_new_process_of_a_worker_frees_what_the_old_one_held(stub: BanditStub) -> None:
    workers = [FleetWorker(stub, "restarted", name) for name in "abc"]
    pulls = [worker.select(0).pull for worker in workers]
    FleetWorker(stub, "restarted", "a", "p2")
    other = FleetWorker(stub, "restarted", "d")
    assert other.select(0).pull.arm == pulls[0].arm


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ({"digest": "abc"}, "expected 64 hexadecimal digits of a SHA-256"),
        ({"version": 0}, "expected a number above 0"),
        ({"place": ""}, "has no place; expected that of its file, relative to the exchange"),
        ({"loss": float("nan")}, "report a round whose loss is not finite as DIVERGED"),
    ],
)
def test_versions_that_cannot_be_are_refused(stub: BanditStub, version: dict[str, object], message: str) -> None:
    worker = FleetWorker(stub, "refused", "a")
    pull = worker.select(0).pull
    faulty = made(pull.base[0], 1.0)
    for name, value in version.items():
        setattr(faulty, name, value)
    request = pb.ReportRewardRequest(
        caller=worker.caller,
        round=0,
        arm=pull.arm,
        chosen_by=pull.chosen_by,
        measurement=measured(0.9),
        made=[faulty],
    )
    with pytest.raises(grpc.RpcError, match=message):
        worker.stub.ReportReward(request, timeout=10)
    assert run_summary(stub, "refused").reports == 0


def test_a_worker_that_has_measured_nothing_cannot_join(stub: BanditStub) -> None:
    caller = pb.Caller(run="unmeasured", worker="a", process="p")
    with pytest.raises(grpc.RpcError, match="expected one of each module under spec"):
        stub.CreateRun(pb.CreateRunRequest(caller=caller, spec=fleet_spec()))


def test_another_probe_or_another_start_is_another_spec(stub: BanditStub) -> None:
    FleetWorker(stub, "probes", "a")
    caller = pb.Caller(run="probes", worker="b", process="p")
    info = pb.WorkerInfo(module_losses=LOSSES)
    with pytest.raises(grpc.RpcError, match="run probes exists with another spec: probe is batches, not others"):
        stub.CreateRun(pb.CreateRunRequest(caller=caller, spec=fleet_spec(probe="others"), info=info))
