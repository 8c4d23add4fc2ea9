"""A real DeepSpeed job continues whatever happens to the server, and no reward is lost or counted twice."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from google.protobuf import json_format

from protos.optima.v1 import bandit_pb2 as pb
from tests.job import DATA, PATIENCE, RECIPE, Job, assert_history_is_the_journals, assert_steps, gated, job, pauses
from tests.launch import ROOT
from tests.server_process import ServerProcess, eventually
from worker.client.client import BanditClient
from worker.client.journal import Journal

pytestmark = pytest.mark.deepspeed

# Fallback rounds in each outage. If each of them waited for the patience, they would wait for 5 s.
ROUNDS = 10
# Seconds beside the patience, for what takes milliseconds on an idle machine.
SLACK = 2.0

OWN_DATA = '''
"""A user's data module, beside others with the names of the worker's own modules."""
import json, multiprocessing, os, sys
from pathlib import Path
import data, metrics, models
from worker.data import build as built_in

class Witnessed:
    """Rows that record which process read them."""
    def __init__(self, rows, folder):
        self.rows, self.folder = rows, folder
    def __len__(self):
        return len(self.rows)
    def __getitems__(self, indices):
        record = Path(self.folder, f"{os.getpid()}.json")
        if not record.exists():
            draft = record.with_suffix(".tmp")
            draft.write_text(json.dumps({
                "theirs": [module.OWNER for module in (data, metrics, models)],
                "loader": multiprocessing.parent_process() is not None,
                "grpc": "grpc" in sys.modules,
                "ppid": os.getppid(),
            }))
            draft.rename(record)
        return self.rows.__getitems__(indices)

def build(options):
    module = built_in("digits", {})
    module.train = Witnessed(module.train, options["witnesses"])
    return module
'''


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path / "store")
    yield process
    process.kill()


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's project, with modules that have the names of ours."""
    project = tmp_path / "project"
    (project / "witnesses").mkdir(parents=True)
    (project / "own.py").write_text(OWN_DATA, encoding="utf-8")
    for name in ("data", "metrics", "models"):
        (project / f"{name}.py").write_text("OWNER = 'the user'\n", encoding="utf-8")
    return project


@pytest.mark.timeout(900)
def test_server_killed_emptied_and_frozen_under_two_ranks_with_loaders(
    server: ServerProcess, own: Path, tmp_path: Path
) -> None:
    recipe = RECIPE.replace(
        DATA,
        f"data: {{name: 'own:build', options: {{witnesses: {own}/witnesses}}, batch_size: 4, workers: 2}}",
    )
    with job(tmp_path / "job", server.address, "--run", "r", recipe=recipe, ranks=2, cwd=own) as worker:
        worker.wait_for_rounds("policy", 3)
        assert_only_rank_0_talks_to_the_server(worker, server)
        assert_loaders_are_no_forks_of_a_rank(worker, own / "witnesses")

        outages = [killed(server, worker, seconds=5.0), emptied(server, worker), frozen(server, worker)]
        assert_one_patience_each(worker, outages)

        # A newer process of the same worker.
        with successor(worker, server, tmp_path / "copy.jsonl"):
            worker.wait(status=1)
        assert "a newer process of worker" in worker.log_text
        assert "Traceback" not in worker.log_text, worker.log_text[-4000:]
    with successor(worker, server):
        assert_only_rounds(worker)
        assert_history_is_the_journals(server.events(), worker)
    assert server.run().restored


@pytest.mark.timeout(600)
def test_server_gone_for_good(server: ServerProcess, tmp_path: Path) -> None:
    rounds, tail, first = 20, 4, 3
    recipe = RECIPE.replace("rounds: 0", f"rounds: {rounds}").replace("tail: 0", f"tail: {tail / rounds}")
    with job(tmp_path / "job", server.address, **gated(recipe, tmp_path, "job", first)) as worker:
        worker.wait_for_reports(first)
        began = time.time()
        server.kill()
        worker.open_gate()
        worker.wait()
    assert_only_rounds(worker)
    assert [record["chosen_by"] for record in worker.records()] == (
        ["policy"] * (first + 1) + ["fallback"] * (rounds - tail - first - 1) + ["tail"] * tail
    )
    assert_one_patience_each(worker, [(began, time.time())])
    assert worker.summary()["unsent_reports"] == rounds - first
    assert (worker.output / "student.safetensors").exists()
    assert f"{rounds - first} reports were not delivered to the bandit server" in worker.log_text
    run = worker.lines("worker")[0]["run"]
    server.start()
    # The command that the job has printed.
    command = re.search(r"`python (-m worker\.deliver [^`]*)`", worker.log_text)
    assert command
    for untold in (rounds - first, 0):
        told = subprocess.run(
            [sys.executable, *command[1].split()], cwd=ROOT, check=True, capture_output=True, text=True
        )
        assert f"delivered {untold} reports" in told.stdout
        assert_history_is_the_journals(server.events(run), worker)
    assert server.run(run).workers[0].info.recipe == "tiny"


