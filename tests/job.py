"""A DeepSpeed job of the real worker, with a recipe whose rounds take tenths of a second; watched by its journal."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from protos.optima.v1 import bandit_pb2 as pb
from tests.launch import ROOT, launch
from tests.ranks import RankProcesses
from tests.server_process import eventually

PATIENCE = 0.5
"""Seconds that a job waits, once per outage, for a server that is away."""
STEPS = 2
"""Optimizer steps in a round."""
BATCH = 4
DATA = f"data: {{name: digits, batch_size: {BATCH}}}"

RECIPE = f"""
name: tiny
teacher:
  model: open_clip:{ROOT}/deploy/models/digits-coca/open_clip_config.json
  checkpoint: {ROOT}/deploy/models/digits-coca/model.safetensors
student:
  keep: {{image: 1, text: 1, multimodal: 1}}
{DATA}
tail: 0
rounds: 0
steps_per_round: {STEPS}
probe: {{batches: 1, batch_size: 4, evaluate_every: 1000, questions: 4}}
"""

GATED = '''
"""The digits, of which a job gets only the first rows until a file exists."""
import threading
from pathlib import Path
from worker.data import build as built_in

class Gated:
    def __init__(self, rows, gate, before):
        self.rows, self.gate, self.before = rows, Path(gate), before
    def __len__(self):
        return len(self.rows)
    def __getitems__(self, indices):
        while indices[0] >= self.before and not self.gate.exists():
            threading.Event().wait(0.02)
        return self.rows.__getitems__(indices)

def build(options):
    module = built_in("digits", {"seed": options["seed"]})
    module.train = Gated(module.train, options["gate"], options["before"])
    return module
'''

Line = dict[str, Any]


def gated(recipe: str, project: Path, name: str, rounds: int) -> dict[str, Any]:
    """Return recipe and directory of a job on one rank that waits at its gate in a round.

    Args:
        recipe: The recipe to change.
        project: The directory of the job's data module.
        name: The job's name, which decides on its data.
        rounds: The rounds that it plays before.
    """
    (project / "gated_digits.py").write_text(GATED, encoding="utf-8")
    options = {"seed": len(name), "gate": str(project / name / "gate"), "before": rounds * STEPS * BATCH}
    data = json.dumps({"name": "gated_digits:build", "batch_size": BATCH, "options": options})
    return {"recipe": recipe.replace(DATA, f"data: {data}"), "cwd": project}


class Job:
    """``deepspeed worker/train.py`` in a run; a single rank is started without the launcher.

    Args:
        directory: The directory of its files: recipe, output, log.
        address: The bandit server's address.
        flags: Further flags.
        recipe: Its recipe.
        ranks: Number of ranks.
        cwd: Its working directory.

    Attributes:
        output: Its output directory.
    """

    def __init__(
        self, directory: Path, address: str, *flags: str, recipe: str = RECIPE, ranks: int = 1, cwd: Path = ROOT
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.output = directory / "out"
        self._gate = directory / "gate"
        self._log = directory / "log"
        (directory / "recipe.yaml").write_text(recipe, encoding="utf-8")
        command = (
            str(ROOT / "worker" / "train.py"),
            "--bandit-addr", address, "--bandit-patience", str(PATIENCE),
            "--recipe", str(directory / "recipe.yaml"), "--output-dir", str(self.output), *flags,
        )  # fmt: skip
        environment = {"PYTHONPATH": str(ROOT)}
        self._process: RankProcesses | subprocess.Popen[str]
        if ranks == 1:
            self._process = RankProcesses(*command, log=self._log, directory=cwd, environment=environment)
        else:
            with self._log.open("w") as log:
                self._process = launch(*command, ranks=ranks, directory=cwd, environment=environment, output=log)

    @property
    def log_text(self) -> str:
        """The output so far."""
        return self._log.read_text(encoding="utf-8")

    def lines(self, kind: str = "") -> list[Line]:
        """Return the journal's complete lines so far, of one kind or all."""
        journal = self.output / "bandit-journal.jsonl"
        content = journal.read_text(encoding="utf-8") if journal.exists() else ""
        entries = [json.loads(line) for line in content.splitlines(keepends=True) if line.endswith("\n")]
        return [entry for entry in entries if kind in ("", entry["kind"])]

    def chosen(self, chosen_by: str) -> int:
        """Return the number of rounds begun whose arm was chosen in this way."""
        return sum(line["chosen_by"] == chosen_by for line in self.lines("pull"))

    def wait_for_rounds(self, chosen_by: str, rounds: int, seconds: float = 240) -> None:
        """Wait until it has begun so many more rounds whose arms were chosen in this way."""
        first = self.chosen(chosen_by)

        def done() -> bool:
            assert self._process.poll() is None, f"the job has ended:\n{self.log_text[-4000:]}"
            return self.chosen(chosen_by) >= first + rounds

        eventually(done, seconds)

    def wait_for_reports(self, rounds: int, seconds: float = 240) -> None:
        """Wait until the server has the reports of so many rounds, and the next round has begun."""

        def done() -> bool:
            assert self._process.poll() is None, f"the job has ended:\n{self.log_text[-4000:]}"
            return len(self.lines("reply")) >= rounds and len(self.lines("pull")) > rounds

        eventually(done, seconds)

    def open_gate(self) -> None:
        """Let it go on."""
        self._gate.touch()

    def tree(self) -> list[psutil.Process]:
        """Return its processes, first the launcher if there is one."""
        launcher = psutil.Process(self._process.pid)
        return [launcher, *launcher.children(recursive=True)]

    def kill(self) -> None:
        """Kill all of its processes at once, as a failing machine would."""
        processes = self.tree() if self._process.poll() is None else []
        for process in processes:
            process.suspend()
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, 10)
        self._process.wait(10)

    def wait(self, status: int = 0, seconds: float = 240) -> None:
        """Wait for its end, and check its exit status."""
        assert self._process.wait(seconds) == status, self.log_text[-4000:]

    def records(self) -> list[Line]:
        """Return the lines of metrics.jsonl, one for each round."""
        return metrics(self.output)

    def summary(self) -> Line:
        """Return the content of summary.json."""
        summary: Line = json.loads((self.output / "summary.json").read_text(encoding="utf-8"))
        return summary

    def close(self) -> None:
        """Kill it if it is still running."""
        if self._process.poll() is None:
            self.kill()


