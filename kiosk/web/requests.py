"""From a request to a document and back: bodies with a limit, work beside the event loop, errors as one line."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from kiosk.errors import InputError, KioskError, PermissionDeniedError, UnavailableError, UsageError

log = logging.getLogger(__name__)

_MAX_JSON_BYTES = 16 * 1024
_STALLED_S = 10.0

Handler = Callable[[Request], Awaitable[Response]]
M = TypeVar("M", bound="Wish")


class Wish(BaseModel):
    """What a request's body asks for."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TooLargeError(KioskError):
    """A body beyond its limit."""


class ConflictError(KioskError):
    """What is wanted does not go with what somebody else does at the moment."""


def answering(work: Callable[[Request], Awaitable[object]]) -> Handler:
    """A handler of a function that returns a document or a response, or raises a KioskError."""

    async def handle(request: Request) -> Response:
        try:
            answer = await work(request)
        except KioskError as error:
            return JSONResponse({"error": str(error)}, status_code=status_of(error))
        except (ClientDisconnect, asyncio.CancelledError):
            # Gone, or the page ends.
            return Response(status_code=400)
        except Exception as error:  # noqa: BLE001 - the outermost guard of a request: the page gets one line
            log.error("web page: %s %s: %s: %s", request.method, request.url.path, type(error).__name__, error)  # noqa: TRY400
            return JSONResponse({"error": "internal error; the kiosk's log says more"}, status_code=500)
        return answer if isinstance(answer, Response) else JSONResponse(answer)

    return handle


def status_of(error: KioskError) -> int:
    """HTTP's word for what went wrong."""
    match error:
        case TooLargeError():
            return 413
        case ConflictError():
            return 409
        case InputError() | UsageError():
            return 400
        case PermissionDeniedError():
            return 403
        case UnavailableError():
            return 503
        case _:
            return 500


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """All of it.

    Raises:
        TooLargeError: it is, or says that it will be, longer than the limit.
        UsageError: it stalls.
    """
    said = request.headers.get("content-length", "")
    if said.isdigit() and int(said) > limit_bytes:
        raise _too_large(limit_bytes)
    parts: list[bytes] = []
    size, stream = 0, aiter(request.stream())
    while True:
        try:
            part = await asyncio.wait_for(anext(stream), _STALLED_S)
        except StopAsyncIteration:
            return b"".join(parts)
        except TimeoutError:
            raise UsageError(f"nothing came for {_STALLED_S:g} s; try again") from None
        size += len(part)
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        parts.append(part)


async def read_wish(request: Request, kind: type[M]) -> M:
    """The body as JSON.

    Raises:
        UsageError: it is not what this address takes.
    """
    body = await read_body(request, _MAX_JSON_BYTES)
    try:
        return kind.model_validate_json(body or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the request"
        raise UsageError(f"{where}: {first['msg'].lower()}") from None


def query(request: Request, name: str) -> str | None:
    """A parameter of the address; an empty one counts as none."""
    return request.query_params.get(name) or None


async def beside(work: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 - whatever the work returns
    """Run blocking work in a thread."""
    return await run_in_threadpool(work, *arguments)


def dumps(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _too_large(limit_bytes: int) -> TooLargeError:
    size = f"{limit_bytes >> 20} MiB" if limit_bytes >= 1 << 20 else f"{limit_bytes >> 10} KiB"
    return TooLargeError(f"larger than {size}")
