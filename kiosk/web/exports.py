"""Files that are made while they are sent: however long the log is, little of it is in memory at a time."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator

from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from kiosk.web.requests import beside

log = logging.getLogger(__name__)

ONE_AT_A_TIME = asyncio.Lock()
"""Held for what needs much of the machine. Whoever waits for it waits in the event loop, and keeps no thread."""


async def send_file(pieces: Callable[[], Iterator[str]], name: str, media_type: str) -> Response:
    """A response that downloads as ``name``; its pieces are made one after the other, each when it is to be sent.

    Raises:
        KioskError: the first piece cannot be made.
    """
    made = pieces()
    first = await _next(made)
    name = re.sub(r"[^A-Za-z0-9._-]", "", name)
    return _File(
        _all(first, made), media_type=media_type, headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )


class _File(StreamingResponse):
    async def stream_response(self, send: Send) -> None:
        try:
            await super().stream_response(send)
        except Exception as error:  # noqa: BLE001 - half of it is sent: left without an end, the browser says so
            log.error("web page: a file could not be sent to its end: %s: %s", type(error).__name__, error)  # noqa: TRY400


async def _all(first: str | None, made: Iterator[str]) -> AsyncIterator[str]:
    piece = first
    while piece is not None:
        yield piece
        piece = await _next(made)


async def _next(made: Iterator[str]) -> str | None:
    # Not held while it is sent: a browser that takes nothing more must not keep others waiting.
    async with ONE_AT_A_TIME:
        piece: str | None = await beside(next, made, None)
        return piece
