"""Starts the ranks of a job without DeepSpeed's launcher, for tests that do not test the launcher.

A rank takes six seconds of a core to import torch, DeepSpeed and open_clip, and each of the launcher's two processes
takes four. Here a fork server imports them once, and every rank is forked from it as a process of its own: with its own
arguments, environment and directory, in which it runs the script from its first line on.
"""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import signal
import site
import sys
import time
from collections.abc import Mapping
from multiprocessing import connection, get_context
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.launch import ROOT, free_port

_SERVER = get_context("forkserver")


class RankProcesses:
    """The processes that ``deepspeed --num_accelerators RANKS SCRIPT ARGUMENTS`` would start.

    Args:
        script: The script, relative to the directory or absolute.
        arguments: Its arguments.
        log: The file that all of them write to; it is emptied.
        ranks: Number of ranks.
        environment: Variables beside those of this process.
        directory: Their working directory.
    """

    def __init__(
        self,
        script: str,
        *arguments: str,
        log: Path,
        ranks: int = 1,
        environment: Mapping[str, str] | None = None,
        directory: Path = ROOT,
    ) -> None:
        log.write_bytes(b"")
        self._log = log
        shared = {"WORLD_SIZE": str(ranks), "LOCAL_SIZE": str(ranks),
                  "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}  # fmt: skip
        self._processes = []
        for rank in range(ranks):
            variables = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), **(environment or {})}
            flags = (f"--local_rank={rank}", *arguments)
            self._processes.append(_SERVER.Process(target=_become, args=(script, flags, variables, directory, log)))
        _SERVER.set_forkserver_preload(["tests.ranks_import"])
        for process in self._processes:
            process.start()
        self._pids = [process.pid for process in self._processes if process.pid is not None]

    @property
    def pid(self) -> int:
        """The process id of the first rank."""
        return self._pids[0]

    @property
    def log_text(self) -> str:
        """The output of all ranks so far."""
        return self._log.read_text(encoding="utf-8")

    def poll(self) -> int | None:
        """Return None while ranks run and none has failed; then the same as `wait`."""
        statuses = [process.exitcode for process in self._processes]
        return next((status for status in statuses if status), None if None in statuses else 0)

    def wait(self, seconds: float) -> int:
        """Wait until all ranks have ended; return 0, or the exit status of one that failed.

        Raises:
            AssertionError: They have not ended in time, or not within half a minute after one failed; they are killed.
        """
        deadline = time.monotonic() + seconds
        while running := [process.sentinel for process in self._processes if process.exitcode is None]:
            if self.poll():
                deadline = min(deadline, time.monotonic() + 30)
            if not connection.wait(running, max(0.0, deadline - time.monotonic())):
                self.kill()
                raise AssertionError(f"still running after {seconds} s:\n{self.log_text[-4000:]}")
        status = self.poll()
        assert status is not None
        return status

    def kill(self) -> None:
        """Kill all ranks at once, with all processes they have started."""
        for pid in self._pids:
            # Each is the leader of a process group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        for process in self._processes:
            process.join()


def run_ranks(script: str, *arguments: str, ranks: int = 1, timeout: float = 240, status: int = 0) -> str:
    """Run a script on so many ranks and return what they printed; fails if the exit status is another one."""
    with TemporaryDirectory() as directory:
        processes = RankProcesses(script, *arguments, ranks=ranks, log=Path(directory) / "log")
        actual = processes.wait(timeout)
        assert actual == status, f"{script} ended with {actual}:\n{processes.log_text[-4000:]}"
        return processes.log_text


def _become(script: str, flags: tuple[str, ...], environment: dict[str, str], directory: Path, log: Path) -> None:
    """Become what ``python -u SCRIPT FLAGS`` would be; runs in a process forked by the fork server."""
    os.setsid()
    with log.open("ab") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    for stream in (sys.stdout, sys.stderr):
        assert isinstance(stream, io.TextIOWrapper)
        stream.reconfigure(write_through=True)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    python_path = [str(Path(entry).resolve()) for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    installed = [
        entry for entry in sys.path if entry.startswith((sys.prefix, sys.base_prefix, *site.getsitepackages()))
    ]
    sys.path[:] = [str((directory / script).parent), *python_path, *installed]
    sys.argv = [script, *flags]
    runpy.run_path(script, run_name="__main__")
