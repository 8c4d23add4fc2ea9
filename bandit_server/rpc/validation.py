"""Validation of requests, done once in the service: the code behind it relies on every name, number and size.

Every check raises Invalid, with a sentence that says what is wrong and what was expected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from bandit_server.errors import Invalid
from bandit_server.run.state import JOINT, build_policy
from protos.optima.v1 import bandit_pb2 as pb

# Excludes "." and "..": a name is also used as a directory and in URLs.
NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,64}")
DIGEST = re.compile(r"[0-9a-f]{64}")
MOST_ARMS = 256
MOST_MODULES = 4096
MOST_ENTRIES = 256
LONGEST_TEXT = 256
LONGEST_ROUND = 2**40
MOST_RECORDS = 2000
LONGEST_WAIT = 20.0
# 30 years; a sum of any number of rounds stays finite.
LONGEST_SECONDS = 1e9


def check_name(value: str, what: str) -> None:
    """Check the name of a run, an arm or a worker.

    Args:
        value: The name.
        what: The kind of thing it names, for the error.
    """
    if not NAME.fullmatch(value):
        raise Invalid(
            f"{what} {abbreviated(value)} is not a valid name: expected 1 to 64 of the characters A-Z a-z 0-9 . _ -, "
            "and neither . nor .."
        )


def abbreviated(value: str) -> str:
    """Return text from a caller, quoted and cut to a length that fits into an error."""
    return repr(value) if len(value) <= 80 else f"{value[:80]!r}… ({len(value)} characters)"


def check_caller(caller: pb.Caller, optional: bool = False) -> None:
    """Check a worker and its process; with `optional` both may be absent."""
    check_name(caller.run, "run")
    check_text(caller.incarnation, "caller.incarnation")
    if optional and not caller.worker and not caller.process:
        return
    check_name(caller.worker, "worker")
    check_name(caller.process, "caller.process")


def check_round(number: int) -> None:
    """Check a round's number."""
    if not 0 <= number < LONGEST_ROUND:
        raise Invalid(f"round is {number}; expected a number from 0 to 2^40 - 1")


def seconds_to_wait(request: pb.SelectArmRequest) -> float:
    """Return how long a selection may wait for a free arm."""
    if not (math.isfinite(request.wait_seconds) and request.wait_seconds >= 0):
        raise Invalid(f"wait_seconds is {request.wait_seconds}; expected seconds, 0 or more")
    return min(request.wait_seconds, LONGEST_WAIT)


def check_text(value: str, what: str) -> None:
    """Check a line of text that is only displayed."""
    if len(value) > LONGEST_TEXT or not value.isprintable():
        raise Invalid(f"{what} is {abbreviated(value)}; expected at most {LONGEST_TEXT} printable characters")


def normalized_spec(spec: pb.RunSpec) -> pb.RunSpec:
    """Check a run's spec, and return a copy with unset enums replaced by their defaults."""
    _check_arms(spec.arms)
    check_text(spec.policy.name, "spec.policy.name")
    _check_numbers(spec.policy.options, "spec.policy.options")
    if spec.reward not in pb.RewardKind.values() or spec.train not in pb.TrainMode.values():
        raise Invalid("spec.reward or spec.train has a value that this server does not know")
    if not 0.0 <= spec.tail <= 1.0:
        raise Invalid(f"spec.tail is {spec.tail}; expected a share of the rounds, in [0, 1]")
    if spec.steps_per_round < 1:
        raise Invalid("spec.steps_per_round is 0; expected at least one optimizer step")
    _check_exchange(spec)
    normalized = pb.RunSpec()
    normalized.CopyFrom(spec)
    normalized.reward = spec.reward or pb.REWARD_KIND_RELATIVE
    normalized.train = spec.train or pb.TRAIN_MODE_FORCED
    try:
        build_policy(normalized)
    except ValueError as error:
        raise Invalid(f"spec.policy: {error}") from error
    return normalized


