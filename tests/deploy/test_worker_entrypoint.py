"""The worker image's first process, run as it is, on a stand-in for DeepSpeed's launcher."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.server_process import eventually

ENTRYPOINT = Path(__file__).parents[2] / "deploy" / "worker-entrypoint.sh"

# As DeepSpeed's on one machine: it starts one process, waits for it, and has no handler for SIGTERM.
LAUNCHER = """
import subprocess, sys
status = subprocess.run([sys.executable, "-c", sys.argv[1], sys.argv[2]]).returncode
sys.exit(status)
"""
# What it starts: on SIGTERM it says so, ends when it may, with a status of its own, and leaves a mark.
SAVES_ON_SIGTERM = """
import pathlib, signal, sys
mark = pathlib.Path(sys.argv[1])
def save(number, frame):
    (mark / "told").touch()
    (mark / "may end").read_bytes()
    (mark / "saved").touch()
    sys.exit(7)
signal.signal(signal.SIGTERM, save)
(mark / "ready").touch()
signal.pause()
"""


def test_sigterm_reaches_what_the_launcher_started_and_is_waited_for(tmp_path: Path) -> None:
    # Who reads it waits for who writes it.
    os.mkfifo(tmp_path / "may end")
    with _started(sys.executable, "-c", LAUNCHER, SAVES_ON_SIGTERM, str(tmp_path)) as process:
        eventually((tmp_path / "ready").exists, 20)
        process.send_signal(signal.SIGTERM)
        eventually((tmp_path / "told").exists, 20)
        assert process.poll() is None
        (tmp_path / "may end").write_bytes(b"")
        assert process.wait(20) == 7
    assert (tmp_path / "saved").exists()


def test_sigterm_ends_a_command_that_has_started_nothing_yet(tmp_path: Path) -> None:
    alone = "import pathlib, signal, sys; (pathlib.Path(sys.argv[1]) / 'ready').touch(); signal.pause()"
    with _started(sys.executable, "-c", alone, str(tmp_path)) as process:
        eventually((tmp_path / "ready").exists, 20)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM


def test_the_status_is_that_of_the_command(tmp_path: Path) -> None:
    for status in (0, 3):
        with _started(sys.executable, "-c", f"raise SystemExit({status})") as process:
            assert process.wait(20) == status


@contextmanager
def _started(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """The entry point on this command, in a process group that is gone when the block is left."""
    process = subprocess.Popen([str(ENTRYPOINT), *command], start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
