"""The application: which address does what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from kiosk import __version__
from kiosk.commands.enroll import site_today
from kiosk.commands.web_settings import WebSettings
from kiosk.config import Config
from kiosk.web.attendance import AttendanceLog
from kiosk.web.enrollments import Enrollments
from kiosk.web.guard import Guard, cookie_name
from kiosk.web.listener import client_of
from kiosk.web.live import Live
from kiosk.web.people import People
from kiosk.web.requests import Wish, answering, read_wish
from kiosk.web.sessions import Paused, Sessions

_ASSETS = Path(__file__).parent / "assets"


def build_app(config: Config, settings: WebSettings) -> tuple[ASGIApp, Callable[[], None]]:
    """The whole page with its guard; and what ends the waiting of its threads, to be called before the end."""
    sessions = Sessions(settings.password)
    door = _Door(config, settings, sessions)
    live, people, log, enrollments = Live(config), People(config), AttendanceLog(config), Enrollments(config)

    def stop() -> None:
        live.close()
        enrollments.close()

    routes = [
        Route("/api/session", answering(door.show)),
        Route("/api/session", answering(door.enter), methods=["POST"]),
        Route("/api/session", answering(door.leave), methods=["DELETE"]),
        Route("/api/live", answering(live.next)),
        Route("/api/health", answering(live.health)),
        Route("/api/subjects", answering(people.search)),
        Route("/api/gallery", answering(people.audit)),
        Route("/api/subjects/{subject_id}", answering(people.show)),
        Route("/api/subjects/{subject_id}", answering(people.rename), methods=["PATCH"]),
        Route("/api/subjects/{subject_id}", answering(people.remove), methods=["DELETE"]),
        Route("/api/events", answering(log.search)),
        Route("/api/events", answering(log.add), methods=["POST"]),
        Route("/api/events/{event_id}/void", answering(log.void), methods=["POST"]),
        Route("/api/events.csv", answering(log.export_csv)),
        Route("/api/events.json", answering(log.export_json)),
        Route("/api/rejections", answering(log.rejections)),
        Route("/api/decisions/{event_id}", answering(log.explain)),
        Route("/api/enrollments", answering(enrollments.begin), methods=["POST"]),
        Route("/api/enrollments/{key}", answering(enrollments.follow)),
        Route("/api/enrollments/{key}", answering(enrollments.cancel), methods=["DELETE"]),
        Route("/api/enrollments/{key}/photos", answering(enrollments.add_photo), methods=["POST"]),
        Route("/api/enrollments/{key}/finish", answering(enrollments.finish), methods=["POST"]),
        *([Route("/metrics", answering(_metrics(live)))] if config.web.metrics else []),
        *(Route("/" if file.name == "index.html" else f"/{file.name}", _asset(file)) for file in _ASSETS.iterdir()),
    ]
    pages = Starlette(routes=routes, exception_handlers={404: _not_found, 405: _not_found})
    return Guard(pages, settings=settings, sessions=sessions), stop


def _metrics(live: Live) -> Callable[[Request], Awaitable[object]]:
    # Its library takes a tenth of a second to load.
    from kiosk.web.metrics import Metrics

    return Metrics(live.health).show


class _Password(Wish):
    password: str


class _Door:
    """Logging in and out, and what the page shows before it knows anybody."""

    def __init__(self, config: Config, settings: WebSettings, sessions: Sessions) -> None:
        self._config = config
        self._settings = settings
        self._sessions = sessions

    async def show(self, request: Request) -> object:
        if not self._sessions.holds(request.cookies.get(cookie_name(self._settings))):
            # Nothing about the kiosk to whoever just found its port.
            return {"logged_in": False}
        device = self._config.device
        return {
            "logged_in": True,
            "password": not self._sessions.open,
            "site": device.site,
            "device": device.id,
            "timezone": device.timezone,
            "today": site_today(self._config).isoformat(),
            "version": __version__,
            "consent_needed": self._config.privacy.require_consent,
        }

    async def enter(self, request: Request) -> object:
        wish = await read_wish(request, _Password)
        client = "" if request.client is None else client_of(request.client.host)
        try:
            token = self._sessions.log_in(wish.password, client)
        except Paused as pause:
            seconds = round(pause.seconds) + 1
            return JSONResponse(
                {"error": f"too many wrong passwords; try again in {seconds} s"},
                status_code=429,
                headers={"Retry-After": str(seconds)},
            )
        if token is None:
            return JSONResponse({"error": "wrong password"}, status_code=401)
        response = JSONResponse({"logged_in": True})
        response.set_cookie(
            cookie_name(self._settings),
            token,
            path="/",
            httponly=True,
            samesite="strict",
            secure=self._settings.scheme == "https",
        )
        return response

    async def leave(self, request: Request) -> object:
        self._sessions.log_out(request.cookies.get(cookie_name(self._settings)))
        return {"logged_in": False}


def _asset(file: Path) -> Any:  # noqa: ANN401 - a starlette endpoint
    async def send(_: Request) -> Response:
        return FileResponse(file, headers={"Cache-Control": "no-cache"})

    return send


async def _not_found(request: Request, _: Exception) -> Response:
    return JSONResponse({"error": f"nothing at {request.method} {request.url.path}"}, status_code=404)
