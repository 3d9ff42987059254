"""Serves the application until told to stop."""

from __future__ import annotations

import logging
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from kiosk.commands.web_settings import WebSettings, bind, web_settings
from kiosk.config import Config
from kiosk.web.app import build_app
from kiosk.web.listener import Listener, Protocol

log = logging.getLogger(__name__)

_DESCRIPTORS = 1024
_DRAIN_S = 2


def serve(config: Config) -> None:
    """Serve the page until SIGTERM or SIGINT.

    Raises:
        ConfigError: it must not be served like this.
        UnavailableError: the address cannot be had.
    """
    settings = web_settings(config)
    listening = Listener(bind(settings))
    _have_descriptors_to_spare()
    app, stop = build_app(config, settings)
    server = _Server(
        uvicorn.Config(
            app,
            http=type("Connection", (Protocol,), {"listener": listening}),
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            # After a failure asyncio accepts so often again without a pause.
            backlog=16,
            timeout_graceful_shutdown=_DRAIN_S,
            ssl_certfile=settings.cert_file,
            ssl_keyfile=settings.key_file,
        ),
        stop,
    )
    _tell(settings)
    with listening, _quiet_signals():
        server.run(sockets=[listening])


class _Server(uvicorn.Server):
    """Told to end, it has those who wait for pictures and hints wait no longer."""

    def __init__(self, config: uvicorn.Config, stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._stop = stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # In a signal's handler no lock may be waited for.
        threading.Thread(target=self._stop, name="stop").start()
        super().handle_exit(sig, frame)


def _have_descriptors_to_spare() -> None:
    """For the connections, what each of them opens, and those that are just being refused."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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
