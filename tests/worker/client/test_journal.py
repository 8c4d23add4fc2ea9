"""The journal: readable, incomplete at most in its last line, and enough to restore the run."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from protos.optima.v1 import bandit_pb2 as pb
from worker.client.journal import Journal, Pull
from worker.errors import JournalError

ARMS = ("image", "text", "decoder")


def arm_of(journal: Journal, round: int) -> str | None:
    pull = journal.pull_of(round)
    return None if pull is None else pull.arm


def spec(policy: str = "optima", seed: int = 2**63 + 1) -> pb.RunSpec:
    arms = [pb.Arm(name=name, modules=[name]) for name in ARMS]
    return pb.RunSpec(
        arms=arms, policy=pb.PolicySpec(name=policy, options={"gamma": 0.99}), seed=seed, steps_per_round=2
    )


def measurement(after: float = 0.1 + 0.2) -> pb.Measurement:
    return pb.Measurement(
        outcome=pb.OUTCOME_MEASURED, before=1 / 3, after=after, terms={"caption": 1e-17}, steps=10, seconds=0.25
    )


def policy_pull(arm: str, number: int) -> Pull:
    return Pull(arm, number, pb.CHOSEN_BY_POLICY)


def own_pull(arm: str) -> Pull:
    return Pull(arm, None, pb.CHOSEN_BY_FALLBACK)


def reply(round: int, arm: str, number: int, stored: pb.Measurement, version: int = 5) -> pb.ReportRewardResponse:
    pull = pb.Pull(number=number, worker="w", round=round, arm=arm, chosen_by=pb.CHOSEN_BY_POLICY)
    report = pb.RewardReported(pull=pull, measurement=stored, reward=0.5)
    return pb.ReportRewardResponse(report=report, incarnation="i1", version=version)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bandit-journal.jsonl"


OPENED: list[Journal] = []


@pytest.fixture(autouse=True)
def _close_journals() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


def opened(path: Path) -> Journal:
    """Return a journal that is closed at the end of the test."""
    journal = Journal(path)
    OPENED.append(journal)
    return journal


def begun(path: Path, policy: str = "optima") -> Journal:
    journal = opened(path)
    journal.begin("demo", "w", spec(policy))
    return journal


def played(path: Path) -> Journal:
    """Return a journal: round 0 is stored, round 1 was chosen and measured in an outage, round 2 is just chosen."""
    journal = begun(path)
    journal.record_join("p1", "i1", 2)
    journal.record_pull(0, policy_pull("text", 0), ["image", "decoder"], "i1", 3)
    journal.record_report(0, "text", pb.CHOSEN_BY_POLICY, measurement())
    journal.record_reply(0, reply(0, "text", 0, measurement(), version=4))
    journal.record_pull(1, own_pull("image"), [])
    journal.record_report(1, "image", pb.CHOSEN_BY_FALLBACK, measurement(0.2))
    journal.record_pull(2, policy_pull("decoder", 7), ["text"], "i1", 9)
    return journal


def test_a_reopened_journal_knows_what_the_first_knew(path: Path) -> None:
    first = played(path)
    first.close()
    again = begun(path)
    assert again.records() == first.records()
    assert again.unsent() == first.unsent()
    assert (again.incarnation, again.version) == ("i1", 9)
    assert (again.next_round, arm_of(again, 2), arm_of(again, 3)) == (2, "decoder", None)
    assert again.pull_of(2) == policy_pull("decoder", 7)
    assert again.fallback_arm == "text"


def test_numbers_come_back_to_the_last_bit(path: Path) -> None:
    played(path).close()
    stored = begun(path).records()[0].measurement
    assert stored == measurement()
    assert (stored.after, stored.terms["caption"]) == (0.1 + 0.2, 1e-17)


def test_a_person_can_read_a_line(path: Path) -> None:
    played(path).close()
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    kinds = ["worker", "joined", "pull", "report", "reply", "pull", "report", "pull"]
    assert [line["kind"] for line in lines] == kinds
    assert lines[0]["spec"]["arms"][1] == {"name": "text", "modules": ["text"]}
    assert (lines[4]["arm"], lines[4]["chosen_by"], lines[4]["reward"]) == ("text", "policy", 0.5)
    assert lines[3]["measurement"]["outcome"] == "OUTCOME_MEASURED"


def test_records_are_all_that_a_server_needs(path: Path) -> None:
    journal = played(path)
    journal.record_pull(3, own_pull("text"), [])
    records = journal.records()
    assert [(r.pull.round, r.pull.arm, r.numbered, r.pull.number) for r in records] == [
        (0, "text", True, 0),
        (1, "image", False, 0),
        (2, "decoder", True, 7),
    ], "a round that the worker chose itself is included once it is reported"
    assert [r.HasField("measurement") for r in records] == [True, True, False]
    assert {r.pull.worker for r in records} == {"w"}


def test_only_what_the_server_has_not_settled_is_unsent(path: Path) -> None:
    journal = played(path)
    assert [(round, pull.arm) for round, pull, _ in journal.unsent()] == [(1, "image")]
    journal.record_refusal(1, "unknown arm")
    assert journal.unsent() == []
    assert [r.pull.round for r in journal.records()] == [0, 2], "what was refused is not restored"


def test_the_first_report_of_a_round_stands(path: Path) -> None:
    journal = played(path)
    journal.record_report(1, "image", pb.CHOSEN_BY_FALLBACK, measurement(0.9))
    assert [m.after for _, _, m in journal.unsent()] == [0.2]


def test_the_report_the_server_has_stands_over_ours(path: Path) -> None:
    journal = played(path)
    journal.record_reply(1, reply(1, "decoder", 12, measurement(0.7)))
    journal.close()
    record = begun(path).records()[1]
    assert (record.pull.arm, record.pull.number, record.numbered) == ("decoder", 12, True)
    assert record.measurement.after == 0.7


def test_a_report_of_another_arm_leaves_the_pulls_number_behind(path: Path) -> None:
    journal = played(path)
    journal.record_report(2, "image", pb.CHOSEN_BY_FALLBACK, measurement())
    assert journal.pull_of(2) == own_pull("image")


def test_fallback_arms_are_walked_then_cycled_also_by_the_next_process(path: Path) -> None:
    journal = begun(path)
    journal.record_pull(0, policy_pull("text", 0), ["image", "decoder"], "i1", 3)
    walked = []
    for round in range(1, 6):
        walked.append(journal.fallback_arm)
        journal.record_pull(round, own_pull(journal.fallback_arm), [])
        journal.close()
        journal = begun(path)
    assert walked == ["image", "decoder", "image", "decoder", "image"]


@pytest.mark.parametrize(
    ("policy", "expected"), [("optima", [*ARMS, "image"]), ("joint", ["joint"] * 4), ("fixed:text", ["text"] * 4)]
)
def test_before_any_choice_the_arms_of_the_spec_are_cycled(path: Path, policy: str, expected: list[str]) -> None:
    journal = begun(path, policy)
    walked = []
    for round in range(4):
        walked.append(journal.fallback_arm)
        journal.record_pull(round, own_pull(journal.fallback_arm), [])
    assert walked == expected


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_a_torn_last_line_is_cut_off(path: Path, cut: int) -> None:
    played(path).close()
    os.truncate(path, path.stat().st_size - cut)
    journal = begun(path)
    assert arm_of(journal, 2) is None
    journal.record_pull(2, policy_pull("text", 7), [], "i1", 9)
    journal.close()
    assert arm_of(begun(path), 2) == "text"


def test_a_broken_line_in_the_middle_is_named(path: Path) -> None:
    played(path).close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"\0\0\0\n", *lines[3:]]))
    with pytest.raises(JournalError, match=r"line 4 of the journal .* cannot be read"):
        Journal(path)


def test_a_line_of_another_kind_is_named(path: Path) -> None:
    played(path).close()
    with path.open("a", encoding="utf-8") as file:
        file.write('{"kind": "dream"}\n')
    with pytest.raises(JournalError, match=r"line 9 .* is invalid.*'dream'"):
        Journal(path)


def test_another_workers_journal_is_refused(path: Path) -> None:
    played(path).close()
    with pytest.raises(JournalError, match="is of worker w, not v"):
        opened(path).begin("demo", "v", spec())
    with pytest.raises(JournalError, match="is of run demo, not other"):
        opened(path).begin("other", "w", spec())
    with pytest.raises(JournalError, match="has another spec"):
        opened(path).begin("demo", "w", spec(seed=1))


def test_a_journal_that_cannot_be_opened_says_so(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="cannot be opened: No such file or directory"):
        Journal(tmp_path / "absent" / "bandit-journal.jsonl")


def test_two_threads_write_whole_lines(path: Path) -> None:
    journal = begun(path)

    def write(first: int) -> None:
        for round in range(first, 400, 2):
            journal.record_pull(round, own_pull("text"), [])

    threads = [threading.Thread(target=write, args=(first,)) for first in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    again = begun(path)
    assert all(arm_of(again, round) == "text" for round in range(400))


def test_a_full_disk_leaves_whole_lines(path: Path) -> None:
    journal = begun(path)
    journal.record_pull(0, own_pull("text"), [])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    # The file may grow by half a line: the kernel writes that part, as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, limits[1]))
    try:
        with pytest.raises(JournalError, match="cannot be written"):
            journal.record_pull(1, own_pull("image"), [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert arm_of(journal, 1) is None
    journal.record_pull(1, own_pull("decoder"), [])
    journal.close()
    assert arm_of(begun(path), 1) == "decoder"


def test_what_was_written_survives_kill_9(path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from tests.worker.client.test_journal import played;"
        "played(Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=Path(__file__).parents[3], check=False)
    assert done.returncode == -signal.SIGKILL
    journal = begun(path)
    assert (arm_of(journal, 2), [round for round, _, _ in journal.unsent()]) == ("decoder", [1])
