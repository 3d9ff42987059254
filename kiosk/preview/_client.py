"""The other end of the preview: ask the running kiosk for what it sees, or use that as a camera."""

from __future__ import annotations

import contextlib
import io
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
from pydantic import ValidationError

from kiosk.biometrics import Frame, Image
from kiosk.errors import KioskError, PermissionDeniedError, UnavailableError
from kiosk.ports import CameraCondition
from kiosk.preview._protocol import VERSION, Header, HealthReport, Request, WantedPicture, address

_PATIENCE_S = 5.0
"""Beyond what was asked for: a kiosk that answers later hangs."""
_MAX_HEADER_BYTES = 1 << 20
_MAX_PICTURE_BYTES = 1 << 28
_MAX_WAIT_S = 10.0


class BusyError(UnavailableError):
    """The kiosk runs, and answers others."""


@dataclass(frozen=True, slots=True)
class PreviewFrame:
    """An answer. ``picture``: JPEG or raw bytes, empty where none was asked for or no newer frame came in time."""

    header: Header
    picture: bytes

    @property
    def image(self) -> Image | None:
        """The raw picture as an image; None where there is none."""
        sent = self.header.picture
        if sent is None or sent.format != "raw":
            return None
        return np.frombuffer(self.picture, np.uint8).reshape(sent.height, sent.width, 3)


class PreviewClient:
    """Asks the kiosk that listens at ``path``; connects when it is first asked. Not for several threads at once.

    One that has restarted meanwhile is found again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._answers: io.BufferedReader | None = None

    def next(
        self, *, after: int | None = None, picture: WantedPicture | None = None, timeout_s: float = 1.0
    ) -> PreviewFrame:
        """The newest frame, once there is one other than ``after``; without an index where none came in ``timeout_s``.

        Raises:
            UnavailableError: no kiosk runs there, it is busy with others, or it does not answer.
            PermissionDeniedError: it is another user's.
        """
        return self._ask_twice(Request(after=after, timeout_s=min(timeout_s, _MAX_WAIT_S), picture=picture))

    def health(self, *, timeout_s: float = 5.0) -> HealthReport:
        """How the kiosk is; it says so once a second.

        Raises:
            UnavailableError, PermissionDeniedError: as for :meth:`next`.
        """
        report = self._ask_twice(Request(health=True, timeout_s=min(timeout_s, _MAX_WAIT_S))).header.health
        if report is None:
            raise UnavailableError(f"{self._path}: the running kiosk does not answer")
        return report

    def _ask_twice(self, request: Request) -> PreviewFrame:
        for attempt in ("first", "last"):
            fresh = self._socket is None
            try:
                return self._ask(request)
            except (OSError, EOFError) as error:
                self.close()
                # One that has been idle for long was closed by the kiosk.
                if fresh or attempt == "last" or isinstance(error, TimeoutError):
                    raise self._explain(error) from error
            except KioskError:
                self.close()
                raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Hang up; the next question connects again."""
        for part in (self._answers, self._socket):
            if part is not None:
                with contextlib.suppress(OSError):
                    part.close()
        self._answers = self._socket = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        self.close()
        return False

    def _ask(self, request: Request) -> PreviewFrame:
        connection, answers = self._connect()
        connection.settimeout(request.timeout_s + _PATIENCE_S)
        # A refusal may lie there already, behind which nobody listens.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request.model_dump_json().encode() + b"\n")
        line = answers.readline(_MAX_HEADER_BYTES)
        if not line.endswith(b"\n"):
            raise EOFError
        try:
            header = Header.model_validate_json(line)
        except ValidationError:
            raise self._foreign() from None
        if header.version != VERSION:
            raise self._foreign()
        if header.error is not None:
            raise BusyError(f"{self._path}: the running kiosk gives no pictures: {header.error}")
        size = 0 if header.picture is None else header.picture.bytes
        if not 0 <= size <= _MAX_PICTURE_BYTES:
            raise self._foreign()
        data = answers.read(size)
        if len(data) < size:
            raise EOFError
        return PreviewFrame(header, data)

    def _connect(self) -> tuple[socket.socket, io.BufferedReader]:
        if self._socket is None or self._answers is None:
            self.close()
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                connection.settimeout(_PATIENCE_S)
                with address(self._path) as name:
                    connection.connect(name)
            except OSError:
                connection.close()
                raise
            self._socket, self._answers = connection, connection.makefile("rb")
        return self._socket, self._answers

    def _foreign(self) -> UnavailableError:
        return UnavailableError(f"{self._path}: the running kiosk is of another version; restart it")

    def _explain(self, error: OSError | EOFError) -> KioskError:
        match error:
            case PermissionError():
                return PermissionDeniedError(f"{self._path}: may not be used; run as the user who runs the kiosk")
            case FileNotFoundError() | ConnectionRefusedError():
                return UnavailableError(f"{self._path}: no kiosk runs there; start it with `kiosk run`")
            case EOFError() | ConnectionError():
                return UnavailableError(f"{self._path}: the kiosk has ended")
            case TimeoutError() | BlockingIOError():
                return UnavailableError(f"{self._path}: the running kiosk does not answer")
            case _:
                return UnavailableError(f"{self._path}: {(error.strerror or str(error)).lower()}")


class PreviewCamera:
    """Implements :class:`kiosk.ports.Camera` with the frames of the kiosk that listens at ``path``.

    Raises:
        UnavailableError: none does.
    """

    def __init__(self, path: Path) -> None:
        self._client = PreviewClient(path)
        self._after: int | None = None
        self._fault: str | None = None
        self._frames = 0
        self._last_frame_s: float | None = None
        self._client.next(timeout_s=0)

    @property
    def fault(self) -> str | None:
        """The fault of the kiosk's camera."""
        return self._fault

    @property
    def condition(self) -> CameraCondition:
        """As far as the preview tells."""
        last_s = self._last_frame_s
        return CameraCondition(
            fault=self._fault,
            reconnects=0,
            stalls=0,
            frames=self._frames,
            last_frame_age_s=None if last_s is None else time.monotonic() - last_s,
            attempts=self._frames,
        )

    def read(self, timeout_s: float) -> Frame | None:
        """The newest frame not read yet, or None when none came in time.

        Raises:
            UnavailableError: the kiosk has ended.
        """
        answer = self._client.next(after=self._after, picture=WantedPicture(format="raw"), timeout_s=timeout_s)
        header, image = answer.header, answer.image
        self._fault = header.fault
        if header.index is None or header.captured_s is None or image is None:
            return None
        self._after = header.index
        self._frames += 1
        self._last_frame_s = time.monotonic()
        return Frame(image, header.captured_s, header.index)

    def close(self) -> None:
        self._client.close()
