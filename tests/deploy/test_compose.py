"""The properties of docker-compose.yml, checked on the file, without Docker."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.launch import ROOT
from worker.cli import parse

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
FROM_IMAGE = {"bandit-server", "dashboard", "worker"}

each_service = pytest.mark.parametrize("service", SERVICES.values(), ids=list(SERVICES))


def test_up_starts_store_server_and_dashboard_and_the_demo_adds_a_worker() -> None:
    assert {name for name, service in SERVICES.items() if "profiles" not in service} == {
        "redis",
        "bandit-server",
        "dashboard",
    }
    assert SERVICES["worker"]["profiles"] == ["demo"]


@each_service
def test_a_container_can_do_no_more_than_it_must(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "devices"} & set(service)
    # Named volumes only, no files of the host.
    for volume in service.get("volumes", []):
        assert volume.split(":")[0] in COMPOSE["volumes"]


def test_no_container_runs_as_root() -> None:
    assert SERVICES["redis"]["user"] == "999:1000"
    for name in FROM_IMAGE:
        assert SERVICES[name].get("user", "10001") != "0"


@each_service
def test_a_container_says_whether_it_is_healthy(service: dict[str, Any]) -> None:
    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert {"interval", "timeout", "retries", "start_period"} <= set(service["healthcheck"])


def test_a_service_starts_only_after_the_healthy_one_it_calls() -> None:
    needs = {name: service.get("depends_on", {}) for name, service in SERVICES.items()}
    healthy = {"condition": "service_healthy"}
    assert needs == {
        "redis": {},
        "bandit-server": {"redis": healthy},
        "dashboard": {"bandit-server": healthy},
        "worker": {"bandit-server": healthy},
    }


def test_ports_are_published_on_loopback_unless_bind_says_otherwise() -> None:
    assert SERVICES["bandit-server"]["ports"] == ["${OPTIMA_BIND:-127.0.0.1}:${OPTIMA_PORT:-50051}:50051"]
    # Without TLS, browsers would send it the token unencrypted.
    assert SERVICES["dashboard"]["ports"] == ["127.0.0.1:${OPTIMA_DASHBOARD_PORT:-8080}:8080"]
    assert "ports" not in SERVICES["redis"]
    assert "ports" not in SERVICES["worker"]


@pytest.mark.parametrize(
    ("bind", "insecure"),
    [("127.0.0.1", True), ("[::1]", True), ("0.0.0.0", False), ("[::]", False), ("192.168.1.5", False), ("", False)],
)
def test_a_port_published_beyond_loopback_leaves_the_server_to_ask_for_a_token(
    tmp_path: Path, bind: str, insecure: bool
) -> None:
    optima = tmp_path / "optima"
    optima.write_text('#!/bin/sh\necho "$@"\n', encoding="utf-8")
    optima.chmod(0o755)
    script = SERVICES["bandit-server"]["command"][0].replace("$$", "$")
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "OPTIMA_BIND": bind}
    words = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=True).stdout
    assert ("--insecure" in words.split()) is insecure


def test_the_store_is_reached_by_the_server_alone() -> None:
    assert COMPOSE["networks"]["store"] == {"internal": True}
    assert {name for name, service in SERVICES.items() if "store" in service.get("networks", [])} == {
        "redis",
        "bandit-server",
    }
    assert SERVICES["redis"]["networks"] == ["store"]


def test_the_token_never_appears_among_a_process_arguments() -> None:
    for service in SERVICES.values():
        words = [*service.get("entrypoint", []), *service.get("command", []), *service["healthcheck"]["test"]]
        assert "OPTIMA_TOKEN" not in " ".join(words)
    for name in FROM_IMAGE:
        assert SERVICES[name]["environment"]["OPTIMA_TOKEN"] is None


def test_the_store_keeps_its_history_in_an_append_only_file_on_a_volume() -> None:
    command = SERVICES["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "everysec"
    assert f"redis:{options['--dir']}" in SERVICES["redis"]["volumes"]


def test_the_worker_has_longer_to_stop_than_the_launcher_gives_its_ranks() -> None:
    assert int(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) > 30
    for service in SERVICES.values():
        assert service["stop_signal"] == "SIGTERM"
        assert service["stop_grace_period"]


def test_the_server_and_dashboard_commands_are_ones_that_optima_understands() -> None:
    script = (
        SERVICES["bandit-server"]["command"][0].replace("\\\n", " ").replace("$$published_on_loopback", "--insecure")
    )
    serve = script.partition("exec optima ")[2].split()
    assert serve[serve.index("--redis-url") + 1] == "redis://redis:6379"
    dashboard = SERVICES["dashboard"]["command"]
    assert dashboard[dashboard.index("--server") + 1] == "bandit-server:50051"
    for words in (serve, dashboard):
        _understood(words)


def test_the_worker_command_is_one_that_the_worker_understands() -> None:
    launcher, script, *flags = SERVICES["worker"]["command"]
    assert (launcher, script) == ("deepspeed", "worker/train.py")
    arguments = parse(flags)
    assert arguments.bandit_addr == "bandit-server:50051"
    # By default each run gets a new output directory, in the volume.
    assert arguments.output_dir is None
    assert "runs:/app/runs" in SERVICES["worker"]["volumes"]


def test_every_setting_is_described_in_the_example_environment() -> None:
    described = (ROOT / ".env.example").read_text(encoding="utf-8")
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    for name in ("OPTIMA_TOKEN", "OPTIMA_BIND", "OPTIMA_PORT", "OPTIMA_DASHBOARD_PORT", "OPTIMA_TORCH_INDEX"):
        assert name in text
        assert f"#{name}=" in described


def _understood(words: list[str]) -> None:
    """Fail if `optima WORDS` has unknown arguments; with --help nothing is started."""
    command = [sys.executable, "-m", "bandit_server.cli", *words, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
