"""Several DeepSpeed jobs in one run: they share arms and rewards, and may join late and leave early."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from protos.optima.v1 import bandit_pb2 as pb
from tests.bandit_server.test_cli import optima
from tests.job import RECIPE, Job, assert_history_is_the_journals, assert_steps, gated, job
from tests.server_process import ServerProcess, eventually

pytestmark = pytest.mark.deepspeed

ROUNDS = 12
TAIL = 3
# Rounds that a job plays before its gate.
FIRST = 4


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path / "store")
    yield process
    process.kill()


@pytest.mark.timeout(900)
def test_jobs_share_a_run_join_late_and_leave_early(server: ServerProcess, tmp_path: Path) -> None:
    def joins(name: str, *flags: str) -> AbstractContextManager[Job]:
        recipe = RECIPE.replace("rounds: 0", f"rounds: {ROUNDS}").replace("tail: 0", f"tail: {TAIL / ROUNDS}")
        # Each job has data of its own.
        return job(tmp_path / name, server.address, "--run", "r", *flags, **gated(recipe, tmp_path, name, FIRST))

    with joins("first") as first:
        first.wait_for_reports(FIRST)
        with joins("late") as late, joins("killed") as killed, joins("other", "--seed", "1") as other:
            other.wait(status=1)
            assert "run r exists with another spec: seed is 0, not 1" in other.log_text
            assert "Traceback" not in other.log_text

            for worker in (late, killed):
                worker.wait_for_reports(FIRST)
            eventually(lambda: all(worker.alive for worker in server.run().workers))
            assert [worker.reports for worker in server.run().workers] == [FIRST] * 3

            killed.kill()
            first.open_gate()
            first.wait()
            assert_steps(first, ROUNDS)
            assert server.run().state == pb.RUN_STATE_ACTIVE, "a job that joins a run by name leaves it open for others"

            assert optima("runs", "--server", server.address, "finish", "r") == "finished r\n"
            late.open_gate()
            late.wait()
            # It was in a round, and learned of the end when it asked for the next arm.
            assert_steps(late, FIRST + 1)
            assert (late.output / "student.safetensors").exists()
    assert_history_is_the_journals(server.events(), first, late, killed)
    run = server.run()
    assert (run.reports, run.tail_rounds) == (ROUNDS + FIRST + 1 + FIRST, TAIL)
    # The killed job has left an open pull.
    assert sum(arm.pulls for arm in run.arms) == run.reports - TAIL + 1
    numbers = sorted(line["number"] for worker in (first, late, killed) for line in worker.lines("reply"))
    assert len(numbers) == run.reports
    assert not any(line["duplicate"] for worker in (first, late, killed) for line in worker.lines("reply"))
