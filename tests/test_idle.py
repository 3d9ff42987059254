"""``kiosk run`` while nobody is there, and on a board that is too hot."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from broker import wait_for
from command_line import Kiosk
from test_attention import StillServer
from test_health import build_daemon
from test_preview import running

from kiosk import cooling
from kiosk.attention import Attention
from kiosk.camera import open_camera
from kiosk.cooling import BackOff
from kiosk.daemon import Daemon
from kiosk.preview import PreviewCamera, PreviewClient, socket_path
from kiosk.sdnotify import Heartbeat
from kiosk.store import Store


def test_the_kiosk_says_that_it_is_idle_and_shows_every_picture_to_whoever_looks(kiosk: Kiosk) -> None:
    kiosk.configure(idle={"after_s": 1})
    with StillServer() as server, running(kiosk, source=server.url):
        path = socket_path(kiosk.store)
        with PreviewClient(path) as asking:
            # Whoever asks for that alone keeps nobody awake.
            wait_for(lambda: asking.health().now["frames"]["idle"], 15, what="idle")
            assert asking.health().now["camera"]["fault"] is None
            with closing(PreviewCamera(path)) as camera:
                camera.read(2)
                frames, started_s = 0, time.monotonic()
                while time.monotonic() - started_s < 1.5:
                    frames += camera.read(0.5) is not None
                assert frames >= 6
                assert not asking.health().now["frames"]["idle"]
            wait_for(lambda: asking.health().now["frames"]["idle"], 15, what="idle again")
        server.somebody = True
        with PreviewClient(path) as asking:
            wait_for(lambda: not asking.health().now["frames"]["idle"], 5, what="awake")


@dataclass
class Door:
    daemon: Daemon

    def frames_per_s(self, seconds: float) -> float:
        before, started_s = self.daemon.frames, time.monotonic()
        time.sleep(seconds)
        return (self.daemon.frames - before) / (time.monotonic() - started_s)

    def problem(self) -> str | None:
        return next((one.what for one in self.daemon._problems() if one.part == "board"), None)


@contextmanager
def door(kiosk: Kiosk, samples: Path, too_hot: Callable[[], str | None]) -> Iterator[Door]:
    """A daemon that watches a live camera of 25 pictures a second."""
    kiosk.configure()
    stopping, attention = threading.Event(), Attention(after_s=None)
    with (
        StillServer() as server,
        open_camera(source=server.url, attention=attention) as camera,
        Store.open(kiosk.store) as store,
    ):
        daemon = build_daemon(
            kiosk,
            store,
            samples,
            camera=camera,
            attention=attention,
            back_off=BackOff(too_hot),
            heartbeat=Heartbeat("capture", "recognition"),
        )
        daemon.report_health("hq", "door-1", None)
        thread = threading.Thread(target=daemon.watch, args=(stopping,))
        thread.start()
        try:
            yield Door(daemon)
        finally:
            stopping.set()
            thread.join(10)


def test_a_board_that_is_too_hot_recognizes_slower_says_so_and_comes_back(
    kiosk: Kiosk, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot_words: list[str | None] = [None]
    monkeypatch.setattr(cooling, "_BACK_A_STEP_S", 0.5)
    monkeypatch.setattr(cooling, "_ANOTHER_STEP_S", 0.5)
    with door(kiosk, samples, lambda: hot_words[0]) as hot:
        wait_for(lambda: hot.daemon.frames > 5, 20, what="frames")
        assert hot.problem() is None
        hot_words[0] = "86 °C hot"
        wait_for(lambda: "a third of the pace" in str(hot.problem()), 10, what="the second step")
        assert "86 °C hot" in str(hot.problem())
        # A picture each fifth of a second, of 25: slower, never blind.
        assert 1 < hot.frames_per_s(1.5) <= 5.5
        hot_words[0] = None
        wait_for(lambda: hot.problem() is None, 10, what="full pace")
        assert hot.frames_per_s(1.0) > 6
