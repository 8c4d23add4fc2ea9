"""optima dashboard"""

from __future__ import annotations

from pathlib import Path

import click
import uvicorn

from bandit_server.config import check_dashboard, token
from bandit_server.dashboard.app import create_app
from bandit_server.errors import StartError
from bandit_server.server import listen


@click.command()
@click.option("--server", "address", default="127.0.0.1:50051", show_default=True, help="The bandit server.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the dashboard.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="Its port.")
@click.option("--token-file", type=click.Path(path_type=Path), metavar="FILE",
              help="The bandit server's token (or OPTIMA_TOKEN).")  # fmt: skip
@click.option("--insecure", is_flag=True, help="Show everything to other machines, too.")
def dashboard(address: str, host: str, port: int, token_file: Path | None, insecure: bool) -> None:
    """Run a dashboard of its own, beside any bandit server."""
    try:
        check_dashboard("--host", host, insecure)
        shown = token(token_file)
        listener = listen("--port", host, port)
    except StartError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"dashboard: http://{host}:{listener.getsockname()[1]}")
    config = uvicorn.Config(create_app(address, shown), log_level="warning", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])