def check_info(info: pb.WorkerInfo) -> None:
    """Check a worker's description of itself."""
    check_text(info.device, "info.device")
    check_text(info.recipe, "info.recipe")
    _check_texts(info.versions, "info.versions")
    _check_numbers(info.teacher_metrics, "info.teacher_metrics")
    _check_numbers(info.student_metrics, "info.student_metrics")
    _check_numbers(info.module_losses, "info.module_losses")
    if not math.isfinite(info.total_loss):
        raise Invalid(f"info.total_loss is {info.total_loss}; expected a finite number, or none")


def check_start(spec: pb.RunSpec, info: pb.WorkerInfo) -> None:
    """Check that a worker of a run with an exchange has measured every module at its start."""
    if spec.exchange and info.module_losses.keys() != spec.start.keys():
        raise Invalid(
            f"info.module_losses has losses of {', '.join(sorted(info.module_losses)) or 'no module'}; expected one of "
            f"each module under spec.start: {', '.join(sorted(spec.start))}"
        )


def check_made(versions: Sequence[pb.ModuleVersion]) -> None:
    """Check the versions that a report says its round has made."""
    if len(versions) > MOST_MODULES:
        raise Invalid(f"made has {len(versions)} versions; expected at most {MOST_MODULES}")
    for version in versions:
        check_text(version.module, "a module in made")
        what = f"made: version {version.version} of {abbreviated(version.module)}"
        if version.version < 1:
            raise Invalid(f"{what}: expected a number above 0")
        for name, digest in (("digest", version.digest), ("base", version.base)):
            _check_digest(digest, f"{what}: its {name}")
        check_text(version.place, f"{what}: its place")
        if not version.place:
            raise Invalid(f"{what} has no place; expected that of its file, relative to the exchange")
        if not math.isfinite(version.loss):
            raise Invalid(f"{what}: its loss is {version.loss}; report a round whose loss is not finite as DIVERGED")
        _check_numbers(version.terms, f"{what}: its terms")


def check_choice(arm: str, by: pb.ChosenBy.ValueType) -> None:
    """Check an arm and who chose it."""
    check_name(arm, "arm")
    if by not in (pb.CHOSEN_BY_POLICY, pb.CHOSEN_BY_FALLBACK, pb.CHOSEN_BY_TAIL):
        raise Invalid("chosen_by is not set; expected POLICY, FALLBACK or TAIL")


def check_measurement(measurement: pb.Measurement) -> None:
    """Check the measurement of a round."""
    if measurement.outcome not in (pb.OUTCOME_MEASURED, pb.OUTCOME_DIVERGED):
        raise Invalid("measurement.outcome is not set; expected MEASURED or DIVERGED")
    for field, loss in (
        ("before", measurement.before),
        ("after", measurement.after),
        ("total_loss", measurement.total_loss),
        ("train_loss", measurement.train_loss),
    ):
        if not math.isfinite(loss):
            raise Invalid(f"measurement.{field} is {loss}; report a round whose loss is not finite as DIVERGED")
    for field in ("seconds", "probe_seconds", "wait_seconds", "exchange_seconds"):
        value = getattr(measurement, field)
        if not 0 <= value <= LONGEST_SECONDS:
            raise Invalid(f"measurement.{field} is {value}; expected seconds, from 0 to {LONGEST_SECONDS:g}")
    _check_numbers(measurement.terms, "measurement.terms")
    _check_numbers(measurement.metrics, "measurement.metrics")


def check_heartbeat(heartbeat: pb.HeartbeatRequest) -> None:
    """Check a heartbeat."""
    check_caller(heartbeat.caller)
    check_round(heartbeat.round)
    if not (math.isfinite(heartbeat.steps_per_second) and heartbeat.steps_per_second >= 0):
        raise Invalid(f"steps_per_second is {heartbeat.steps_per_second}; expected a finite number, 0 or more")
    _check_texts(heartbeat.versions, "versions")