def killed(server: ServerProcess, worker: Job, seconds: float) -> tuple[float, float]:
    """Kill the server for so long; return start and end of the outage."""
    began = time.time()
    server.kill()
    worker.wait_for_rounds("fallback", ROUNDS)
    eventually(lambda: time.time() > began + seconds)
    server.start()
    worker.wait_for_rounds("policy", 2)
    return began, time.time()


def frozen(server: ServerProcess, worker: Job) -> tuple[float, float]:
    began = time.time()
    server.freeze()
    worker.wait_for_rounds("fallback", ROUNDS)
    server.thaw()
    worker.wait_for_rounds("policy", 2)
    return began, time.time()


def emptied(server: ServerProcess, worker: Job) -> tuple[float, float]:
    began = time.time()
    server.lose_everything()
    eventually(lambda: worker.lines("restored"), 120)
    worker.wait_for_rounds("policy", 2)
    return began, time.time()


def assert_one_patience_each(worker: Job, outages: list[tuple[float, float]]) -> None:
    """Assert that the job has waited at most its patience in each outage, beside its usual pauses."""
    usual = [seconds for when, seconds in pauses(worker) if not any(a <= when <= b for a, b in outages)]
    typical = sorted(usual)[len(usual) // 2]
    for began, ended in outages:
        within = [seconds for when, seconds in pauses(worker) if began <= when <= ended]
        assert sum(max(0.0, seconds - typical) for seconds in within) < PATIENCE + SLACK, within


def assert_only_rounds(worker: Job) -> None:
    """Assert that no round was skipped or trained twice, and that each says who chose its arm."""
    records = worker.records()
    assert_steps(worker, len(records))
    pulls = {line["round"]: line for line in worker.lines("report")}
    assert [(r["arm"], r["chosen_by"]) for r in records] == [
        (pulls[r["round"]]["arm"], pulls[r["round"]]["chosen_by"]) for r in records
    ]


def assert_only_rank_0_talks_to_the_server(worker: Job, server: ServerProcess) -> None:
    port = int(server.address.rpartition(":")[2])
    everyones = psutil.net_connections("tcp")
    callers = {connection.pid for connection in everyones if connection.raddr and connection.raddr.port == port}
    assert [process.environ()["RANK"] for process in worker.tree() if process.pid in callers] == ["0"]


def assert_loaders_are_no_forks_of_a_rank(worker: Job, witnesses: Path) -> None:
    """Assert that both ranks have two loaders each, forked by fork servers, which are programs of their own."""
    records = {int(path.stem): json.loads(path.read_text()) for path in witnesses.glob("*.json")}
    assert all(witness["theirs"] == ["the user"] * 3 for witness in records.values())
    loaders = {pid: witness for pid, witness in records.items() if witness["loader"]}
    assert len(loaders) == 4
    assert not any(witness["grpc"] for witness in loaders.values())
    parents = {psutil.Process(witness["ppid"]) for witness in loaders.values()}
    assert ["multiprocessing.forkserver" in " ".join(parent.cmdline()) for parent in parents] == [True, True]
    # Libraries that all of them need are loaded there, once.
    assert all(any("libtorch" in file.path for file in parent.memory_maps()) for parent in parents)
    ranks = {parent.ppid() for parent in parents}
    assert {psutil.Process(rank).environ()["RANK"] for rank in ranks} == {"0", "1"}
    for rank in ranks:
        programs = [" ".join(child.cmdline()) for child in psutil.Process(rank).children()]
        assert all("from multiprocessing." in program for program in programs), programs


@contextmanager
def successor(worker: Job, server: ServerProcess, journal: Path | None = None) -> Iterator[None]:
    """Start a newer process of the worker, which continues its journal, or a copy, and sends unsent reports."""
    record = worker.output / "bandit-journal.jsonl"
    if journal is not None:
        shutil.copy(record, journal)
    head = worker.lines("worker")[0]
    client = BanditClient(
        server.address,
        run=head["run"],
        worker=head["worker"],
        spec=json_format.ParseDict(head["spec"], pb.RunSpec()),
        journal=Journal(journal or record),
        patience=30.0,
    )
    try:
        client.start()
        assert client.flush(60) == 0
        yield
    finally:
        client.close()