def metrics(output: Path) -> list[Line]:
    """Return the lines of the metrics.jsonl in an output directory, one for each round."""
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@contextmanager
def job(directory: Path, address: str, *flags: str, **options: Any) -> Iterator[Job]:
    """Run a job that is gone after the block."""
    started = Job(directory, address, *flags, **options)
    try:
        yield started
    finally:
        started.close()


def pauses(job: Job) -> list[tuple[float, float]]:
    """Return (time, seconds) of the job's pauses between two rounds.

    A pause begins with a round's report, which is journalled before it is sent, and ends with the next choice, which is
    journalled when it is known.
    """
    lines = [line for line in job.lines() if line["kind"] in ("pull", "report")]
    return [
        (after["time"], after["time"] - before["time"])
        for before, after in itertools.pairwise(lines)
        if (before["kind"], after["kind"]) == ("report", "pull")
    ]


def assert_steps(job: Job, rounds: int) -> None:
    """Assert that the job has played so many rounds, in order, with all optimizer steps."""
    records = job.records()
    assert [record["round"] for record in records] == list(range(rounds))
    assert [record["step"] for record in records] == [STEPS * (round + 1) for round in range(rounds)]


def assert_history_is_the_journals(events: list[pb.Event], *jobs: Job) -> None:
    """Assert that the server's history is that of the jobs' journals.

    Every reported round counts once, with its arm and its numbers, and no other round counts. No pull is open except
    for a job's last round.
    """
    reports = [event.reward_reported for event in events if event.HasField("reward_reported")]
    numbers = [report.pull.number for report in reports]
    assert len(set(numbers)) == len(numbers), "two pulls have one number"
    assert {report.pull.worker for report in reports} == {job.lines("worker")[0]["worker"] for job in jobs}
    closed = {*numbers, *(report.superseded for report in reports if report.HasField("superseded"))}
    pulls = [event.arm_pulled.pull for event in events if event.HasField("arm_pulled")]
    for one in jobs:
        worker = one.lines("worker")[0]["worker"]
        open_rounds = {pull.round for pull in pulls if pull.worker == worker and pull.number not in closed}
        assert open_rounds <= {one.lines("pull")[-1]["round"]}, "a pull was left open"
        ours = [report for report in reports if report.pull.worker == worker]
        lines = {line["round"]: line for line in one.lines("report")}
        assert len(ours) == len({report.pull.round for report in ours}), "a round counts twice"
        assert {report.pull.round for report in ours} == set(lines)
        for report in ours:
            line = lines[report.pull.round]
            assert report.pull.arm == line["arm"]
            assert report.measurement.after == line["measurement"]["after"]
            if report.pull.chosen_by == pb.CHOSEN_BY_TAIL:
                assert not report.HasField("reward")
            else:
                before, after = line["measurement"]["before"], line["measurement"]["after"]
                assert report.reward == pytest.approx((before - after) / before)
