"""`optima serve`."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

from bandit_server.commands.client_options import FILE
from bandit_server.commands.log_options import log_options
from bandit_server.config import DATA_DIR, FSYNC, Settings, read_token
from bandit_server.errors import StartError
from bandit_server.server import Server
from bandit_server.tls import server_tls

log = logging.getLogger(__name__)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="gRPC address to listen on.")
@click.option("--port", default=50051, show_default=True, type=click.IntRange(0, 65535), help="gRPC port.")
@click.option("--dashboard-host", default="127.0.0.1", show_default=True, help="Dashboard address to listen on.")
@click.option("--dashboard-port", default=8080, show_default=True, type=click.IntRange(0, 65535),
              help="Dashboard port.")  # fmt: skip
@click.option("--no-dashboard", is_flag=True, help="Serve gRPC only.")
@click.option("--metrics-host", default="127.0.0.1", show_default=True, help="Address of the metrics port.")
@click.option("--metrics-port", type=click.IntRange(0, 65535),
              help="Serve /metrics on this port, in addition to the dashboard's.")  # fmt: skip
@click.option("--redis-url", envvar="OPTIMA_REDIS_URL", metavar="URL",
              help="The store, redis://host:6379 (or OPTIMA_REDIS_URL); by default, an embedded store.")  # fmt: skip
@click.option("--data-dir", type=FILE, default=DATA_DIR, show_default=True,
              help="Directory of the embedded store.")  # fmt: skip
@click.option("--fsync", type=click.Choice(FSYNC), default=FSYNC[0], show_default=True,
              help="When the embedded store syncs to disk.")  # fmt: skip
@click.option("--token-file", type=FILE, metavar="FILE",
              help="File with the token that workers and browsers must send (or OPTIMA_TOKEN_FILE, or OPTIMA_TOKEN).",
              )  # fmt: skip
@click.option("--tls-cert", type=FILE, metavar="FILE", help="Serve over TLS: certificate, with its chain.")
@click.option("--tls-key", type=FILE, metavar="FILE", help="Private key of the certificate.")
@click.option("--tls-client-ca", type=FILE, metavar="FILE",
              help="Require client certificates of these authorities (mTLS).")  # fmt: skip
@click.option("--anyone-may-look", is_flag=True,
              help="Show runs in the dashboard without a login; changing them still requires the token.")  # fmt: skip
@click.option("--insecure", is_flag=True, help="Serve other machines without a token or client certificates.")
@log_options
@click.pass_context
def serve(
    context: click.Context,
    host: str,
    port: int,
    dashboard_host: str,
    dashboard_port: int,
    no_dashboard: bool,
    metrics_host: str,
    metrics_port: int | None,
    redis_url: str | None,
    data_dir: Path,
    fsync: str,
    token_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    anyone_may_look: bool,
    insecure: bool,
) -> None:
    """Run the bandit server and its dashboard until Ctrl-C."""
    if (
        redis_url
        and urlsplit(redis_url).password
        and context.get_parameter_source("redis_url") is ParameterSource.COMMANDLINE
    ):
        raise click.ClickException(
            "--redis-url contains a password, which every user of this machine can read in its list of processes: "
            "set OPTIMA_REDIS_URL in the environment instead"
        )
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
            token=read_token(token_file),
            tls=server_tls(tls_cert, tls_key, tls_client_ca),
            metrics_host=metrics_host,
            metrics_port=metrics_port,
            anyone_may_look=anyone_may_look,
            insecure=insecure,
        )
        server = Server(settings)
        try:
            server.start()
            _print_addresses(server)
            while True:
                signal.pause()
        except KeyboardInterrupt:
            pass
        finally:
            server.stop()
    except StartError as error:
        raise click.ClickException(str(error)) from error


def _print_addresses(server: Server) -> None:
    settings = server.settings
    store = "the store of --redis-url" if settings.redis_url else f"an embedded store in {settings.data_dir}"
    click.echo(f"bandit server: {server.address} with {store}")
    if settings.unencrypted:
        log.warning("traffic with other machines, the token included, is not encrypted: use --tls-cert and --tls-key")
    if server.dashboard_url:
        click.echo(f"dashboard:     {server.dashboard_url}")
    if server.metrics_port is not None:
        click.echo(f"metrics:       port {server.metrics_port}")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
