"""Serves the application until told to stop."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from kiosk.commands.web_settings import WebSettings, bind, web_settings
from kiosk.config import Config
from kiosk.web.app import build_app

log = logging.getLogger(__name__)

_MOST_CONNECTIONS = 64
_DRAIN_S = 2


def serve(config: Config) -> None:
    """Serve the page until SIGTERM or SIGINT.

    Raises:
        ConfigError: it must not be served like this.
        UnavailableError: the address cannot be had.
    """
    settings = web_settings(config)
    listening = bind(settings)
    app = build_app(config, settings)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_graceful_shutdown=_DRAIN_S,
            ssl_certfile=settings.cert_file,
            ssl_keyfile=settings.key_file,
        )
    )
    _tell(settings)
    with listening, _quiet_signals():
        server.run(sockets=[listening])


def _tell(settings: WebSettings) -> None:
    who = "whoever has an account on this machine" if settings.password is None else "whoever knows the password"
    # A warning is shown without -v, too: nobody should have to look for the address.
    log.warning("the page is at %s, for %s", settings.address, who)
    for noisy in ("uvicorn", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


@contextmanager
def _quiet_signals() -> Iterator[None]:
    """Once uvicorn has ended in an orderly way it raises the signal again: nobody is left to act on it."""
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
