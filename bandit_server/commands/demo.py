"""``optima demo``: the whole loop on this machine: server, dashboard, and a worker under DeepSpeed's launcher.

Everything it starts runs in process groups of its own, and is ended, by group, however the demo ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain, count
from pathlib import Path
from typing import Any, NoReturn

import click
import grpc

ROOT = Path(__file__).resolve().parents[2]
TRAIN = Path("worker") / "train.py"
DIRECTORY = Path("runs/demo")
GRACE_SECONDS = 10.0


@click.command("demo")
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path),
    help=f"Where the student goes: an empty directory (default: {DIRECTORY}, or the next number behind it).",
)
@click.option("--policy", default="optima", show_default=True, help="How arms are chosen.")
@click.option("--rounds", type=click.IntRange(min=1), help="Rounds to play (default: the recipe's).")
@click.option("--ranks", type=click.IntRange(min=1), help="Processes to train with (default: one per device).")
@click.option("--port", default=50051, show_default=True, help="gRPC port; another one if it is taken.")
@click.option("--dashboard-port", default=8080, show_default=True, help="The same for the dashboard.")
def demo_command(
    output_dir: Path | None, policy: str, rounds: int | None, ranks: int | None, port: int, dashboard_port: int
) -> None:
    """Distil the built-in recipe here, with server, store, dashboard and worker, and say what came of it."""
    output_dir = (output_dir or _unused(DIRECTORY)).absolute()
    launcher = shutil.which("deepspeed", path=_path())
    if launcher is None or not (ROOT / TRAIN).is_file():
        raise click.ClickException(
            "the demo needs a checkout of OPTIMA with its worker installed: run `make install` there"
        )
    # Beside the worker's directory, which is the worker's alone.
    server_dir = output_dir.with_name(f"{output_dir.name}-server")
    for directory in (output_dir, server_dir):
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise click.ClickException(f"{directory} is in use; choose an --output-dir that is empty or not there yet")
    server_dir.mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{_free(port)}"
    dashboard = f"127.0.0.1:{_free(dashboard_port)}"
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        with _server(address, dashboard, server_dir):
            click.echo(f"dashboard: http://{dashboard}   (bandit server at {address})")
            _train(launcher, address, output_dir, policy, rounds, ranks)
            _conclude(output_dir)
            if sys.stdout.isatty():
                click.echo(f"The dashboard stays at http://{dashboard} until Ctrl-C.")
                signal.pause()
    except KeyboardInterrupt:
        click.echo("stopped")
        # A demo that has written its summary has done what it was asked for.
        sys.exit(0 if (output_dir / "summary.json").exists() else 130)


def _train(launcher: str, address: str, output_dir: Path, policy: str, rounds: int | None, ranks: int | None) -> None:
    """Run the worker to its end, its output on this terminal."""
    # DeepSpeed's port for its ranks is fixed by default, so that two jobs on one machine collide.
    command = [launcher, "--log_level", "warning", "--master_port", str(_free(29500))]
    command += ["--num_accelerators", str(ranks)] if ranks else []
    command += [str(TRAIN), "--bandit-addr", address, "--output-dir", str(output_dir), "--policy", policy]
    command += ["--rounds", str(rounds)] if rounds else []
    with _group(command, cwd=ROOT) as worker:
        status = worker.wait()
    if status != 0:
        raise click.ClickException(f"the worker ended with status {status}; what it said is above")


@contextlib.contextmanager
def _server(address: str, dashboard: str, directory: Path) -> Iterator[None]:
    """A bandit server with the embedded store and the dashboard, ready to be called."""
    log = directory / "server.log"
    command = [sys.executable, "-m", "bandit_server.cli", "serve", "--port", address.rpartition(":")[2],
               "--dashboard-port", dashboard.rpartition(":")[2], "--data-dir", str(directory / "store")]  # fmt: skip
    with log.open("w", encoding="utf-8") as output, _group(command, stdout=output, stderr=output) as server:
        with grpc.insecure_channel(address) as channel:
            ready = grpc.channel_ready_future(channel)
            for _ in range(60):
                with contextlib.suppress(grpc.FutureTimeoutError):
                    ready.result(timeout=0.5)
                    break
                if server.poll() is not None:
                    break
            else:
                server.terminate()
            if not ready.done():
                raise click.ClickException(f"the bandit server did not start:\n{log.read_text(encoding='utf-8')}")
        yield


@contextlib.contextmanager
def _group(command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own; the whole group is gone when the block is left."""
    # The demo's model is small. With a thread on every core training is a third faster on an idle machine, and ten
    # times slower on one that does anything else: every thread waits for the one that lost its core.
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PATH": _path()}
    with contextlib.ExitStack() as ended:
        with _uninterrupted():
            process = subprocess.Popen(command, env=environment, start_new_session=True, **options)
            ended.callback(_end, process)
        yield process


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the whole group."""
    # A second Ctrl-C must not leave half of it behind.
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    signal.signal(signal.SIGINT, previous)


def _conclude(output_dir: Path) -> None:
    """Complete summary.json and print it as a table."""
    path = output_dir / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    summary["store"] = "embedded"
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    draft.replace(path)
    start, end, teacher = (
        summary[key] for key in ("student_accuracy_start", "student_accuracy_end", "teacher_accuracy")
    )
    pulls = ", ".join(f"{arm} {count}" for arm, count in summary["pulls"].items())
    rows = [
        ("teacher, held-out questions", f"{teacher:.1%}"),
        ("student before", f"{start:.1%}"),
        ("student after", f"{end:.1%}  ({(end - start) / (teacher - start):.0%} of the way to the teacher)"),
        ("total distillation loss", f"{summary['loss_start']:.3f} -> {summary['loss_end']:.3f}"),
        ("pulls", f"{pulls}  (policy {summary['policy']}; joint is the tail)"),
        ("seconds", f"{summary['seconds']:.0f}"),
        ("summary", os.path.relpath(path)),
    ]
    for name, value in rows:
        click.echo(f"  {name:28} {value}")


def _unused(directory: Path) -> Path:
    """The directory, or the first of those with a number behind it, that no earlier demo has written to."""
    candidates = chain([directory], (directory.with_name(f"{directory.name}-{number}") for number in count(2)))
    return next(path for path in candidates if not (path.exists() or path.with_name(f"{path.name}-server").exists()))


def _free(preferred: int) -> int:
    """The preferred port, or another if it is taken."""
    for port in (preferred, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise click.ClickException("this machine has no free port left")


def _path() -> str:
    """The search path with this environment's own programs first: DeepSpeed looks for ninja on it."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """What would interrupt the block does so at its end: between a process's birth and Popen's return nobody would know
    whom to end."""
    held: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, lambda number, _: held.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if held:
        raise KeyboardInterrupt


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt
