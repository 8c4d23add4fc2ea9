"""Runs that were dropped from the cache do not go on taking memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from benchmarks.server.testbed import IMAGE_ENVIRONMENT

RUNS = 300

# A process of its own: what others have left in this one would hide what is measured.
MEASURE = f"""
import json
import psutil
from bandit_server.replica.runs import release_memory
from bandit_server.run import serialization
from bandit_server.run.state import RunState
from benchmarks.server.histories import history

resident = lambda: psutil.Process().memory_info().rss
state = RunState("a")
for event in history(100, "w"):
    state.apply(event)
dumped = serialization.dump(state)

def loaded():
    state = RunState("a")
    serialization.load(state, dumped)
    return state

loaded()
before = resident()
runs = [loaded() for _ in range({RUNS})]
busy = resident()
del runs
release_memory()
print(json.dumps([before, busy, resident()]))
"""


def test_memory_of_dropped_runs_is_released_to_the_operating_system() -> None:
    result = subprocess.run(
        [sys.executable, "-c", MEASURE],
        env={**os.environ, **IMAGE_ENVIRONMENT},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    before, busy, after = json.loads(result.stdout)
    held = (after - before) / RUNS
    assert (busy - before) / RUNS > 30_000, "the runs were there"
    assert held < 5_000, f"{held:.0f} bytes a run are held"
