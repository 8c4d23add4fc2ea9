"""Listening sockets."""

import socket

from bandit_server.sockets import listen


def test_accepted_connections_send_without_delay() -> None:
    with (
        listen("--port", "127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
