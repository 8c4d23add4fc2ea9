"""optima dashboard"""

from __future__ import annotations

from pathlib import Path

import click
import uvicorn

from bandit_server.commands.client_options import FILE, Target, calls_a_server
from bandit_server.commands.log_options import logs
from bandit_server.config import check_shown
from bandit_server.dashboard.web.app import create_app
from bandit_server.errors import StartError
from bandit_server.sockets import listen, reachable, web_config
from bandit_server.tls import server_tls


@click.command()
@calls_a_server
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the dashboard.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="Its port.")
@click.option("--tls-cert", type=FILE, metavar="FILE", help="Serve it over TLS: its certificate.")
@click.option("--tls-key", type=FILE, metavar="FILE", help="The certificate's private key.")
@click.option("--anyone-may-look", is_flag=True, help="Show runs without a login; changing them still needs the token.")
@click.option("--insecure", is_flag=True, help="Show everything to other machines although nobody must log in.")
@logs
def dashboard(
    target: Target,
    host: str,
    port: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    anyone_may_look: bool,
    insecure: bool,
) -> None:
    """Run a dashboard of its own, beside any bandit server.

    Where the server asks for a token, browsers log in with the same.
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
    click.echo(f"dashboard: {scheme}://{reachable(host)}:{listener.getsockname()[1]}")
    uvicorn.Server(web_config(app, tls)).run(sockets=[listener])
