"""A job that is killed, or told to stop, at a random step ends with the weights of an uninterrupted one."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.job import metrics
from tests.launch import ROOT, launch
from tests.ranks import RankProcesses
from tests.server_process import ServerProcess, eventually
from tests.worker.data.pictures import write, write_collages

pytestmark = pytest.mark.deepspeed

ROUNDS, STEPS = 6, 3
MODELS = ROOT / "deploy" / "models" / "digits-coca"
RECIPE: dict[str, Any] = {
    "name": "tiny",
    "teacher": {
        "model": f"open_clip:{MODELS / 'open_clip_config.json'}",
        "checkpoint": str(MODELS / "model.safetensors"),
    },
    "student": {"keep": {"image": 2, "text": 1, "multimodal": 1}},
    "data": {"name": "digits", "batch_size": 8},
    "tail": 0.25,
    "rounds": ROUNDS,
    "steps_per_round": STEPS,
    "probe": {"batches": 1, "batch_size": 32, "evaluate_every": 3, "questions": 32},
    # After every step, so many that a whole round can be gone back.
    "checkpoint": {"every_seconds": 0, "keep": 8},
}


def _streamed(directory: Path) -> dict[str, Any]:
    """Return the changes of a recipe with shards, a sharded teacher and a tracker.

    The loader process of every rank streams the shards, one of which has a faulty sample. Loader processes get every
    signal that the ranks get.
    """
    if not (directory / "shards").exists():
        write_collages(directory / "shards", 3, 40)
        write_collages(directory / "held-out", 1, 64, first=1000)
        write(directory / "shards" / "003.tar", [{"__key__": "faulty", "txt": "top left"}])
    options = {
        "train": "shards/{000..003}.tar",
        "held_out": "held-out/000.tar",
        "tokenizer": "tests.worker.data.pictures:tokenize",
        "shuffle": 30,
        "augment": True,
    }
    return {
        "data": {"name": "webdataset", "batch_size": 8, "workers": 1, "prefetch": 3, "options": options},
        "teacher": RECIPE["teacher"] | {"placement": "zero3"},
        "tracking": {"csv": True},
    }


VARIED: dict[int, Callable[[Path], dict[str, Any]]] = {1: lambda _: {}, 2: _streamed}
"""Changes of the recipe, by the number of ranks."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path / "store")
    yield process
    process.kill()


class Job:
    """The processes of one worker, one after the other."""

    def __init__(self, name: str, tmp_path: Path, server: ServerProcess, ranks: int, stage: int) -> None:
        self.name, self.directory = name, tmp_path / name
        self._address, self.ranks = server.address, ranks
        self._started: list[RankProcesses] = []
        self._launched: list[subprocess.Popen[str]] = []
        self.directory.mkdir()
        # The server's choices depend on the worker's id: both jobs have the same one, in different runs.
        (self.directory / "worker-id").write_text("0123456789abcdef\n", encoding="ascii")
        recipe = tmp_path / "recipe.yaml"
        varied = VARIED[ranks](tmp_path) | {"deepspeed": {"zero_optimization": {"stage": stage}}}
        recipe.write_text(yaml.safe_dump(RECIPE | varied), encoding="utf-8")
        self._arguments = ["--recipe", str(recipe), "--run", name, "--output-dir", str(self.directory)]

    def read_without_loader(self) -> None:
        """Read data without a loader process, which must not change the results."""
        self._arguments += ["--set", "data.workers=0"]

    def start(self) -> RankProcesses:
        """Start it; from the second time on, resume it."""
        log = self.directory.with_name(f"{self.name}-{len(self._started)}.log")
        self._started.append(RankProcesses("worker/train.py", *self._flags(), ranks=self.ranks, log=log))
        return self._started[-1]

    def launch(self) -> subprocess.Popen[str]:
        """Resume it through DeepSpeed's launcher."""
        self._launched.append(launch("worker/train.py", *self._flags(), ranks=self.ranks))
        return self._launched[-1]

    def _flags(self) -> list[str]:
        flags = ["--bandit-addr", self._address, *self._arguments]
        self._arguments = ["--resume", str(self.directory)]
        return flags

    def kill(self) -> None:
        """Kill what is left of it."""
        for ranks in self._started:
            ranks.kill()
        for process in self._launched:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def wait_for_checkpoint(self, process: RankProcesses | subprocess.Popen[str], round: int, step: int) -> None:
        """Wait for a checkpoint at this step or a later one."""
        wanted = f"round-{round:06d}-step-{step:04d}"
        eventually(lambda: process.poll() is not None or any(name >= wanted for name in self.checkpoints()), 500)
        assert process.poll() is None, (
            process.log_text if isinstance(process, RankProcesses) else process.communicate()[0]
        )

    def checkpoints(self) -> list[str]:
        return sorted(path.name for path in self.directory.glob("checkpoints/round-*"))

    def records(self) -> list[dict[str, Any]]:
        """Return the records of all rounds, without times."""
        return [{k: v for k, v in line.items() if not k.endswith("seconds")} for line in metrics(self.directory)]


def wait_for_end(ranks: RankProcesses) -> str:
    assert ranks.wait(500) == 0, ranks.log_text[-4000:]
    return ranks.log_text


