"""An RTSP camera on the network: JPEG over RTP in the RTSP connection itself (RFC 2326, RFC 2435), on loopback.

It can fail in the ways of its base class. No library serves pictures made on the fly without a video encoder beside it.
"""

from __future__ import annotations

import struct
import threading
from socketserver import StreamRequestHandler

from mjpeg import Fault, MjpegServer

_SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 26\r\na=control:track\r\n"
_CLOCK_HZ = 90_000
_TYPE_420 = 1
_TABLES_FOLLOW = 255
_WAIT_S = 0.02


class RtspServer(MjpegServer):
    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/live"

    def _handler(self, stopped: threading.Event) -> type[StreamRequestHandler]:
        server = self

        class Handler(StreamRequestHandler):
            def handle(self) -> None:
                server.connections += 1
                while server._fault is Fault.SILENT and not stopped.wait(_WAIT_S):
                    pass
                if server._fault is Fault.DROP or stopped.is_set():
                    return
                while _answer(self) not in {"PLAY", ""}:
                    pass
                server._play(self, stopped)

        return Handler

    def _play(self, handler: StreamRequestHandler, stopped: threading.Event) -> None:
        packet = b""
        sequence = 0
        while not stopped.wait(self._interval_s):
            if self._fault is not Fault.FREEZE or not packet:
                packet = _as_rtp_payload(self._jpeg(self._next_number()))
            sequence += 1
            ticks = round(sequence * self._interval_s * _CLOCK_HZ)
            # The marker says that a picture is complete: all of these fit into one packet.
            header = struct.pack("!BBHII", 0x80, 0x80 | 26, sequence & 0xFFFF, ticks & 0xFFFFFFFF, 1)
            data = struct.pack("!cBH", b"$", 0, len(header) + len(packet)) + header + packet
            half = len(data) // 2 if self._fault is Fault.STALL else len(data)
            handler.wfile.write(data[:half])
            while self._fault is Fault.STALL and not stopped.wait(_WAIT_S):
                pass
            handler.wfile.write(data[half:])


def _answer(handler: StreamRequestHandler) -> str:
    """Answer one request; its method, empty when the client has gone."""
    lines = []
    while line := handler.rfile.readline().decode().strip():
        lines.append(line)
    if not lines:
        return ""
    method = lines[0].split()[0]
    headers, body = [line for line in lines if line.lower().startswith("cseq:")], ""
    match method:
        case "OPTIONS":
            headers.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
        case "DESCRIBE":
            body = _SDP
            headers += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
        case "SETUP":
            headers += ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 1"]
        case _:
            headers.append("Session: 1")
    handler.wfile.write("\r\n".join(["RTSP/1.0 200 OK", *headers, "", body]).encode())
    return method


def _as_rtp_payload(jpeg: bytes) -> bytes:
    """RFC 2435: the JPEG's quantization tables and entropy-coded data, with headers of its own."""
    tables, size, data = b"", (0, 0), b""
    at = 2
    while not data:
        marker, length = struct.unpack("!xBH", jpeg[at : at + 4])
        segment = jpeg[at + 4 : at + 2 + length]
        match marker:
            case 0xDB:
                tables += b"".join(segment[start + 1 : start + 65] for start in range(0, len(segment), 65))
            case 0xC0:
                height, width = struct.unpack("!HH", segment[1:5])
                size = width // 8, height // 8
            case 0xDA:
                data = jpeg[at + 2 + length : -2]
        at += 2 + length
    main = struct.pack("!BBHBBBB", 0, 0, 0, _TYPE_420, _TABLES_FOLLOW, *size)
    return main + struct.pack("!BBH", 0, 0, len(tables)) + tables + data
