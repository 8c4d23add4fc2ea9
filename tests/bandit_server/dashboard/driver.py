"""A worker without a model, which plays rounds over gRPC with rewards that decay as in a distillation."""

from __future__ import annotations

import math
import uuid

import grpc

from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1 import bandit_pb2_grpc as rpc

ARMS = ("image", "text", "multimodal")


class Driver:
    """One worker of one run. The n-th round of an arm removes a fraction of the loss that falls with n."""

    def __init__(
        self,
        channel: grpc.Channel,
        run: str,
        arms: tuple[str, ...] = ARMS,
        policy: str = "optima",
        info: pb.WorkerInfo | None = None,
        modules: str = "tower",
        rounds: int = 100,
        token: str | None = None,
    ) -> None:
        self.stub = rpc.BanditStub(channel)
        self.metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self.arms = arms
        self.loss = 4.0
        self.played = dict.fromkeys(arms, 0)
        self.caller = pb.Caller(run=run, worker=f"w-{uuid.uuid4().hex[:8]}", process=uuid.uuid4().hex)
        spec = pb.RunSpec(
            arms=[pb.Arm(name=arm, modules=[f"{arm}.{modules}"]) for arm in arms],
            policy=pb.PolicySpec(name=policy),
            seed=1,
            reward=pb.REWARD_KIND_RELATIVE,
            train=pb.TRAIN_MODE_FORCED,
            tail=0.3,
            steps_per_round=10,
            rounds=rounds,
        )
        info = info or pb.WorkerInfo(
            ranks=2,
            device="cpu",
            recipe="digits",
            versions={"python": "3.11", "torch": "2.9"},
            teacher_metrics={"accuracy": 0.975},
            student_metrics={"accuracy": 0.11},
        )
        request = pb.CreateRunRequest(caller=self.caller, spec=spec, info=info)
        response = self.stub.CreateRun(request, metadata=self.metadata)
        self.round = response.next_round
        self.caller.incarnation = response.run.incarnation

    def select(self) -> pb.Pull:
        """Return the pull of the current round."""
        request = pb.SelectArmRequest(caller=self.caller, round=self.round)
        return self.stub.SelectArm(request, metadata=self.metadata).pull

    def report(self, arm: str, chosen_by: pb.ChosenBy.ValueType = pb.CHOSEN_BY_POLICY, diverged: bool = False) -> None:
        """Report the current round and go on to the next."""
        measured = pb.Measurement(outcome=pb.OUTCOME_DIVERGED, steps=10, seconds=1.5, probe_seconds=0.2)
        if not diverged:
            self.played[arm] = self.played.get(arm, 0) + 1
            best = 0.04 + 0.03 * (self.arms.index(arm) if arm in self.arms else 0)
            after = self.loss * (1 - best * math.exp(-self.played[arm] / 15))
            measured.outcome = pb.OUTCOME_MEASURED
            measured.before, measured.after = self.loss, after
            measured.terms["layer"] = after / 2
            if self.round % 5 == 0:
                measured.total_loss = 1.2 * after
                measured.metrics["accuracy"] = 0.975 - 0.2 * after
            self.loss = after
        request = pb.ReportRewardRequest(
            caller=self.caller, round=self.round, arm=arm, chosen_by=chosen_by, measurement=measured
        )
        self.stub.ReportReward(request, metadata=self.metadata)
        self.round += 1

    def play(self, rounds: int) -> None:
        """Play rounds with the arms that the policy chooses."""
        for _ in range(rounds):
            self.report(self.select().arm)

    def tail(self, rounds: int) -> None:
        """Play rounds of the joint tail."""
        for _ in range(rounds):
            self.report("joint", pb.CHOSEN_BY_TAIL)

    def heartbeat(self) -> None:
        """Send a heartbeat."""
        request = pb.HeartbeatRequest(caller=self.caller, round=self.round, steps_per_second=6.25, ranks=2)
        self.stub.Heartbeat(request, metadata=self.metadata)
