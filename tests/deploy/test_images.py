"""The properties of the Dockerfiles, checked on the files, without Docker."""

import re
from pathlib import Path

import pytest

from benchmarks.server.testbed import IMAGE_ENVIRONMENT
from tests.launch import ROOT

DOCKERFILES = sorted((ROOT / "deploy").glob("*.Dockerfile"))

each_image = pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)


def test_there_is_an_image_of_the_server_and_one_of_the_worker() -> None:
    assert [path.stem for path in DOCKERFILES] == ["server", "worker"]


@each_image
def test_the_image_runs_as_a_user_with_a_number_that_is_not_root(dockerfile: Path) -> None:
    users = re.findall(r"^USER (.+)$", dockerfile.read_text(encoding="utf-8"), re.MULTILINE)
    assert users == ["10001:10001"]


@each_image
def test_everything_the_image_copies_is_let_into_the_build(dockerfile: Path) -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile.read_text(encoding="utf-8"), re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists()
            assert f"!{source}" in ignore


@each_image
def test_each_image_installs_its_own_extra_only(dockerfile: Path) -> None:
    extras = re.findall(r"'\.\[(.+)\]'", dockerfile.read_text(encoding="utf-8"))
    assert extras == [dockerfile.stem]


def test_the_server_image_holds_no_worker_and_the_worker_image_no_server() -> None:
    server, worker = (path.read_text(encoding="utf-8") for path in DOCKERFILES)
    assert "COPY worker" not in server
    assert "COPY bandit_server" not in worker


def test_benchmarks_start_servers_as_the_server_image_does() -> None:
    text = (ROOT / "deploy" / "server.Dockerfile").read_text(encoding="utf-8")
    for name, value in IMAGE_ENVIRONMENT.items():
        assert re.search(rf"^(ENV|   ) {name}={value}\b", text, re.MULTILINE)


@each_image
def test_the_build_needs_no_frontend_from_a_registry(dockerfile: Path) -> None:
    assert not re.search(r"^#\s*syntax\s*=", dockerfile.read_text(encoding="utf-8"), re.MULTILINE)
