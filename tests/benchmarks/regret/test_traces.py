"""Reward traces: recorded from a run's history, and replayed by the benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from google.protobuf import json_format

from benchmarks import traces
from protos.optima.v1 import bandit_pb2 as pb
from tests.bandit_server.run.play import TAIL, Play, diverged, measured, spec
from tests.benchmarks.command import benchmark


def exported(play: Play, path: Path) -> Path:
    """As `optima runs export` writes it."""
    lines = [json_format.MessageToJson(e, preserving_proto_field_name=True, indent=None) for e in play.events]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_trace_has_the_rewards_of_each_arms_own_pulls(tmp_path: Path) -> None:
    play = Play(spec(policy="round_robin", train=pb.TRAIN_MODE_ACTIVE))
    play.join()
    for round in range(7):
        play.round(round, diverged() if round == 3 else measured(1.0, 1.0 - 0.01 * (round + 1)))
    play.report(7, "joint", measured(1.0, 0.2), chosen_by=TAIL)
    output = tmp_path / "t.json"
    history = exported(play, tmp_path / "r.jsonl")
    benchmark("regret.record_trace", str(history), "--about", "a test", "--output", str(output))
    trace = json.loads(output.read_text(encoding="utf-8"))
    assert trace["rewards"] == {"image": [0.01, 0.07], "text": [0.02, 0.05], "decoder": [0.03, 0.06]}
    assert (trace["about"], trace["train"], trace["policy"], trace["device"]) == (
        "a test",
        "active",
        "round_robin",
        "cpu",
    )
    assert json.loads(benchmark("regret.record_trace", str(history)))["rewards"] == trace["rewards"]


def test_what_is_no_history_is_one_sentence(tmp_path: Path) -> None:
    empty, other, short = (tmp_path / name for name in ("empty", "other", "short"))
    empty.write_text("")
    other.write_text("no json\n")
    play = Play()
    play.join()
    play.round(0)
    exported(play, short)
    assert "the history has no run_created event" in benchmark("regret.record_trace", str(empty), status=1)
    assert "line 1 is not an event of a run" in benchmark("regret.record_trace", str(other), status=1)
    assert "has no reward; play all arms" in benchmark("regret.record_trace", str(short), status=1)
    assert "No such file" in benchmark("regret.record_trace", str(tmp_path / "none"), status=1)


@pytest.mark.parametrize("name", traces.names())
def test_committed_traces_are_small_and_come_from_a_run_that_played_every_arm(name: str) -> None:
    path = Path(traces.__file__).parent / f"{name.removeprefix(traces.PREFIX)}.json"
    assert path.stat().st_size < 50_000
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["about"]
    assert content["policy"] == "round_robin"
    assert min(map(len, traces.rewards(name))) >= 40


def test_the_benchmark_replays_a_trace_without_thresholds(tmp_path: Path) -> None:
    output, name = tmp_path / "r.json", traces.names()[0]
    command = ("--policies", "optima", "sliding_window_ts", "--horizons", "30", "5000", "6000", "--seeds", "2")
    printed = benchmark("regret", "--scenarios", name, *command, "--json", str(output))
    rewards = traces.rewards(name)
    assert f"{name}, 30 pulls of {len(rewards)} arms" in printed
    assert "recorded traces only: no ranking and no thresholds" in printed
    result = json.loads(output.read_text(encoding="utf-8"))
    assert [cell["horizon"] for cell in result["cells"]] == [30, sum(map(len, rewards))], "no longer than recorded"
    assert (result["ranking"], result["bar"]["compared"]) == ([], None)
