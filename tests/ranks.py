"""The ranks of a job without DeepSpeed's launcher, where that is not what is looked at.

A rank takes six seconds of a core to import torch, DeepSpeed and open_clip, and each of the launcher's two processes
takes four. Here a fork server imports them once, and every rank is a process of its own that comes from it: with
arguments, environment and directory of its own, in which it runs the script from its first line on.
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
    """What ``deepspeed --num_accelerators RANKS SCRIPT ARGUMENTS`` would start beside itself.

    Args:
        script: Relative to the directory, or absolute.
        log: Where all of them write; made anew.
        environment: On top of this process's own.
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
            told = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), **(environment or {})}
            flags = (f"--local_rank={rank}", *arguments)
            self._processes.append(_SERVER.Process(target=_become, args=(script, flags, told, directory, log)))
        _SERVER.set_forkserver_preload(["tests.ranks_import"])
        for process in self._processes:
            process.start()
        self._pids = [process.pid for process in self._processes if process.pid is not None]

    @property
    def pid(self) -> int:
        """Of the first rank."""
        return self._pids[0]

    @property
    def said(self) -> str:
        """What they have printed."""
        return self._log.read_text(encoding="utf-8")

    def poll(self) -> int | None:
        """None while all run that have not failed; then as `wait`."""
        statuses = [process.exitcode for process in self._processes]
        return next((status for status in statuses if status), None if None in statuses else 0)

    def wait(self, seconds: float) -> int:
        """0 once all have ended well; else the status of one that has not, once all have ended.

        Raises:
            AssertionError: They have not ended in time, or not within half a minute of one that failed; they are
                killed.
        """
        deadline = time.monotonic() + seconds
        while running := [process.sentinel for process in self._processes if process.exitcode is None]:
            if self.poll():
                deadline = min(deadline, time.monotonic() + 30)
            if not connection.wait(running, max(0.0, deadline - time.monotonic())):
                self.kill()
                raise AssertionError(f"not at an end after {seconds} s:\n{self.said[-4000:]}")
        status = self.poll()
        assert status is not None
        return status

    def kill(self) -> None:
        """Kill them all at once, and whatever they have started."""
        for pid in self._pids:
            # Each leads a process group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        for process in self._processes:
            process.join()


def run_ranks(script: str, *arguments: str, ranks: int = 1, timeout: float = 240, status: int = 0) -> str:
    """Run so many ranks of a script to their end and return what they printed; fails on another exit status."""
    with TemporaryDirectory() as directory:
        started = RankProcesses(script, *arguments, ranks=ranks, log=Path(directory) / "log")
        ended = started.wait(timeout)
        assert ended == status, f"{script} ended with {ended}:\n{started.said[-4000:]}"
        return started.said


def _become(script: str, flags: tuple[str, ...], environment: dict[str, str], directory: Path, log: Path) -> None:
    """In a process that the fork server has made: be what ``python -u SCRIPT FLAGS`` would be."""
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
    given = environment.get("PYTHONPATH", "").split(os.pathsep)
    kept = [entry for entry in sys.path if entry.startswith((sys.prefix, sys.base_prefix, *site.getsitepackages()))]
    sys.path[:] = [str((directory / script).parent), *(str(Path(entry).resolve()) for entry in given if entry), *kept]
    sys.argv = [script, *flags]
    runpy.run_path(script, run_name="__main__")
