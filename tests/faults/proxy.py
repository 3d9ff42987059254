"""A TCP proxy that breaks the network in seven ways. No library on the registry does this without a server of its own.

Bytes held back are delivered later, as TCP's retransmissions would do it: also after their sender has closed its end,
but not after it has reset it. A connection that missed some bytes is reset when the fault ends, as its peer would do.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

from broker import free_port

_CHUNK_BYTES = 16_384
_SLOW_DELAY_S, _SLOW_BYTES_PER_S = 0.3, 4096
_SLICE_BYTES, _SLICE_PAUSE_S = 7, 0.002
_LATE_ANSWER_S = 3.0
_TCP_CLOSE = 7


class Fault(StrEnum):
    NONE = "none"
    REFUSED = "refused"
    """Nobody listens; connections there are, are reset."""
    RESET = "reset"
    """Every connection is reset as soon as something is sent over it."""
    BLACK_HOLE = "black hole"
    """Nothing passes in either direction, nothing is said; afterwards all that was held goes on."""
    REQUESTS_LOST = "requests lost"
    """One-way loss: what the kiosk sends is dropped."""
    ANSWERS_LOST = "answers lost"
    """One-way loss: what the broker sends is dropped."""
    ANSWERS_LATE = "answers late"
    """The acknowledgements come after three seconds."""
    SLOW = "slow"
    """Long delay and little bandwidth."""
    SLICED = "sliced"
    """A few bytes at a time, so that no packet comes whole."""


KILLED_BROKER = "broker kill -9"
"""The one kind that is not the proxy's."""
KINDS = [*(fault.value for fault in Fault if fault is not Fault.NONE), KILLED_BROKER]


class Proxy:
    """Listens on ``port`` and passes everything on to ``upstream_port``, or does what :attr:`fault` says."""

    def __init__(self, upstream_port: int) -> None:
        self.port = free_port()
        self.fault = Fault.NONE
        self.connections = 0
        """Accepted so far."""
        self._upstream_port = upstream_port
        self._server: asyncio.Server | None = None
        self._open: set[_Connection] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self.passable = asyncio.Event()
        self.passable.set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._run(self._shut_down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def break_by(self, fault: Fault) -> None:
        """From now on; connections there are suffer, too."""
        self._run(self._change(fault))

    def mend(self) -> None:
        self._run(self._change(Fault.NONE))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _change(self, fault: Fault) -> None:
        self.fault = fault
        if fault is Fault.BLACK_HOLE:
            self.passable.clear()
        else:
            self.passable.set()
        for connection in list(self._open):
            if fault is Fault.REFUSED or connection.missed_bytes:
                connection.reset()
        if fault is Fault.REFUSED:
            await self._deafen()
        elif self._server is None:
            await self._listen()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _deafen(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _shut_down(self) -> None:
        await self._deafen()
        for connection in list(self._open):
            connection.reset()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        self.connections += 1
        try:
            upstream = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        except OSError:
            _reset(writer)
            return
        connection = _Connection(self, (reader, writer), upstream)
        self._open.add(connection)
        try:
            await connection.run()
        finally:
            self._open.discard(connection)


class _Connection:
    """Two directions; the end of one is the end of both."""

    def __init__(
        self,
        proxy: Proxy,
        kiosk: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        broker: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._kiosk = kiosk
        self._broker = broker
        self._ended = asyncio.Event()
        self.missed_bytes = False

    async def run(self) -> None:
        directions = [
            asyncio.ensure_future(self._pass_on(is_request=True)),
            asyncio.ensure_future(self._pass_on(is_request=False)),
            asyncio.ensure_future(self._ended.wait()),
        ]
        await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        for direction in directions:
            direction.cancel()
        await asyncio.gather(*directions, return_exceptions=True)
        for _, writer in (self._kiosk, self._broker):
            writer.close()

    def reset(self) -> None:
        """RST in both directions, without what is still to be written."""
        for _, writer in (self._kiosk, self._broker):
            _reset(writer)
        self._ended.set()

    async def _pass_on(self, *, is_request: bool) -> None:
        (reader, back), (_, writer) = (self._kiosk, self._broker) if is_request else (self._broker, self._kiosk)
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                await self._proxy.passable.wait()
                if _was_reset(back):
                    # While it was held: nobody sends this again, and the other end learns nothing.
                    return
                await self._suffer(data, writer, is_request=is_request)

    async def _suffer(self, data: bytes, writer: asyncio.StreamWriter, *, is_request: bool) -> None:
        match self._proxy.fault:
            case Fault.RESET:
                self.reset()
                return
            case Fault.REQUESTS_LOST | Fault.ANSWERS_LOST as lost if is_request == (lost is Fault.REQUESTS_LOST):
                self.missed_bytes = True
                return
            case Fault.ANSWERS_LATE if not is_request:
                await asyncio.sleep(_LATE_ANSWER_S)
            case Fault.SLOW:
                await asyncio.sleep(_SLOW_DELAY_S + len(data) / _SLOW_BYTES_PER_S)
            case Fault.SLICED:
                for start in range(0, len(data), _SLICE_BYTES):
                    writer.write(data[start : start + _SLICE_BYTES])
                    await writer.drain()
                    await asyncio.sleep(_SLICE_PAUSE_S)
                return
        writer.write(data)
        await writer.drain()


def _was_reset(writer: asyncio.StreamWriter) -> bool:
    """Whether its peer has reset the connection, perhaps after having closed its end, which asyncio does not tell."""
    sock = writer.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return True
    # The first byte of struct tcp_info, include/uapi/linux/tcp.h; TCP_CLOSE in include/net/tcp_states.h.
    state: int = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state == _TCP_CLOSE


def _reset(writer: asyncio.StreamWriter) -> None:
    """Closing with a linger time of zero sends RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
