"""The socket that browsers connect to: a bounded number of connections, and none that says nothing.

uvicorn has no time limit before the first request, and asyncio accepts until there is no file descriptor left: whoever
finds the port could shut everybody out without saying a word.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 64
MOST_AN_ADDRESS = 32
HEAD_TIMEOUT_S = 10.0
"""For TLS and the first request, and for every further one from its first byte on."""


class Listener(socket.socket):
    """Listens already when it is made from the one that does; :meth:`accept` is asyncio's."""

    def __init__(self, listening: socket.socket) -> None:
        super().__init__(listening.family, listening.type, listening.proto, fileno=listening.detach())
        self._open: dict[int, tuple[socket.socket, str]] = {}
        """By file descriptor: connections and where they come from."""
        self._awaited: dict[int, asyncio.TimerHandle] = {}

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection.

        Raises:
            BlockingIOError: there is none, or one too many, which was closed.
        """
        connection, address = super().accept()
        self._open = {number: one for number, one in self._open.items() if one[0].fileno() == number}
        client = client_of(str(address[0]))
        same = sum(other == client for _, other in self._open.values())
        if len(self._open) >= MOST_CONNECTIONS or same >= MOST_AN_ADDRESS:
            connection.close()
            raise BlockingIOError
        number = connection.fileno()
        self._open[number] = connection, client
        self.heard_from(number)
        self._awaited[number] = asyncio.get_running_loop().call_later(HEAD_TIMEOUT_S, self._give_up, number, connection)
        return connection, address

    def heard_from(self, number: int) -> None:
        """A connection has sent its first request."""
        timer = self._awaited.pop(number, None)
        if timer is not None:
            timer.cancel()

    def _give_up(self, number: int, connection: socket.socket) -> None:
        self._awaited.pop(number, None)
        if connection.fileno() == number:
            # Its transport notices, and closes it.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def client_of(address: str) -> str:
    """Who counts as one: an address, of IPv6 its network of 64 bits, which one machine has to itself."""
    if ":" not in address:
        return address
    with contextlib.suppress(OSError):
        return socket.inet_pton(socket.AF_INET6, address.partition("%")[0])[:8].hex()
    return address


class Protocol(H11Protocol):
    """One connection; tells the listener, and waits for no head longer than for the first one."""

    listener: Listener
    _timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._waits_for_head():
            if self._timer is None:
                self._timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.abort)
        else:
            self._stop_timer()
            if self.cycle is not None:
                self.listener.heard_from(self.transport.get_extra_info("socket").fileno())

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _waits_for_head(self) -> bool:
        """A part of one has come."""
        return self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
