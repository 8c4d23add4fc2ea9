"""Requests checked once, at the edge: behind it every name, number and size is what it should be."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from bandit_server.errors import Invalid
from bandit_server.run.state import JOINT, build_policy
from protos.optima.v1 import bandit_pb2 as pb

# Not "." and "..": a name is a directory's, and a part of an address, too.
NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,64}")
MOST_ARMS = 256
MOST_MODULES = 4096
MOST_ENTRIES = 256
LONGEST_TEXT = 256
LONGEST_ROUND = 2**40
MOST_RECORDS = 2000
# 30 years; the sum of any number of them is finite.
LONGEST_SECONDS = 1e9


def check_name(value: str, what: str) -> None:
    """The name of a run, an arm or a worker."""
    if not NAME.fullmatch(value):
        raise Invalid(
            f"{what} {abbreviated(value)} is no name: expected 1 to 64 of the characters A-Z a-z 0-9 . _ -, "
            "and neither . nor .."
        )


def abbreviated(value: str) -> str:
    """A stranger's text, fit to be repeated in a message."""
    return repr(value) if len(value) <= 80 else f"{value[:80]!r}… ({len(value)} characters)"


def check_caller(given: pb.Caller, optional: bool = False) -> None:
    """A worker and its process; with `optional` both may be absent."""
    check_name(given.run, "run")
    check_text(given.incarnation, "caller.incarnation")
    if optional and not given.worker and not given.process:
        return
    check_name(given.worker, "worker")
    check_name(given.process, "caller.process")


def check_round(number: int) -> None:
    """A round's number."""
    if not 0 <= number < LONGEST_ROUND:
        raise Invalid(f"round is {number}; rounds are numbered from 0, up to 2^40")


def check_text(value: str, what: str) -> None:
    """A line that is shown only."""
    if len(value) > LONGEST_TEXT or not value.isprintable():
        raise Invalid(f"{what} is {abbreviated(value)}; expected at most {LONGEST_TEXT} printable characters")


def normalized_spec(given: pb.RunSpec) -> pb.RunSpec:
    """A run's spec, with what is not set in it set to what that means."""
    _arms(given.arms)
    check_text(given.policy.name, "spec.policy.name")
    _numbers(given.policy.options, "spec.policy.options")
    if given.reward not in pb.RewardKind.values() or given.train not in pb.TrainMode.values():
        raise Invalid("spec.reward or spec.train has a value that this server does not know")
    if not 0.0 <= given.tail <= 1.0:
        raise Invalid(f"spec.tail is {given.tail}; expected a share of the rounds, in [0, 1]")
    if given.steps_per_round < 1:
        raise Invalid("spec.steps_per_round is 0; a round has at least one optimizer step")
    normal = pb.RunSpec()
    normal.CopyFrom(given)
    normal.reward = given.reward or pb.REWARD_KIND_RELATIVE
    normal.train = given.train or pb.TRAIN_MODE_FORCED
    try:
        build_policy(normal)
    except ValueError as error:
        raise Invalid(f"spec.policy: {error}") from error
    return normal


def check_info(given: pb.WorkerInfo) -> None:
    """What a worker tells of itself."""
    check_text(given.device, "info.device")
    check_text(given.recipe, "info.recipe")
    _texts(given.versions, "info.versions")
    _numbers(given.teacher_metrics, "info.teacher_metrics")
    _numbers(given.student_metrics, "info.student_metrics")
    if not math.isfinite(given.total_loss):
        raise Invalid(f"info.total_loss is {given.total_loss}; expected a finite number, or none")


def check_choice(arm: str, by: pb.ChosenBy.ValueType) -> None:
    """An arm and who chose it."""
    check_name(arm, "arm")
    if by not in (pb.CHOSEN_BY_POLICY, pb.CHOSEN_BY_FALLBACK, pb.CHOSEN_BY_TAIL):
        raise Invalid("chosen_by is not set; expected POLICY, FALLBACK or TAIL")


