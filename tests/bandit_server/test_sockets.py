"""Where a server listens."""

import socket

from bandit_server.sockets import listen


def test_what_is_sent_to_a_browser_does_not_wait_for_what_was_sent_before() -> None:
    with (
        listen("--port", "127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
