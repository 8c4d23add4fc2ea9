"""The worker's own record of its run: ``bandit-journal.jsonl``, an append-only file.

One JSON object per line. The journal alone restores the worker's rounds on a server that has lost them, and tells a
resumed worker which arm it trained in which round. Kinds of lines, in the order of a round:

    worker    the first line: run, worker, spec
    joined    a process of the worker joined the run: process, incarnation, version
    pull      an arm was chosen: round, arm, chosen_by, number (null: the worker chose by itself), fallback_arms
    report    the result of the round: round, arm, chosen_by, measurement; written before it is sent
    reply     the report as the server stored it: number, reward; measurement if it differs from the worker's
    refused   the server refused the report: reason
    restored  the rounds were restored on the server: incarnation, version, through (the last round with a report)
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from google.protobuf import json_format

from protos.optima.v1 import bandit_pb2 as pb
from worker.errors import JournalError
from worker.files import JsonLines

JOURNAL_FILE = "bandit-journal.jsonl"
SCHEMA = 1

ChosenBy: TypeAlias = pb.ChosenBy.ValueType


@dataclass(frozen=True)
class Pull:
    """The arm of a round.

    Attributes:
        arm: The arm's name.
        number: The pull's number in the run; None if the server never assigned one.
        chosen_by: The policy, the worker during an outage, or the tail.
    """

    arm: str
    number: int | None
    chosen_by: ChosenBy


@dataclass(frozen=True)
class Round:
    """One round as the journal knows it.

    Attributes:
        pull: The arm.
        measurement: The measured losses; None until the round is reported.
        settled: Whether the server has stored or refused the report.
        refused: Whether the server has refused the report.
    """

    pull: Pull
    measurement: pb.Measurement | None = None
    settled: bool = False
    refused: bool = False


class Journal:
    """A journal on disk, and its content in memory. Any thread may use it.

    Attributes:
        path: The file.
        incarnation: The run's incarnation in the newest line that has one; empty before the worker has joined.
        version: The highest version of that incarnation.

    Raises:
        JournalError: The file cannot be opened, or a line is invalid. An incomplete last line, as a killed process
            leaves it, is cut off instead.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.incarnation = ""
        self.version = 0
        self._head: tuple[str, str, pb.RunSpec] | None = None
        self._rounds: dict[int, Round] = {}
        self._last_stored = -1
        self._fallback_arms: list[str] = []
        self._fallbacks_used = 0
        self._lock = threading.RLock()
        self._lines = JsonLines(path)
        try:
            for number, entry in self._lines.read():
                try:
                    self._apply(entry)
                except (KeyError, TypeError, ValueError, json_format.ParseError) as error:
                    raise JournalError(f"line {number} of the journal {path} is invalid: {error!r}") from error
        except JournalError:
            self._lines.close()
            raise

    # Lines that the worker writes

    def begin(self, run: str, worker: str, spec: pb.RunSpec) -> None:
        """Write the first line; if it exists, check that it has the same run, worker and spec.

        Raises:
            JournalError: The journal belongs to another run, another worker or another spec.
        """
        if self._head is None:
            document = json_format.MessageToDict(spec, preserving_proto_field_name=True)
            self._append(kind="worker", schema=SCHEMA, run=run, worker=worker, spec=document)
            return
        for name, expected, found in zip(("run", "worker", "spec"), (run, worker, spec), self._head, strict=True):
            if expected != found:
                fault = "has another spec than this run" if name == "spec" else f"is of {name} {found}, not {expected}"
                raise JournalError(f"the journal {self.path} {fault}; use another --output-dir for another run")

    def record_join(self, process: str, incarnation: str, version: int) -> None:
        """Record that a process of this worker has joined the run."""
        self._append(kind="joined", process=process, incarnation=incarnation, version=version)

    def record_pull(
        self, round: int, pull: Pull, fallback_arms: list[str], incarnation: str = "", version: int = 0
    ) -> None:
        """Record a pull: of the server (with incarnation and version) or of the worker itself (without)."""
        entry: dict[str, Any] = {"round": round, "arm": pull.arm, "chosen_by": _name(pull.chosen_by)}
        if pull.number is None:
            self._append(kind="pull", **entry, number=None)
        else:
            entry |= {"number": pull.number, "incarnation": incarnation, "version": version}
            self._append(kind="pull", **entry, fallback_arms=fallback_arms)

    def record_report(self, round: int, arm: str, chosen_by: ChosenBy, measurement: pb.Measurement) -> None:
        """Record the result of a round, before it is sent."""
        document = json_format.MessageToDict(measurement, preserving_proto_field_name=True)
        self._append(kind="report", round=round, arm=arm, chosen_by=_name(chosen_by), measurement=document)

    def record_reply(self, round: int, reply: pb.ReportRewardResponse) -> None:
        """Record that the server has stored a report. If it had another one of this round, that one stands."""
        report = reply.report
        entry: dict[str, Any] = {
            "round": round,
            "arm": report.pull.arm,
            "chosen_by": _name(report.pull.chosen_by),
        }
        entry |= {"number": report.pull.number, "reward": report.reward if report.HasField("reward") else None}
        entry |= {"duplicate": reply.duplicate, "incarnation": reply.incarnation, "version": reply.version}
        known = self._rounds.get(round)
        if known is None or known.measurement != report.measurement:
            entry["measurement"] = json_format.MessageToDict(report.measurement, preserving_proto_field_name=True)
        self._append(kind="reply", **entry)

    def record_refusal(self, round: int, reason: str) -> None:
        """Record that the server refused the report of a round; it is not sent again."""
        self._append(kind="refused", round=round, reason=reason)

    def record_restore(self, incarnation: str, version: int, through: int) -> None:
        """Record that this worker's rounds were restored on the server, with all reports up to a round."""
        self._append(kind="restored", incarnation=incarnation, version=version, through=through)

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._lines.close()

    # The content

    @property
    def is_unused(self) -> bool:
        """Whether the worker has neither joined the run nor begun a round."""
        return not self.incarnation and not self._rounds

    @property
    def head(self) -> tuple[str, str, pb.RunSpec]:
        """Run, worker and spec from the first line.

        Raises:
            JournalError: The journal has no line yet.
        """
        if self._head is None:
            raise JournalError(f"the journal {self.path} is empty: its worker has never joined a run")
        return self._head

    def pull_of(self, round: int) -> Pull | None:
        """Return the pull of a round that this worker has begun, in this process or an earlier one."""
        known = self._rounds.get(round)
        return known.pull if known else None

    @property
    def next_round(self) -> int:
        """The first round without a report."""
        round = 0
        while (known := self._rounds.get(round)) and known.measurement is not None:
            round += 1
        return round

    @property
    def fallback_arm(self) -> str:
        """The arm to train next in an outage: the last fallback arms of the server in order, again and again."""
        arms = self._fallback_arms or self._arms_before_any_choice()
        return arms[self._fallbacks_used % len(arms)]

    @property
    def last_stored(self) -> pb.JournalRecord | None:
        """The last round whose report the server has stored; None if there is none."""
        known = self._rounds.get(self._last_stored)
        return None if known is None else self._record(self._last_stored, known)

    def unsent(self) -> list[tuple[int, Pull, pb.Measurement]]:
        """Return the reports that the server has neither stored nor refused, in the order they were written."""
        with self._lock:
            rounds = list(self._rounds.items())
        return [(number, r.pull, r.measurement) for number, r in rounds if r.measurement is not None and not r.settled]

    def records(self) -> list[pb.JournalRecord]:
        """Return what a server needs to restore this worker's rounds, in order.

        A round whose arm the worker chose by itself is included once it is reported.
        """
        with self._lock:
            rounds = list(self._rounds.items())
        return [
            self._record(number, known)
            for number, known in rounds
            if not known.refused and (known.measurement is not None or known.pull.number is not None)
        ]

    def _record(self, number: int, known: Round) -> pb.JournalRecord:
        assert self._head is not None, "a journal is begun before it is read"
        pull = pb.Pull(
            number=known.pull.number or 0,
            worker=self._head[1],
            round=number,
            arm=known.pull.arm,
            chosen_by=known.pull.chosen_by,
        )
        return pb.JournalRecord(pull=pull, numbered=known.pull.number is not None, measurement=known.measurement)

    def _arms_before_any_choice(self) -> list[str]:
        assert self._head is not None, "a journal is begun before it is read"
        spec = self._head[2]
        policy = spec.policy.name
        if policy == "joint" or policy.startswith("fixed:"):
            return [policy.removeprefix("fixed:")]
        return [arm.name for arm in spec.arms]

    def _append(self, **entry: Any) -> None:
        with self._lock:
            self._lines.append({"time": round(time.time(), 3), **entry})
            self._apply(entry)

    def _apply(self, entry: dict[str, Any]) -> None:
        """Fold one line into the content."""
        kind = entry["kind"]
        if kind == "worker":
            if entry["schema"] != SCHEMA:
                raise ValueError(f"schema {entry['schema']}, but this version of OPTIMA reads {SCHEMA}")
            self._head = (entry["run"], entry["worker"], json_format.ParseDict(entry["spec"], pb.RunSpec()))
        elif kind == "refused":
            self._rounds[entry["round"]] = replace(self._rounds[entry["round"]], settled=True, refused=True)
        elif kind in ("pull", "report", "reply"):
            self._apply_to_round(kind, entry, self._rounds.get(entry["round"]))
        elif kind == "restored":
            for number, known in self._rounds.items():
                if number <= entry["through"] and known.measurement is not None:
                    self._rounds[number] = replace(known, settled=True)
                    if not known.refused:
                        self._last_stored = max(number, self._last_stored)
        elif kind != "joined":
            raise ValueError(f"unknown kind of line {kind!r}")
        if entry.get("incarnation"):
            same = entry["incarnation"] == self.incarnation
            self.version = max(self.version, entry["version"]) if same else entry["version"]
            self.incarnation = entry["incarnation"]

    def _apply_to_round(self, kind: str, entry: dict[str, Any], known: Round | None) -> None:
        pull = Pull(entry["arm"], entry.get("number"), pb.ChosenBy.Value(f"CHOSEN_BY_{entry['chosen_by'].upper()}"))
        measurement = known.measurement if known else None
        if "measurement" in entry and (measurement is None or kind == "reply"):
            measurement = json_format.ParseDict(entry["measurement"], pb.Measurement())
        if kind == "pull":
            self._fallbacks_used = 0 if entry.get("fallback_arms") else self._fallbacks_used + (pull.number is None)
            self._fallback_arms = entry.get("fallback_arms") or self._fallback_arms
        elif kind == "report" and known and (known.measurement is not None or known.pull.arm == pull.arm):
            # The first report stands; and a report lacks the number that its pull already has.
            pull = known.pull
        settled = kind == "reply" or (known is not None and known.settled)
        if kind == "reply":
            self._last_stored = max(entry["round"], self._last_stored)
        self._rounds[entry["round"]] = Round(pull, measurement, settled, refused=known is not None and known.refused)


def _name(chosen_by: ChosenBy) -> str:
    return pb.ChosenBy.Name(chosen_by).removeprefix("CHOSEN_BY_").lower()
