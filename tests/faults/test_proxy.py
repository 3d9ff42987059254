"""The proxy breaks the network as it says: a fault that is none would prove nothing."""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from faults.proxy import Fault, Proxy

pytestmark = pytest.mark.faults

WHOLE = bytes(range(64))


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        try:
            while data := self.request.recv(4096):
                self.request.sendall(data)
        except OSError:
            return


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Before a server that answers with what it is sent."""
    with _Server(("127.0.0.1", 0), _Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Proxy(server.server_address[1]) as proxy:
            yield proxy
        server.shutdown()


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with closing(socket.create_connection(("127.0.0.1", proxy.port), timeout=5)) as client:
        assert exchange(client) == WHOLE
        yield client


def exchange(client: socket.socket) -> bytes:
    """Send, and receive all of it again."""
    client.sendall(WHOLE)
    return receive(client)


def receive(client: socket.socket) -> bytes:
    received = b""
    while len(received) < len(WHOLE):
        part = client.recv(4096)
        if not part:
            raise ConnectionResetError
        received += part
    return received


def silent(client: socket.socket) -> bool:
    client.settimeout(0.3)
    try:
        return not client.recv(4096)
    except TimeoutError:
        return True
    finally:
        client.settimeout(5)


def test_refused(proxy: Proxy, client: socket.socket) -> None:
    proxy.break_by(Fault.REFUSED)
    with pytest.raises(ConnectionResetError):
        receive(client)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
    proxy.mend()
    with closing(socket.create_connection(("127.0.0.1", proxy.port), timeout=5)) as again:
        assert exchange(again) == WHOLE


def test_reset(proxy: Proxy, client: socket.socket) -> None:
    proxy.break_by(Fault.RESET)
    with pytest.raises(ConnectionResetError):
        exchange(client)


def test_black_hole(proxy: Proxy, client: socket.socket) -> None:
    proxy.break_by(Fault.BLACK_HOLE)
    client.sendall(WHOLE)
    assert silent(client)
    proxy.mend()
    assert receive(client) == WHOLE


@pytest.mark.parametrize(("half_closed", "reset"), [(False, False), (True, False), (False, True), (True, True)])
def test_what_a_black_hole_held_comes_later_unless_its_sender_gave_up(half_closed: bool, reset: bool) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server, Proxy(server.getsockname()[1]) as proxy:
        with closing(socket.create_connection(("127.0.0.1", proxy.port), timeout=5)) as client:
            broker, _ = server.accept()
            proxy.break_by(Fault.BLACK_HOLE)
            client.sendall(WHOLE)
            time.sleep(0.2)
            if half_closed:
                client.shutdown(socket.SHUT_RDWR)
                time.sleep(0.1)
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        time.sleep(0.2)
        proxy.mend()
        with closing(broker):
            broker.settimeout(5)
            assert broker.recv(4096) == (b"" if reset else WHOLE)


@pytest.mark.parametrize("fault", [Fault.REQUESTS_LOST, Fault.ANSWERS_LOST])
def test_one_way_loss(proxy: Proxy, client: socket.socket, fault: Fault) -> None:
    proxy.break_by(fault)
    client.sendall(WHOLE)
    assert silent(client)
    proxy.mend()
    with pytest.raises(ConnectionResetError):
        receive(client)


def test_sliced(proxy: Proxy, client: socket.socket) -> None:
    proxy.break_by(Fault.SLICED)
    client.sendall(WHOLE)
    assert len(client.recv(4096)) < len(WHOLE)


@pytest.mark.parametrize(("fault", "least_s"), [(Fault.SLOW, 0.6), (Fault.ANSWERS_LATE, 3.0)])
def test_delays(proxy: Proxy, client: socket.socket, fault: Fault, least_s: float) -> None:
    proxy.break_by(fault)
    began_s = time.monotonic()
    assert exchange(client) == WHOLE
    assert time.monotonic() - began_s >= least_s
