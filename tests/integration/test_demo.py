"""``optima demo`` and the worker's command line, as a user runs them: real server, real store, real DeepSpeed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import open_clip
import psutil
import pytest

from tests.job import metrics
from tests.launch import ROOT, free_port, on_a_terminal
from worker.recipe.recipe import read_recipe
from worker.setup.autotune import PROBES

pytestmark = pytest.mark.deepspeed

OPTIMA = Path(sys.executable).parent / "optima"


def demo(output: Path, *flags: str) -> "subprocess.Popen[str]":
    command = [str(OPTIMA), "demo", "--output-dir", str(output), "--port", str(free_port()),
               "--dashboard-port", str(free_port()), *flags]  # fmt: skip
    return subprocess.Popen(
        on_a_terminal(command),
        cwd=ROOT,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_a_short_demo_ends_with_a_student_that_open_clip_loads(tmp_path: Path) -> None:
    process = demo(tmp_path / "demo", "--rounds", "6", "--ranks", "2")
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text(encoding="utf-8"))
    assert summary["rounds"] == sum(summary["pulls"].values()) == 6
    assert summary["pulls"]["joint"] == 2
    assert summary["policy"] == "optima"
    assert summary["store"] == "embedded"
    assert summary["teacher_accuracy"] >= 0.95
    assert summary["student_accuracy_start"] <= summary["teacher_accuracy"] - 0.10
    assert summary["loss_end"] < summary["loss_start"]
    assert summary["unsent_reports"] == 0
    assert 0 < summary["load_seconds"] < summary["seconds"]
    open_clip.create_model(f"local-dir:{tmp_path / 'demo'}")
    rounds = metrics(tmp_path / "demo")
    assert [record["round"] for record in rounds] == list(range(6))
    saved = read_recipe(tmp_path / "demo" / "recipe.yaml", {})
    assert not saved.open, "open numbers are chosen, and saved for a job that resumes this one"
    assert saved.probe.batches in [2 * batches for batches in PROBES]
    assert [record["chosen_by"] for record in rounds] == ["policy"] * 4 + ["tail"] * 2


def test_a_demo_overwrites_nothing(tmp_path: Path) -> None:
    for taken in ("demo", "demo-server"):
        directory = tmp_path / taken
        directory.mkdir()
        (directory / "server.log").write_text("mine")
        process = demo(tmp_path / "demo")
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 1
        assert f"{directory} is in use; choose an --output-dir" in output
        assert [path.name for path in directory.iterdir()] == ["server.log"]
        (directory / "server.log").unlink()


@pytest.mark.parametrize("mark", ["dashboard:", "round 1/"])
def test_ctrl_c_leaves_no_process_behind(tmp_path: Path, mark: str) -> None:
    process = demo(tmp_path / "demo", "--ranks", "1")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(mark):
            break
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) >= 2
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    _, alive = psutil.wait_procs(started, timeout=10)
    assert alive == []
