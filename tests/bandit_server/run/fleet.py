"""A run whose workers train one student: commands with module versions, as workers with an exchange send them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from bandit_server.run import lifecycle, rounds
from protos.optima.v1 import bandit_pb2 as pb
from tests.bandit_server.run.play import ARMS, POLICY, Play, measured, spec

MODULES = tuple(f"{arm}.tower" for arm in ARMS)
LOSSES = dict(zip(MODULES, (4.0, 2.0, 2.0), strict=True))
DIED = ()
"""No other worker is alive."""


def digest(text: str) -> str:
    """Return the SHA-256 of a file with this content."""
    return hashlib.sha256(text.encode()).hexdigest()


def fleet_spec(**fields: object) -> pb.RunSpec:
    """Return the spec of a run with an exchange."""
    start = {module: digest(module) for module in MODULES}
    return spec(**{"exchange": True, "start": start, "probe": "batches", "rounds": 100, **fields})  # type: ignore[arg-type]


def made(base: pb.ModuleVersion, loss: float, content: str = "") -> pb.ModuleVersion:
    """Return the version that a round makes of another one."""
    number = base.version + 1
    return pb.ModuleVersion(
        module=base.module,
        version=number,
        digest=digest(f"{base.digest}{content}"),
        base=base.digest,
        size=1000,
        place=f"{base.module}/{number}",
        loss=loss,
        terms={f"layers/{base.module}": loss},
        rounds=base.rounds + 1,
        steps=base.steps + 10,
    )


class Fleet(Play):
    """A run with an exchange; its workers are called by their names."""

    def __init__(self, *workers: str, run_spec: pb.RunSpec | None = None) -> None:
        super().__init__(run_spec or fleet_spec())
        for worker in workers:
            self.start(worker)

    def start(self, worker: str, process: str = "p1", losses: dict[str, float] = LOSSES) -> None:
        """Start a process of a worker."""
        caller = pb.Caller(run="demo", worker=worker, process=process)
        info = pb.WorkerInfo(ranks=1, device="cpu", module_losses=losses)
        request = pb.CreateRunRequest(caller=caller, spec=self.spec, info=info)
        self.do(lifecycle.create(self.state, request, self.incarnation))
        self.processes[worker] = process

    def ask(self, worker: str, round: int, alive: Collection[str] | None = None) -> pb.SelectArmResponse:
        """Ask for the arm of a round; all other workers are alive unless `alive` names those that are."""
        others = self.processes.keys() - {worker} if alive is None else alive
        return self.select(round, worker, others)

    def tell(
        self,
        worker: str,
        pull: pb.Pull,
        factor: float = 0.9,
        *,
        chosen_by: pb.ChosenBy.ValueType = POLICY,
        versions: list[pb.ModuleVersion] | None = None,
        measurement: pb.Measurement | None = None,
    ) -> pb.RewardReported:
        """Report a round whose modules have their losses times a factor."""
        if versions is None:
            versions = [made(base, base.loss * factor) for base in pull.base]
        request = pb.ReportRewardRequest(
            caller=self.caller(worker),
            round=pull.round,
            arm=pull.arm,
            chosen_by=pull.chosen_by if chosen_by == POLICY else chosen_by,
            measurement=measurement or measured(1.0, factor),
            made=versions,
        )
        decide = self._with_history(lambda old_round: rounds.report(self.state, request, old_round))
        return self.do(decide).report

    def newest(self) -> dict[str, int]:
        """Return the number of every module's newest version."""
        return {name: module.newest.version for name, module in self.state.modules.by_name.items()}

    def held(self) -> dict[str, str]:
        """Return the worker that leases each module that is leased."""
        return {
            name: module.lease.worker for name, module in self.state.modules.by_name.items() if module.lease is not None
        }
