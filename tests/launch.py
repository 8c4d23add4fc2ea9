"""Starts jobs through DeepSpeed's launcher, as a user does."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def on_a_terminal() -> None:
    """For Popen's preexec_fn: Ctrl-C is heard, as on a terminal, also where the tests run as a shell's background job,
    whose children are born deaf to it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch(
    script: str,
    *arguments: str,
    ranks: int = 1,
    flags: Sequence[str] = (),
    environment: dict[str, str] | None = None,
    directory: Path = ROOT,
    output: int | IO[str] = subprocess.PIPE,
) -> subprocess.Popen[str]:
    """Start ``deepspeed SCRIPT ARGUMENTS`` in a directory, as the leader of a process group of its own.

    Args:
        flags: The launcher's own, instead of those for so many ranks here.
    """
    here = ["--num_accelerators", str(ranks), "--master_port", str(free_port())]
    return _start([str(BIN / "deepspeed"), *(flags or here), script, *arguments], environment or {}, directory, output)


def rank(
    script: str,
    *arguments: str,
    environment: dict[str, str] | None = None,
    directory: Path = ROOT,
    output: int | IO[str] = subprocess.PIPE,
) -> subprocess.Popen[str]:
    """The one rank that ``deepspeed --num_accelerators 1 SCRIPT ARGUMENTS`` would start, without the two processes of
    the launcher, which take as long to start as the rank itself: where the launcher is not what is looked at."""
    told = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}  # fmt: skip
    command = [sys.executable, "-u", script, "--local_rank=0", *arguments]
    return _start(command, {**told, **(environment or {})}, directory, output)


def _start(
    command: list[str], environment: dict[str, str], directory: Path, output: int | IO[str]
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=directory,
        env={
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            **environment,
        },
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def deepspeed(script: str, *arguments: str, ranks: int = 1, timeout: float = 240, status: int = 0) -> str:
    """Run ``deepspeed SCRIPT ARGUMENTS`` to its end and return what it printed; fails on another exit status. One rank
    runs by itself, without the launcher."""
    process = rank(script, *arguments) if ranks == 1 else launch(script, *arguments, ranks=ranks)
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        output, _ = process.communicate()
        raise AssertionError(f"{script} did not end within {timeout} s:\n{output[-4000:]}") from None
    assert process.returncode == status, f"{script} ended with {process.returncode}:\n{output[-4000:]}"
    return output
