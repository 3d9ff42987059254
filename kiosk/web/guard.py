"""What every request must pass: it is meant for us, comes from our own page, and from somebody who has logged in."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kiosk.commands.web_settings import WebSettings
from kiosk.hosts import is_loopback
from kiosk.web.sessions import Sessions

_SAFE = frozenset({"GET", "HEAD"})
_OPEN = frozenset({"/api/session"})
"""What somebody who has not logged in may ask for, besides the page itself (which holds no data)."""
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, *, settings: WebSettings, sessions: Sessions) -> None:
        self._app = app
        self._settings = settings
        self._sessions = sessions
        self.cookie = cookie_name(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    answered[name] = value
                answered.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refuse(scope, headers)
        await (self._app if refusal is None else refusal)(scope, receive, send_guarded)

    def _refuse(self, scope: Scope, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        # A name of somebody else's that leads here (DNS rebinding): where no password is asked for, the browser's idea
        # of whose page it shows is all there is.
        if self._settings.local and not is_loopback(_hostname(host)):
            return _say(421, f"this page is not {_hostname(host)[:80]!r}; open it at {self._settings.address}")
        if scope["method"] not in _SAFE and headers.get("origin") != f"{self._settings.scheme}://{host}":
            return _say(403, "this request comes from another page; open the kiosk's own and try there")
        path = scope["path"]
        # A picture in a foreign page could still keep us busy.
        data = path.startswith("/api/") or path == "/metrics"
        if data and headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}:
            return _say(403, "this request comes from another page; open the kiosk's own and try there")
        if path.startswith("/api/") and path not in _OPEN:
            token = cookie_parser(headers.get("cookie", "")).get(self.cookie)
            if not self._sessions.holds(token):
                return _say(401, "log in first")
        return None


def cookie_name(settings: WebSettings) -> str:
    """Two kiosks on one machine do not log each other out."""
    prefix = "__Host-" if settings.scheme == "https" else ""
    return f"{prefix}kiosk-{settings.port}"


def _hostname(host: str) -> str:
    return host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] or host


def _say(status: int, error: str) -> Response:
    return JSONResponse({"error": error}, status_code=status)