def check_measurement(given: pb.Measurement) -> None:
    """What a round measured."""
    if given.outcome not in (pb.OUTCOME_MEASURED, pb.OUTCOME_DIVERGED):
        raise Invalid("measurement.outcome is not set; expected MEASURED or DIVERGED")
    for field, loss in (
        ("before", given.before),
        ("after", given.after),
        ("total_loss", given.total_loss),
        ("train_loss", given.train_loss),
    ):
        if not math.isfinite(loss):
            raise Invalid(f"measurement.{field} is {loss}; a round whose loss is not finite is reported as DIVERGED")
    for field, value in (("seconds", given.seconds), ("probe_seconds", given.probe_seconds)):
        if not 0 <= value <= LONGEST_SECONDS:
            raise Invalid(f"measurement.{field} is {value}; expected seconds, from 0 to {LONGEST_SECONDS:g}")
    _numbers(given.terms, "measurement.terms")
    _numbers(given.metrics, "measurement.metrics")


def check_heartbeat(given: pb.HeartbeatRequest) -> None:
    """A sign of life."""
    check_caller(given.caller)
    check_round(given.round)
    if not (math.isfinite(given.steps_per_second) and given.steps_per_second >= 0):
        raise Invalid(f"steps_per_second is {given.steps_per_second}; expected a finite number, 0 or more")
    _texts(given.versions, "versions")


def check_records(given: pb.RestoreRunRequest) -> None:
    """The rounds of a journal."""
    if len(given.records) > MOST_RECORDS:
        raise Invalid(f"{len(given.records)} records in one call; expected at most {MOST_RECORDS}")
    for record in given.records:
        check_round(record.pull.round)
        check_choice(record.pull.arm, record.pull.chosen_by)
        if record.pull.worker not in ("", given.caller.worker):
            raise Invalid(f"a record is of worker {abbreviated(record.pull.worker)}, not of {given.caller.worker}")
        if record.numbered and record.pull.number >= LONGEST_ROUND:
            raise Invalid(f"a record has pull number {record.pull.number}; expected one below 2^40")
        if record.HasField("measurement"):
            check_measurement(record.measurement)
        elif record.pull.chosen_by != pb.CHOSEN_BY_POLICY:
            raise Invalid(f"the record of round {record.pull.round} has neither a choice of the policy nor a result")


def _arms(arms: Iterable[pb.Arm]) -> None:
    given = list(arms)
    if not 1 <= len(given) <= MOST_ARMS:
        raise Invalid(f"spec.arms has {len(given)} arms; expected 1 to {MOST_ARMS}")
    seen: set[str] = set()
    for arm in given:
        check_name(arm.name, "arm")
        if arm.name in seen:
            raise Invalid(f"spec.arms has two arms of the name {arm.name}")
        seen.add(arm.name)
        if not 1 <= len(arm.modules) <= MOST_MODULES:
            raise Invalid(f"arm {arm.name} has {len(arm.modules)} modules; expected 1 to {MOST_MODULES}")
        for module in arm.modules:
            check_text(module, f"a module of arm {arm.name}")
    union = {module for arm in given if arm.name != JOINT for module in arm.modules}
    for arm in given:
        if arm.name == JOINT and union and set(arm.modules) != union:
            raise Invalid(f"arm {JOINT} is reserved for the union of all other arms, and has other modules")


def _texts(entries: Mapping[str, str], what: str) -> None:
    _count(entries, what)
    for key, value in entries.items():
        check_text(key, f"a name in {what}")
        check_text(value, f"{what}[{abbreviated(key)}]")


def _numbers(entries: Mapping[str, float], what: str) -> None:
    if not entries:
        return
    _count(entries, what)
    named = f"a name in {what}"
    for key, value in entries.items():
        check_text(key, named)
        if not math.isfinite(value):
            raise Invalid(f"{what}[{abbreviated(key)}] is {value}; expected a finite number")


def _count(entries: Mapping[str, object], what: str) -> None:
    if len(entries) > MOST_ENTRIES:
        raise Invalid(f"{what} has {len(entries)} entries; expected at most {MOST_ENTRIES}")