def check_records(request: pb.RestoreRunRequest) -> None:
    """Check the rounds of a journal."""
    if len(request.records) > MOST_RECORDS:
        raise Invalid(f"{len(request.records)} records in one call; expected at most {MOST_RECORDS}")
    worker = request.caller.worker
    for record in request.records:
        check_round(record.pull.round)
        check_choice(record.pull.arm, record.pull.chosen_by)
        if record.pull.worker not in ("", worker):
            raise Invalid(f"a record is of worker {abbreviated(record.pull.worker)}; expected records of {worker} only")
        if record.numbered and record.pull.number >= LONGEST_ROUND:
            raise Invalid(f"a record has pull number {record.pull.number}; expected a number below 2^40")
        check_made(record.made)
        if record.HasField("measurement"):
            check_measurement(record.measurement)
        elif record.pull.chosen_by != pb.CHOSEN_BY_POLICY:
            raise Invalid(
                f"the record of round {record.pull.round} has no measurement; only a pull that the policy chose may "
                "be without one"
            )


def _check_arms(arms: Iterable[pb.Arm]) -> None:
    arms = list(arms)
    if not 1 <= len(arms) <= MOST_ARMS:
        raise Invalid(f"spec.arms has {len(arms)} arms; expected 1 to {MOST_ARMS}")
    names: set[str] = set()
    for arm in arms:
        check_name(arm.name, "arm")
        if arm.name in names:
            raise Invalid(f"spec.arms has two arms named {arm.name}; expected unique names")
        names.add(arm.name)
        if not 1 <= len(arm.modules) <= MOST_MODULES:
            raise Invalid(f"arm {arm.name} has {len(arm.modules)} modules; expected 1 to {MOST_MODULES}")
        for module in arm.modules:
            check_text(module, f"a module of arm {arm.name}")
    union = {module for arm in arms if arm.name != JOINT for module in arm.modules}
    for arm in arms:
        if arm.name == JOINT and union and set(arm.modules) != union:
            raise Invalid(f"the name {JOINT} is reserved for an arm with exactly the modules of all other arms")


def _check_exchange(spec: pb.RunSpec) -> None:
    """Check what a spec says about an exchange."""
    if not spec.exchange:
        if spec.start or spec.probe:
            raise Invalid("spec.start or spec.probe is set without spec.exchange; expected both together or none")
        return
    if spec.train not in (pb.TRAIN_MODE_UNSPECIFIED, pb.TRAIN_MODE_FORCED):
        raise Invalid(
            "spec.train is not FORCED; with an exchange each module is trained alone, on the teacher's boundary tensors"
        )
    if spec.reward not in (pb.REWARD_KIND_UNSPECIFIED, pb.REWARD_KIND_RELATIVE):
        raise Invalid("spec.reward is not RELATIVE; with an exchange all workers earn the same kind of reward")
    check_text(spec.probe, "spec.probe")
    if not spec.probe:
        raise Invalid("spec.probe is empty; expected a digest of the batches on which all workers measure")
    if len(spec.start) > MOST_MODULES:
        raise Invalid(f"spec.start has {len(spec.start)} modules; expected at most {MOST_MODULES}")
    for module, digest in spec.start.items():
        check_text(module, "a module in spec.start")
        _check_digest(digest, f"spec.start[{abbreviated(module)}]")
    missing = {module for arm in spec.arms for module in arm.modules} - spec.start.keys()
    if missing:
        raise Invalid(f"spec.start lacks {', '.join(sorted(missing))}; expected the digest of every module")


def _check_digest(value: str, what: str) -> None:
    if not DIGEST.fullmatch(value):
        raise Invalid(f"{what} is {abbreviated(value)}; expected 64 hexadecimal digits of a SHA-256")


def _check_texts(entries: Mapping[str, str], what: str) -> None:
    _check_count(entries, what)
    for key, value in entries.items():
        check_text(key, f"a name in {what}")
        check_text(value, f"{what}[{abbreviated(key)}]")


def _check_numbers(entries: Mapping[str, float], what: str) -> None:
    if not entries:
        return
    _check_count(entries, what)
    what_name = f"a name in {what}"
    for key, value in entries.items():
        check_text(key, what_name)
        if not math.isfinite(value):
            raise Invalid(f"{what}[{abbreviated(key)}] is {value}; expected a finite number")


def _check_count(entries: Mapping[str, object], what: str) -> None:
    if len(entries) > MOST_ENTRIES:
        raise Invalid(f"{what} has {len(entries)} entries; expected at most {MOST_ENTRIES}")
