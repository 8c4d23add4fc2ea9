"""The log's two formats. The records of calls are tested in tests/faults/test_edges.py."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from bandit_server import logs
from protos.optima.v1 import bandit_pb2 as pb

log = logging.getLogger("a.logger")


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logs.REQUEST.set(None)


def test_a_callers_text_cannot_look_like_a_record(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("plain", "info")
    logs.REQUEST.set(pb.GetRunRequest(run="a\n2026-01-01 ERROR faked" + "x" * 10_000_000))
    log.info("a message")
    [line] = capsys.readouterr().err.splitlines()
    assert "INFO a.logger: a message run='a\\n2026-01-01 ERROR faked" in line
    assert len(line) < 300


def test_a_record_has_the_calls_run_worker_and_round(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("json", "warning")
    logs.REQUEST.set(pb.SelectArmRequest(caller=pb.Caller(run="r", worker="w", process="p"), round=3))
    log.info("below the level")
    try:
        raise ValueError("an error")
    except ValueError:
        log.exception("a message")
    [line] = capsys.readouterr().err.splitlines()
    record = json.loads(line)
    assert (record["run"], record["worker"], record["round"]) == ("r", "w", 3)
    assert (record["level"], record["logger"], record["message"]) == ("error", "a.logger", "a message")
    assert "ValueError: an error" in record["exception"]


def test_a_record_outside_a_call_has_no_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("plain", "info")
    log.warning("a message")
    assert capsys.readouterr().err.rstrip().endswith("WARNING a.logger: a message")