def damage(checkpoints: Path) -> None:
    """Damage the newest three, in three ways, and add a draft as a killed process leaves it."""
    newest = sorted(checkpoints.glob("round-*"), reverse=True)
    os.truncate(next((newest[0] / "engine").glob("*model_states.pt")), 1000)
    with (newest[1] / "rank-00000.pt").open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"?")
    (newest[2] / "complete.json").unlink()
    (checkpoints / "draft" / "engine").mkdir(parents=True, exist_ok=True)


def launcher_of(process: subprocess.Popen[str]) -> psutil.Process:
    """Return the process between ``deepspeed`` and the ranks, which gets the SIGTERM of a container or a cluster."""
    return next(p for p in psutil.Process(process.pid).children() if "deepspeed.launcher.launch" in p.cmdline())


@pytest.fixture(params=[(1, 0), (2, 3)], ids=["1 rank, digits", "2 ranks, ZeRO 3, shards"])
def jobs(request: pytest.FixtureRequest, tmp_path: Path, server: ServerProcess) -> Iterator[tuple[Job, Job]]:
    """Two jobs with the same ranks and ZeRO stage, in two runs; the first has no loader process."""
    straight, broken = (Job(name, tmp_path, server, *request.param) for name in ("straight", "broken"))
    straight.read_without_loader()
    yield straight, broken
    for job in (straight, broken):
        job.kill()


@pytest.mark.timeout(1500)
def test_a_killed_job_ends_as_one_that_was_not(jobs: tuple[Job, Job], server: ServerProcess) -> None:
    straight, broken = jobs
    unbroken = straight.start()
    killed = broken.start()
    where = [(1, random.randint(1, STEPS)), (3, random.randint(1, STEPS))]
    print("killed at", where[0], "told to stop at", where[1])

    broken.wait_for_checkpoint(killed, *where[0])
    killed.kill()
    damage(broken.directory / "checkpoints")

    resumed = broken.launch()
    broken.wait_for_checkpoint(resumed, *where[1])
    by_hand = broken.ranks == 1
    if by_hand:
        # Ctrl-C on a terminal: every process gets it, and then the launcher's SIGTERM as well.
        os.killpg(resumed.pid, signal.SIGINT)
    else:
        launcher_of(resumed).terminate()
    output, _ = resumed.communicate(timeout=90)
    assert resumed.returncode != 0
    assert output.count("is not used: ") == 3, output
    for reason in ("has 1000 bytes instead of", "rank-00000.pt is damaged", "complete.json is missing"):
        assert reason in output
    assert f"--resume {broken.directory} " in output
    stopped = re.search(r"stopped by (\w+) in round (\d+)(?:, after (\d+) of its)?", output)
    assert stopped, output
    assert stopped[1] == ("SIGINT" if by_hand else "SIGTERM")

    output = wait_for_end(broken.start())
    step = f", step {stopped[3]}" if stopped[3] else ""
    assert f"resumes with round {stopped[2]}{step}\n" in output, "with the step after the one it stopped at"
    wait_for_end(unbroken)
    student = "student.safetensors"
    assert (broken.directory / student).read_bytes() == (straight.directory / student).read_bytes()
    assert [record["round"] for record in straight.records()] == list(range(ROUNDS))
    assert broken.records() == straight.records()
    curves = [{p.name: p.read_text() for p in job.directory.glob("tracking/csv/*.csv")} for job in (straight, broken)]
    assert curves[0].keys() == curves[1].keys()
    assert all(one == curves[1][name] for name, one in curves[0].items() if not name.startswith("seconds"))
    assert bool(curves[0]) == (straight.ranks == 2)
    assert len(broken.checkpoints()) == 8
    for job in (straight, broken):
        reports = [(r.pull.round, r.pull.number, r.pull.arm) for r in server.reports(job.name)]
        assert reports == [(at, at, record["arm"]) for at, record in enumerate(job.records())]
    summaries = [json.loads((job.directory / "summary.json").read_text()) for job in (straight, broken)]
    for same in ("pulls", "rounds", "loss_start", "loss_end", "metrics_start", "metrics_end", "diverged_rounds"):
        assert summaries[0][same] == summaries[1][same]


def test_a_job_of_version_0_1_goes_on(tmp_path: Path, server: ServerProcess) -> None:
    """It was killed before its first checkpoint: it trains the rounds of its journal again, with the same arms."""
    directory = tmp_path / "job"
    shutil.copytree(ROOT / "tests" / "contract" / "old_data" / "0.1" / "job", directory)
    recipe = directory / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("/optima/deploy", str(ROOT / "deploy")))
    before = metrics(directory)
    ranks = RankProcesses(
        "worker/train.py", "--bandit-addr", server.address, "--resume", str(directory), log=tmp_path / "log"
    )
    try:
        assert "resumes with round 0\n" in wait_for_end(ranks)
    finally:
        ranks.kill()
    after = metrics(directory)
    assert [record["round"] for record in after] == list(range(10))
    assert (directory / "student.safetensors").exists()
    for then, now in zip(before, after, strict=False):
        assert (now["arm"], now["chosen_by"]) == (then["arm"], then["chosen_by"])
        assert now["after"] == pytest.approx(then["after"], rel=1e-3)
    assert [(r.pull.round, r.pull.arm) for r in server.reports("old-job")] == [(r["round"], r["arm"]) for r in after]
