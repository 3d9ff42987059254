"""What the running kiosk sees and how it is, for as many browsers as look: it is asked once for all of them."""

from __future__ import annotations

import asyncio
import logging
import struct
import threading
import time
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from kiosk.commands.stores import open_store
from kiosk.config import Config
from kiosk.errors import KioskError, UnavailableError
from kiosk.preview import BusyError, PreviewClient, PreviewFrame, WantedPicture, socket_path
from kiosk.web.numbers import number
from kiosk.web.requests import beside, dumps

log = logging.getLogger(__name__)

_PICTURE = WantedPicture(format="jpeg", longest_px=640, quality=70)
_WAIT_S = 5.0
_ASK_S = 1.0
_LINGER_S = 3.0
"""Once nobody has looked for so long, the kiosk is not asked any more."""
_LENGTH = struct.Struct(">I")
_KNOW_NAMES_S = 5.0
_KNOW_HEALTH_S = 1.0


class Live:
    """``/api/live`` and ``/api/health``."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._feed = _Feed(socket_path(Path(config.store.path)))
        self._names: dict[str, str | None] = {}
        self._names_until_s = 0.0
        self._asking = asyncio.Lock()
        self._known_health: dict[str, Any] = {}
        self._health_until_s = 0.0

    async def next(self, request: Request) -> object:
        """The next picture after the one the browser has: four bytes (big-endian) that say how long the JSON is that
        follows, the JSON, and the JPEG behind it, if there is a newer one.
        """
        header, picture = await beside(self._next, number(request, "after", "a frame's number"))
        document = dumps(header)
        return Response(_LENGTH.pack(len(document)) + document + picture, media_type="application/octet-stream")

    async def health(self, _: Request) -> dict[str, Any]:
        # Asked for once for all who look: the kiosk answers few at a time. Who waits keeps no thread.
        async with self._asking:
            if time.monotonic() >= self._health_until_s:
                self._known_health = await beside(self._health)
                self._health_until_s = time.monotonic() + _KNOW_HEALTH_S
        return self._known_health

    def close(self) -> None:
        self._feed.close()

    def _next(self, after: int | None) -> tuple[dict[str, Any], bytes]:
        frame = self._feed.next(after)
        document = frame.header.model_dump(mode="json", exclude={"version", "picture"})
        names = self._known_names()
        for one in (*document["faces"], *document["outcomes"]):
            one["name"] = names.get(one["subject_id"])
        return document, frame.picture

    def _health(self) -> dict[str, Any]:
        """The kiosk's own document where it runs and answers; what the store tells in any case."""
        report, fault, running = None, None, True
        try:
            with PreviewClient(socket_path(Path(self._config.store.path))) as client:
                report = client.health().model_dump(mode="json")
        except KioskError as error:
            fault, running = str(error), isinstance(error, BusyError)
        with open_store(self._config) as store:
            counts = store.unsent()
            waiting = {"pending": counts.pending, "parked": counts.parked, "last_error": counts.last_error}
        return {
            "running": running,
            "fault": fault,
            "outbox": waiting,
            "health": None if report is None else report["now"],
            "history": [] if report is None else report["history"],
            "broker": None if report is None else report["broker"],
        }

    def _known_names(self) -> dict[str, str | None]:
        """Names by id, at most a few seconds old: a picture ten times a second must not read the store each time."""
        if time.monotonic() >= self._names_until_s:
            with open_store(self._config) as store:
                self._names = {str(subject.id): subject.name for subject in store.subjects()}
            self._names_until_s = time.monotonic() + _KNOW_NAMES_S
        return self._names


class _Feed:
    """The newest answer of the kiosk, asked for in a thread while somebody looks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._newest: PreviewFrame | None = None
        self._failure: KioskError | None = None
        self._count = 0
        self._wanted_s = 0.0
        self._closed = False

    def next(self, after: int | None) -> PreviewFrame:
        """The newest frame once it is another than ``after``; after a while the last answer without a picture.

        Raises:
            UnavailableError: no kiosk runs, or it is busy with others.
        """
        deadline_s = time.monotonic() + _WAIT_S
        with self._changed:
            self._wanted_s = time.monotonic()
            seen = self._count
            if self._thread is None:
                self._newest = self._failure = None
                self._thread = threading.Thread(target=self._run, name="live", daemon=True)
                self._thread.start()
            while not self._closed:
                newest = self._newest
                if self._failure is not None:
                    raise self._failure
                if newest is not None and newest.header.index is not None and newest.header.index != after:
                    return newest
                if newest is not None and newest.header.index is None and self._count > seen:
                    return newest
                if not self._changed.wait(deadline_s - time.monotonic()):
                    break
                self._wanted_s = time.monotonic()
        raise UnavailableError("the kiosk sends no pictures")

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(2 * _ASK_S)

    def _run(self) -> None:
        index: int | None = None
        with PreviewClient(self._path) as client:
            while True:
                try:
                    frame = client.next(after=index, picture=_PICTURE, timeout_s=_ASK_S)
                except KioskError as error:
                    self._put(None, error)
                    break
                index = frame.header.index if frame.header.index is not None else index
                if not self._put(frame, None):
                    break
        with self._changed:
            self._thread = None

    def _put(self, frame: PreviewFrame | None, failure: KioskError | None) -> bool:
        """Whether anybody still looks."""
        with self._changed:
            self._newest, self._failure = frame, failure
            self._count += 1
            self._changed.notify_all()
            return not self._closed and time.monotonic() - self._wanted_s < _LINGER_S
