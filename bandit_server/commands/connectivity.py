"""Whether a server can be reached at all, and whether both sides mean TLS: what gRPC calls UNAVAILABLE alike."""

from __future__ import annotations

import socket
import ssl
import time

from bandit_server.commands.client_options import Target
from bandit_server.store.health_check import Finding

DEADLINE = 3.0
# A certificate that ends sooner than this should have been replaced.
SOON_SECONDS = 7 * 24 * 3600
# What an HTTP/2 client sends first: its preface and an empty SETTINGS frame.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
TLS_ALERT = 0x15


def reached(target: Target) -> Finding:
    """The connection. Raises OSError or StartError, with a sentence, for what goes wrong on this side."""
    host, _, port = target.address.rpartition(":")
    if not host or not port.isdigit():
        return Finding("connection", False, f"{target.address!r} is no address: expected host:port")
    host = host.strip("[]")
    context = target.tls.context() if target.tls else None
    try:
        connection = socket.create_connection((host, int(port)), timeout=DEADLINE)
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        return Finding("connection", False, f"nobody listens at {target.address} ({reason}): start a server there with "
                       "`optima serve`, or name another with --server")  # fmt: skip
    with connection:
        return _in_clear(connection) if context is None else _over_tls(connection, host, context)


def _in_clear(connection: socket.socket) -> Finding:
    connection.sendall(PREFACE)
    try:
        answer = connection.recv(16)
    except ConnectionError:
        answer = b""
    except TimeoutError:
        return Finding("connection", False, "the server takes the connection but says nothing: it may be frozen")
    # Over TLS the server is waiting for a greeting of another kind, says so, or hangs up.
    if not answer or answer[0] == TLS_ALERT:
        return Finding(
            "connection", False, "the server wants TLS: say with --tls-ca (OPTIMA_TLS_CA) who vouches for it"
        )
    return Finding("connection", True, "reached, in clear")


def _over_tls(connection: socket.socket, host: str, context: ssl.SSLContext) -> Finding:
    def wrong(sentence: str) -> Finding:
        return Finding("TLS", False, sentence)

    try:
        with context.wrap_socket(connection, server_hostname=host) as secured:
            certificate = secured.getpeercert() or {}
            secured.sendall(PREFACE)
            # Under TLS 1.3 a client learns only now whether its own certificate was taken.
            answer = secured.recv(16)
    except ssl.SSLCertVerificationError as error:
        return wrong(f"the server's certificate is not accepted: {error.verify_message}; is --tls-ca the authority "
                     "that signed it, and is it for this host?")  # fmt: skip
    except TimeoutError:
        return wrong("the server takes the connection but says nothing: it may be frozen")
    except (ssl.SSLError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or str(error)
        if "WRONG_VERSION" in reason or "RECORD_LAYER" in reason:
            return wrong("the server speaks no TLS: leave out --tls-ca, or start the server with --tls-cert")
        if "CERTIFICATE" in reason or "UNKNOWN_CA" in reason:
            return wrong("the server wants a client's certificate of an authority that it knows: see --tls-client-cert "
                         f"({reason})")  # fmt: skip
        return wrong(f"no TLS connection comes about: {reason}")
    if not answer:
        return wrong("the server hangs up: it may want a client's certificate (--tls-client-cert), or speak no TLS")
    ends = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    if ends - time.time() < SOON_SECONDS:
        return wrong(f"the server's certificate ends on {certificate['notAfter']}: replace it and restart the server")
    return Finding("TLS", True, f"reached; the server's certificate is valid until {certificate['notAfter']}")
