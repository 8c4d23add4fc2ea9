"""The API is what its description says, for requests that follow the description.

What `tests/faults/test_garbage_http.py` sends is meant to break things; here every answer must be a described one.
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

# What concerns the answers; methods and authentication are the other test's.
WANTED = ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"]
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


def test_every_operation_is_among_those_tried(api: Any) -> None:
    assert sorted(operation.ok().label for operation in api.get_all_operations()) == sorted(OPERATIONS)


@pytest.mark.parametrize("label", OPERATIONS)
def test_every_answer_is_a_described_one(api: Any, label: str) -> None:
    operation = next(found.ok() for found in api.get_all_operations() if found.ok().label == label)

    @settings(
        max_examples=10, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy())
    def answered(case: Any) -> None:
        # As names are drawn, there would never be a run to tell of.
        if "run" in case.path_parameters and len(case.path_parameters["run"]) % 2:
            case.path_parameters["run"] = "described"
        case.call_and_validate(checks=CHECKS.get_by_names(WANTED), timeout=20)

    answered()
