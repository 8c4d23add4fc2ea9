"""The contract: its stubs are what `make protos` makes of it, and everything in it is explained."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).parent.parent
CONTRACT = "protos/optima/v1/bandit.proto"
STUBS = ["bandit_pb2.py", "bandit_pb2.pyi", "bandit_pb2_grpc.py", "bandit_pb2_grpc.pyi"]


def protoc(*arguments: str) -> None:
    plugins = [
        f"--plugin={name}={Path(sys.executable).with_name(name)}"
        for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
    ]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", ".", *plugins, *arguments, CONTRACT]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("stubs")
    protoc(*(f"--{kind}_out={made}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")))
    return made / Path(CONTRACT).parent


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> FileDescriptorProto:
    made = tmp_path_factory.mktemp("contract") / "descriptors"
    protoc("--include_source_info", f"--descriptor_set_out={made}")
    [file] = FileDescriptorSet.FromString(made.read_bytes()).file
    return file


def test_every_stub_is_committed(generated: Path) -> None:
    assert sorted(path.name for path in generated.iterdir()) == STUBS


@pytest.mark.parametrize("stub", STUBS)
def test_a_stub_is_what_make_protos_generates(stub: str, generated: Path) -> None:
    committed = (ROOT / CONTRACT).with_name(stub).read_text(encoding="utf-8")
    assert committed == (generated / stub).read_text(encoding="utf-8"), "run `make protos` and commit what changes"


def test_the_makefile_generates_with_the_same_options() -> None:
    [recipe] = re.findall(r"^protos:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert re.findall(r"--(\w+)_out=\.", recipe) == ["python", "grpc_python", "mypy", "mypy_grpc"]
    assert CONTRACT in recipe


def without_comment(file: FileDescriptorProto) -> list[str]:
    """Full names of messages, fields, enums, enum values and rpcs that no comment explains."""
    commented = {tuple(at.path) for at in file.source_code_info.location if at.leading_comments.strip()}
    bare = []

    def check(path: tuple[int, ...], name: str) -> None:
        if path not in commented:
            bare.append(name)

    numbers = {field.name: field.number for field in file.DESCRIPTOR.fields}
    for at, message in enumerate(file.message_type):
        path: tuple[int, ...] = (numbers["message_type"], at)
        assert not message.enum_type
        assert all(nested.options.map_entry for nested in message.nested_type), "nested types are to be looked at too"
        # What a request is for stands at its rpc.
        if not message.name.endswith(("Request", "Response")):
            check(path, message.name)
        in_message = {field.name: field.number for field in message.DESCRIPTOR.fields}
        for index, field in enumerate(message.field):
            check((*path, in_message["field"], index), f"{message.name}.{field.name}")
    for at, enum in enumerate(file.enum_type):
        path = (numbers["enum_type"], at)
        check(path, enum.name)
        for index, value in enumerate(enum.value):
            check((*path, enum.DESCRIPTOR.fields_by_name["value"].number, index), f"{enum.name}.{value.name}")
    for at, service in enumerate(file.service):
        for index, method in enumerate(service.method):
            path = (numbers["service"], at, service.DESCRIPTOR.fields_by_name["method"].number, index)
            check(path, f"{service.name}.{method.name}")
    return bare


def test_everything_in_the_contract_has_a_comment(contract: FileDescriptorProto) -> None:
    assert without_comment(contract) == []


def test_a_missing_comment_is_noticed(contract: FileDescriptorProto) -> None:
    stripped = FileDescriptorProto()
    stripped.CopyFrom(contract)
    del stripped.source_code_info.location[:]
    bare = without_comment(stripped)
    assert {"Arm", "Arm.name", "PolicySpec.options", "RewardKind.REWARD_KIND_RELATIVE", "Bandit.SelectArm"} <= set(bare)
    assert {"SelectArmRequest.round", "Measurement.total_loss", "Outcome"} <= set(bare)
    assert "SelectArmRequest" not in bare


def test_every_request_and_response_belongs_to_an_rpc(contract: FileDescriptorProto) -> None:
    [service] = contract.service
    used = {name.rpartition(".")[2] for method in service.method for name in (method.input_type, method.output_type)}
    assert used == {m.name for m in contract.message_type if m.name.endswith(("Request", "Response"))}


def test_every_enum_begins_with_a_value_that_says_it_is_not_set(contract: FileDescriptorProto) -> None:
    assert {enum.value[0].name[-11:] for enum in contract.enum_type} == {"UNSPECIFIED"}
    assert {enum.value[0].number for enum in contract.enum_type} == {0}
