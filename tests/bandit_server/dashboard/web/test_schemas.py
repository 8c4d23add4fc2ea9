"""Requests that follow the OpenAPI description get responses that follow it, too.

`tests/faults/test_garbage_http.py` sends requests that do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CHECKS, load_all_checks

from tests.bandit_server.dashboard.driver import Driver
from tests.bandit_server.dashboard.serving import dashboard

# The checks of responses; that other test covers methods and authentication.
RESPONSE_CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
]
OPERATIONS = [
    "GET /api/runs",
    "GET /api/runs/{run}",
    "GET /api/runs/{run}/events",
    "GET /api/runs/{run}/export/events.jsonl",
    "GET /api/runs/{run}/export/{table}.{form}",
    "PATCH /api/runs/{run}/arms/{arm}",
    "PATCH /api/runs/{run}",
    "DELETE /api/runs/{run}",
    "GET /healthz",
]


@pytest.fixture(scope="module")
def api(server: Any) -> Iterator[Any]:
    load_all_checks()
    with grpc.insecure_channel(server.address) as channel:
        Driver(channel, "described").play(3)
    with dashboard(server.address) as url:
        yield schemathesis.openapi.from_url(f"{url}/api/openapi.json")


def test_every_operation_is_tested(api: Any) -> None:
    assert sorted(operation.ok().label for operation in api.get_all_operations()) == sorted(OPERATIONS)


@pytest.mark.parametrize("label", OPERATIONS)
def test_every_response_is_described(api: Any, label: str) -> None:
    operation = next(each.ok() for each in api.get_all_operations() if each.ok().label == label)

    @settings(
        max_examples=10, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy())
    def call(case: Any) -> None:
        # A drawn name is never that of a run, so half of the cases get one.
        if "run" in case.path_parameters and len(case.path_parameters["run"]) % 2:
            case.path_parameters["run"] = "described"
        case.call_and_validate(checks=CHECKS.get_by_names(RESPONSE_CHECKS), timeout=20)

    call()
