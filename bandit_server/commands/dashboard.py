"""`optima dashboard`."""

from __future__ import annotations

from pathlib import Path

import click
import uvicorn

from bandit_server.commands.client_options import FILE, Target, server_options
from bandit_server.commands.log_options import log_options
from bandit_server.config import check_shown
from bandit_server.dashboard.web.app import create_app
from bandit_server.errors import StartError
from bandit_server.sockets import listen, local_host, web_config
from bandit_server.tls import server_tls


@click.command()
@server_options
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="Port to listen on.")
@click.option("--tls-cert", type=FILE, metavar="FILE", help="Serve over TLS: certificate, with its chain.")
@click.option("--tls-key", type=FILE, metavar="FILE", help="Private key of the certificate.")
@click.option(
    "--anyone-may-look", is_flag=True, help="Show runs without a login; changing them still requires the token."
)
@click.option("--insecure", is_flag=True, help="Serve other machines without a token.")
@log_options
def dashboard(
    target: Target,
    host: str,
    port: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    anyone_may_look: bool,
    insecure: bool,
) -> None:
    """Run a separate dashboard for a bandit server.

    If the server requires a token, browsers log in with the same token.
    """
    try:
        check_shown("--host", host, target.token, insecure)
        tls = server_tls(tls_cert, tls_key)
        if tls is not None:
            tls.check()
        app = create_app(
            target.address, target.token, credentials=target.credentials(), anyone_may_look=anyone_may_look
        )
        listener = listen("--port", host, port)
    except StartError as error:
        raise click.ClickException(str(error)) from error
    scheme = "https" if tls else "http"
    click.echo(f"dashboard: {scheme}://{local_host(host)}:{listener.getsockname()[1]}")
    uvicorn.Server(web_config(app, tls)).run(sockets=[listener])
