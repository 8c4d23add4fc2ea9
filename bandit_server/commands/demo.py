"""``optima demo``: run server, dashboard and a worker under DeepSpeed's launcher on this machine.

Each process it starts gets a process group of its own, and the whole group is ended however the demo ends.
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

TRAIN = Path("worker", "train.py")
DIRECTORY = Path("runs/demo")
GRACE_SECONDS = 10.0


@click.command("demo")
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path),
    help=f"Output directory of the worker, empty or new (default: {DIRECTORY}, or {DIRECTORY}-2, -3, …).",
)
@click.option("--policy", default="optima", show_default=True, help="Bandit policy.")
@click.option("--rounds", type=click.IntRange(min=1), help="Rounds to train (default: the recipe's).")
@click.option("--ranks", type=click.IntRange(min=1), help="Training processes (default: one per device).")
@click.option("--port", default=50051, show_default=True, help="gRPC port; any free one if it is taken.")
@click.option("--dashboard-port", default=8080, show_default=True, help="Dashboard port; any free one if it is taken.")
def demo_command(
    output_dir: Path | None, policy: str, rounds: int | None, ranks: int | None, port: int, dashboard_port: int
) -> None:
    """Distil the built-in recipe on this machine.

    Starts a bandit server with an embedded store, the dashboard and a worker, and prints a summary at the end.
    """
    output_dir = (output_dir or _unused(DIRECTORY)).absolute()
    checkout = _checkout()
    launcher = shutil.which("deepspeed", path=_path())
    if launcher is None or checkout is None:
        raise click.ClickException(
            "the demo needs a checkout of OPTIMA with its worker installed: run `make install` there"
        )
    # Beside the output directory, in which only the worker writes.
    server_dir = output_dir.with_name(f"{output_dir.name}-server")
    for directory in (output_dir, server_dir):
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise click.ClickException(f"{directory} is in use; choose an --output-dir that is empty or does not exist")
    server_dir.mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{_free_port(port)}"
    dashboard = f"127.0.0.1:{_free_port(dashboard_port)}"
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        with _server(address, dashboard, server_dir):
            click.echo(f"dashboard: http://{dashboard}   (bandit server at {address})")
            _train(checkout, launcher, address, output_dir, policy, rounds, ranks)
            _summarize(output_dir)
            if sys.stdout.isatty():
                click.echo(f"The dashboard stays at http://{dashboard} until Ctrl-C.")
                signal.pause()
    except KeyboardInterrupt:
        click.echo("stopped")
        # With its summary written, the demo is complete.
        sys.exit(0 if (output_dir / "summary.json").exists() else 130)


def _checkout() -> Path | None:
    """Return the checkout that this module runs from; None if OPTIMA is installed without one."""
    for directory in Path(__file__).resolve().parents:
        if (directory / "pyproject.toml").is_file():
            return directory if (directory / TRAIN).is_file() else None
    return None


def _train(
    checkout: Path, launcher: str, address: str, output_dir: Path, policy: str, rounds: int | None, ranks: int | None
) -> None:
    """Run the worker to its end, with its output on this terminal."""
    # DeepSpeed's default port for its ranks is fixed, so that two jobs on one machine would collide.
    command = [launcher, "--log_level", "warning", "--master_port", str(_free_port(29500))]
    command += ["--num_accelerators", str(ranks)] if ranks else []
    command += [str(TRAIN), "--bandit-addr", address, "--output-dir", str(output_dir), "--policy", policy]
    command += ["--rounds", str(rounds)] if rounds else []
    with _process_group(command, cwd=checkout) as worker:
        status = worker.wait()
    if status != 0:
        raise click.ClickException(f"the worker exited with status {status}; see its output above")


@contextlib.contextmanager
def _server(address: str, dashboard: str, directory: Path) -> Iterator[None]:
    """Run a bandit server with the embedded store and the dashboard; enter the block once it answers."""
    log = directory / "server.log"
    command = [sys.executable, "-m", "bandit_server.cli", "serve", "--port", address.rpartition(":")[2],
               "--dashboard-port", dashboard.rpartition(":")[2], "--data-dir", str(directory / "store")]  # fmt: skip
    with log.open("w", encoding="utf-8") as output, _process_group(command, stdout=output, stderr=output) as server:
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
def _process_group(command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a process group of its own, and end the whole group with the block."""
    # The demo's model is small. With one thread per core it trains a third faster on an idle machine, but ten times
    # slower on a busy one, because every thread waits for the one that lost its core.
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PATH": _path()}
    with contextlib.ExitStack() as stack:
        with _deferred_signals():
            process = subprocess.Popen(command, env=environment, start_new_session=True, **options)
            stack.callback(_end_group, process)
        yield process


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End every process of the group that this one leads."""
    # A second Ctrl-C must not interrupt this and leave processes behind.
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    signal.signal(signal.SIGINT, previous)


def _summarize(output_dir: Path) -> None:
    """Add the kind of store to summary.json, and print it as a table."""
    path = output_dir / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    summary["store"] = "embedded"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
    start, end, teacher = (
        summary[key] for key in ("student_accuracy_start", "student_accuracy_end", "teacher_accuracy")
    )
    pulls = ", ".join(f"{arm} {count}" for arm, count in summary["pulls"].items())
    rows = [
        ("teacher, held-out questions", f"{teacher:.1%}"),
        ("student before", f"{start:.1%}"),
        ("student after", f"{end:.1%}  ({(end - start) / (teacher - start):.0%} of the way to the teacher)"),
        ("total distillation loss", f"{summary['loss_start']:.3f} -> {summary['loss_end']:.3f}"),
        ("pulls", f"{pulls}  (policy {summary['policy']}; joint: the tail)"),
        ("seconds", f"{summary['seconds']:.0f}"),
        ("summary", os.path.relpath(path)),
    ]
    for name, value in rows:
        click.echo(f"  {name:28} {value}")


def _unused(directory: Path) -> Path:
    """Return the first of DIRECTORY, DIRECTORY-2, DIRECTORY-3, … that no earlier demo has written to."""
    candidates = chain([directory], (directory.with_name(f"{directory.name}-{number}") for number in count(2)))
    return next(path for path in candidates if not (path.exists() or path.with_name(f"{path.name}-server").exists()))


def _free_port(preferred: int) -> int:
    """Return the preferred port, or any free one if it is taken."""
    for port in (preferred, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise click.ClickException("this machine has no free port; close programs that listen on one")


def _path() -> str:
    """Return PATH with this environment's programs first: DeepSpeed looks for ninja there."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


@contextlib.contextmanager
def _deferred_signals() -> Iterator[None]:
    """Defer SIGINT, SIGTERM and SIGHUP to the end of the block.

    One that came between the start of a process and Popen's return would leave the process running.
    """
    deferred: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, lambda number, _: deferred.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if deferred:
        raise KeyboardInterrupt


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt
