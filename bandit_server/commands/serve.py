"""optima serve"""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from types import FrameType

import click

from bandit_server.config import DATA_DIR, FSYNC, Settings, token
from bandit_server.errors import StartError
from bandit_server.server import Server


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of gRPC.")
@click.option("--port", default=50051, show_default=True, type=click.IntRange(0, 65535), help="Port of gRPC.")
@click.option("--dashboard-host", default="127.0.0.1", show_default=True, help="Address of the dashboard.")
@click.option("--dashboard-port", default=8080, show_default=True, type=click.IntRange(0, 65535),
              help="Port of the dashboard.")  # fmt: skip
@click.option("--no-dashboard", is_flag=True, help="Serve gRPC alone.")
@click.option("--redis-url", envvar="OPTIMA_REDIS_URL", metavar="URL",
              help="The store, redis://host:6379 (or OPTIMA_REDIS_URL); without it, one of our own.")  # fmt: skip
@click.option("--data-dir", type=click.Path(path_type=Path), default=DATA_DIR, show_default=True,
              help="Where our own store keeps its file.")  # fmt: skip
@click.option("--fsync", type=click.Choice(FSYNC), default=FSYNC[0], show_default=True,
              help="When our own store writes to the disk itself.")  # fmt: skip
@click.option("--token-file", type=click.Path(path_type=Path), metavar="FILE",
              help="The token that callers must show (or OPTIMA_TOKEN).")  # fmt: skip
@click.option("--insecure", is_flag=True, help="Serve other machines without asking for a token.")
def serve(
    host: str,
    port: int,
    dashboard_host: str,
    dashboard_port: int,
    no_dashboard: bool,
    redis_url: str | None,
    data_dir: Path,
    fsync: str,
    token_file: Path | None,
    insecure: bool,
) -> None:
    """Run the bandit server and its dashboard until Ctrl-C."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        settings = Settings(
            host=host,
            port=port,
            dashboard_host=dashboard_host,
            dashboard_port=None if no_dashboard else dashboard_port,
            redis_url=redis_url,
            data_dir=data_dir,
            fsync=fsync,
            token=token(token_file),
            insecure=insecure,
        )
        server = Server(settings)
        try:
            server.start()
            _greet(server)
            while True:
                signal.pause()
        except KeyboardInterrupt:
            pass
        finally:
            server.stop()
    except StartError as error:
        raise click.ClickException(str(error)) from error


def _greet(server: Server) -> None:
    settings = server.settings
    store = "the store of --redis-url" if settings.redis_url else f"a store of its own in {settings.data_dir}"
    click.echo(f"bandit server: {server.address} with {store}")
    if server.dashboard_url:
        click.echo(f"dashboard:     {server.dashboard_url}")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
