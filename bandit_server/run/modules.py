"""The student's modules in a run with an exchange: the newest version of each, and the pull that leases it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from protos.optima.v1 import bandit_pb2 as pb


@dataclass(slots=True)
class Module:
    """One module.

    Attributes:
        newest: Its newest version; without a loss until the first worker has measured version 0.
        measured: Whether the newest version has a loss.
        lease: The pull that leases it, without its base; None if it is free.
    """

    newest: pb.ModuleVersion
    measured: bool = False
    lease: pb.Pull | None = None


class Modules:
    """All modules of the student; none in a run without an exchange.

    Args:
        spec: The run's spec.
    """

    def __init__(self, spec: pb.RunSpec) -> None:
        arms = spec.arms if spec.exchange else ()
        self._arms = {arm.name: tuple(dict.fromkeys(arm.modules)) for arm in arms}
        in_arms = dict.fromkeys(module for modules in self._arms.values() for module in modules)
        names = [*in_arms, *sorted(spec.start.keys() - in_arms.keys())]
        self.by_name = {name: Module(pb.ModuleVersion(module=name, digest=spec.start[name])) for name in names}

    def of(self, arm: str) -> Sequence[str]:
        """Return the modules that a pull of an arm leases: all of them for joint, which need not be in the spec."""
        return self._arms.get(arm) or tuple(self.by_name)

    def base(self, arm: str) -> list[pb.ModuleVersion]:
        """Return the versions that a pull of an arm starts from."""
        versions = []
        for name in self.of(arm):
            version = pb.ModuleVersion()
            version.CopyFrom(self.by_name[name].newest)
            version.ClearField("terms")
            versions.append(version)
        return versions

    def leases(self) -> list[pb.Pull]:
        """Return the pulls that lease modules, by number."""
        pulls = {module.lease.number: module.lease for module in self.by_name.values() if module.lease is not None}
        return [pulls[number] for number in sorted(pulls)]

    def leased_by(self, number: int) -> bool:
        """Return whether a pull leases modules."""
        return any(pull.number == number for pull in self.leases())

    def lease(self, pull: pb.Pull) -> None:
        """Lease the modules of a pull's arm to it."""
        held = pb.Pull()
        held.CopyFrom(pull)
        held.ClearField("base")
        for name in self.of(pull.arm):
            self.by_name[name].lease = held

    def release(self, numbers: Iterable[int]) -> None:
        """Release the modules that these pulls lease."""
        ended = set(numbers)
        for module in self.by_name.values():
            if module.lease is not None and module.lease.number in ended:
                module.lease = None

    def measured(self, losses: dict[str, float]) -> None:
        """Take over the losses of version 0, if nobody has measured it before."""
        for name, module in self.by_name.items():
            if name in losses and not module.measured and module.newest.version == 0:
                module.newest.loss = losses[name]
                module.measured = True

    def made(self, versions: Iterable[pb.ModuleVersion]) -> None:
        """Take over new versions. No module goes back."""
        for version in versions:
            module = self.by_name[version.module]
            if version.version > module.newest.version:
                module.newest, module.measured = version, True

    def is_current(self, pull: pb.Pull, made: Sequence[pb.ModuleVersion]) -> bool:
        """Return whether a pull still holds its modules, or nobody else does, and what it started from is the newest.

        Args:
            pull: The pull.
            made: The versions that it has made; none if its round diverged.
        """
        bases = [(version.module, version.version - 1, version.base) for version in made]
        for name, version, digest in bases or [(base.module, base.version, base.digest) for base in pull.base]:
            module = self.by_name[name]
            if module.lease is not None and module.lease.number != pull.number:
                return False
            if (module.newest.version, module.newest.digest) != (version, digest):
                return False
        return True

    def loss(self, replaced: Iterable[pb.ModuleVersion] = ()) -> float:
        """Return the run's loss: the sum of all modules' own, with these versions in place of the newest."""
        losses = {name: module.newest.loss for name, module in self.by_name.items()}
        losses |= {version.module: version.loss for version in replaced}
        return sum(losses.values())
