"""The worker image's entry point, run with a fake of DeepSpeed's launcher."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.launch import ROOT
from tests.server_process import eventually

ENTRYPOINT = ROOT / "deploy" / "worker-entrypoint.sh"

# Like DeepSpeed's launcher on one machine: it starts one process, waits for it, and has no handler for SIGTERM.
LAUNCHER = """
import subprocess, sys
status = subprocess.run([sys.executable, "-c", sys.argv[1], sys.argv[2]]).returncode
sys.exit(status)
"""
# The launcher's child: on SIGTERM it creates a file, waits until it may exit, creates another, and exits with 7.
SAVES_ON_SIGTERM = """
import pathlib, signal, sys
mark = pathlib.Path(sys.argv[1])
def save(number, frame):
    (mark / "signalled").touch()
    (mark / "may exit").read_bytes()
    (mark / "saved").touch()
    sys.exit(7)
signal.signal(signal.SIGTERM, save)
(mark / "ready").touch()
signal.pause()
"""


def test_sigterm_reaches_what_the_launcher_started_and_is_waited_for(tmp_path: Path) -> None:
    # Reading a fifo blocks until it is written.
    os.mkfifo(tmp_path / "may exit")
    with _started(sys.executable, "-c", LAUNCHER, SAVES_ON_SIGTERM, str(tmp_path)) as process:
        eventually((tmp_path / "ready").exists, 20)
        process.send_signal(signal.SIGTERM)
        eventually((tmp_path / "signalled").exists, 20)
        assert process.poll() is None
        (tmp_path / "may exit").write_bytes(b"")
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
    """Run a command through the entry point, in a process group that is killed at the end of the block."""
    process = subprocess.Popen([str(ENTRYPOINT), *command], start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
