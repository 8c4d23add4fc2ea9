"""Starts jobs through DeepSpeed's launcher, as a user does; `tests.ranks` starts them without it."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

HEARING = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"


def on_a_terminal(command: Sequence[str]) -> list[str]:
    """A command that hears Ctrl-C, as on a terminal, also where the tests run as a shell's background job, whose
    children are born deaf to it. Not by Popen's preexec_fn: that is Python after a fork, with gRPC's threads here."""
    return [sys.executable, "-c", HEARING, *command]


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
    return subprocess.Popen(
        [str(BIN / "deepspeed"), *(flags or here), script, *arguments],
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
