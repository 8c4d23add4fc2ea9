"""The log's two forms; what a call's records say is in tests/faults/test_edges.py."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from bandit_server import logs
from protos.optima.v1 import bandit_pb2 as pb

log = logging.getLogger("a.logger")


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logs.REQUEST.set(None)


def test_a_strangers_text_cannot_look_like_a_line_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("plain", "info")
    logs.REQUEST.set(pb.GetRunRequest(run="a\n2026-01-01 ERROR faked" + "x" * 10_000_000))
    log.info("told")
    [line] = capsys.readouterr().err.splitlines()
    assert "INFO a.logger: told run='a\\n2026-01-01 ERROR faked" in line
    assert len(line) < 300


def test_a_record_names_the_call_it_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("json", "warning")
    logs.REQUEST.set(pb.SelectArmRequest(caller=pb.Caller(run="r", worker="w", process="p"), round=3))
    log.info("not told")
    try:
        raise ValueError("a fault")
    except ValueError:
        log.exception("told")
    [line] = capsys.readouterr().err.splitlines()
    record = json.loads(line)
    assert (record["run"], record["worker"], record["round"]) == ("r", "w", 3)
    assert (record["level"], record["logger"], record["message"]) == ("error", "a.logger", "told")
    assert "ValueError: a fault" in record["exception"]


def test_a_record_that_is_about_no_call_names_none(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("plain", "info")
    log.warning("told")
    assert capsys.readouterr().err.rstrip().endswith("WARNING a.logger: told")
