"""Starts jobs through DeepSpeed's launcher, as a user does. `tests.ranks` starts them without it."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

WITH_SIGINT = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)


def on_a_terminal(command: Sequence[str]) -> list[str]:
    """Return a command that receives Ctrl-C as on a terminal.

    Children of a shell's background job, as the tests may be, ignore SIGINT. Popen's preexec_fn is not used to change
    that: it would run Python after a fork, and gRPC has threads here.
    """
    return [sys.executable, "-c", WITH_SIGINT, *command]


def free_port() -> int:
    """Return a port that was free a moment ago."""
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
    """Start ``deepspeed SCRIPT ARGUMENTS`` as the leader of a process group of its own.

    Args:
        script: The script, relative to the directory or absolute.
        arguments: Its arguments.
        ranks: Number of ranks on this machine.
        flags: Flags of the launcher, instead of those for so many ranks.
        environment: Variables beside those of this process.
        directory: Its working directory.
        output: Where its output goes.
    """
    local = ["--num_accelerators", str(ranks), "--master_port", str(free_port())]
    return subprocess.Popen(
        [str(BIN / "deepspeed"), *(flags or local), script, *arguments],
        cwd=directory,
        env={
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            **(environment or {}),
        },
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
