"""One job on two nodes: two launchers, as `docs/multi-node.md` starts them, one worker in the run."""

from __future__ import annotations

import contextlib
import csv
import os
import signal
from pathlib import Path

import pytest
import yaml

from tests.job import metrics
from tests.launch import ROOT, free_port, launch
from tests.server_process import ServerProcess

pytestmark = pytest.mark.deepspeed

RECIPE = {
    "name": "nodes",
    "teacher": {
        "model": f"open_clip:{ROOT}/deploy/models/digits-coca/open_clip_config.json",
        "checkpoint": f"{ROOT}/deploy/models/digits-coca/model.safetensors",
        "dtype": "bf16",
        "placement": "cpu",
    },
    "student": {"keep": {"image": 1, "text": 1, "multimodal": 1}},
    "data": {"name": "digits", "batch_size": 4},
    "tail": 0.34,
    "rounds": 3,
    "steps_per_round": 2,
    "probe": {"batches": 2, "batch_size": 4, "evaluate_every": 2, "questions": 8},
    "deepspeed": f"{ROOT}/deploy/deepspeed/nodes-zero2.json",
    "tracking": {"csv": True, "tensorboard": True},
}


@pytest.mark.timeout(600)
def test_two_nodes_are_one_worker(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "store")
    (tmp_path / "hostfile").write_text("node0 slots=1\nnode1 slots=1\n", encoding="ascii")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    port = free_port()
    logs = [tmp_path / f"log-{node}" for node in range(2)]
    nodes = []
    for node, log in enumerate(logs):
        with log.open("w") as output:
            nodes.append(launch(
                "worker/train.py",
                "--bandit-addr", server.address, "--run", "r",
                "--recipe", str(tmp_path / "recipe.yaml"), "--output-dir", str(tmp_path / "out"),
                flags=["--hostfile", str(tmp_path / "hostfile"), "--no_ssh", "--node_rank", str(node),
                       "--master_addr", "127.0.0.1", "--master_port", str(port)],
                output=output,
            ))  # fmt: skip
    try:
        for process, log in zip(nodes, logs, strict=True):
            status = process.wait(500)
            assert status == 0, log.read_text()[-4000:]
        (worker,) = server.run().workers
        assert (worker.info.ranks, worker.reports) == (2, 3)
    finally:
        for process in nodes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        server.kill()
    records = metrics(tmp_path / "out")
    assert [record["chosen_by"] for record in records] == ["policy", "policy", "tail"]
    assert (tmp_path / "out" / "student.safetensors").exists()
    with (tmp_path / "out" / "tracking" / "csv" / "train_loss.csv").open() as file:
        tracked = [float(row["loss"]) for row in csv.DictReader(file)]
    assert tracked == [record["train_loss"] for record in records]
    assert list((tmp_path / "out" / "tracking" / "tensorboard").iterdir())
