"""How the kiosk is: what it published about itself last, and when it has to say something again."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from kiosk.events import BoardHealth, CameraHealth, FrameHealth, Health, OutboxHealth, Problem, StoreHealth

_EVERY_S = 60.0
# A fault that comes and goes must not flood the broker.
_NEWS_EVERY_S = 1.0
_FRAMES = 512
_HISTORY = 60


class FrameTimes:
    """How long the last frames took, from the picture to the decision."""

    def __init__(self) -> None:
        self._took_s: deque[float] = deque(maxlen=_FRAMES)
        self._total = 0
        self._since_s = time.monotonic()
        self._told = 0

    def note(self, took_s: float) -> None:
        """One frame was processed in ``took_s`` seconds."""
        self._took_s.append(took_s)
        self._total += 1

    def summarize(self, *, aside: bool = False, idle: bool = False) -> FrameHealth:
        """Frames since the last summary count for the rate; one ``aside`` is not the last to the next one.

        ``idle``: whether the kiosk is.
        """
        now_s = time.monotonic()
        passed_s, new = now_s - self._since_s, self._total - self._told
        if not aside:
            self._since_s, self._told = now_s, self._total
        ordered = sorted(self._took_s)
        return FrameHealth(
            processed=self._total,
            per_s=round(new / passed_s, 2) if passed_s > 0 else None,
            p50_ms=_quantile_ms(ordered, 0.5),
            p95_ms=_quantile_ms(ordered, 0.95),
            idle=idle,
        )


class HealthReporter:
    """Publishes a health document every minute, and as soon as the list of problems changes.

    ``describe`` collects it, given the problems, and whether it is an answer aside; ``publish`` sends it. Whoever sets
    ``wanted`` gets one within a second.
    """

    def __init__(
        self,
        describe: Callable[[list[Problem], bool], Health],
        publish: Callable[[Health], None],
        wanted: threading.Event | None = None,
    ) -> None:
        self._describe = describe
        self._publish = publish
        self._wanted = wanted or threading.Event()
        self._problems: list[Problem] = []
        self.history: deque[tuple[str, FrameHealth]] = deque(maxlen=_HISTORY)
        """How fast frames were at the last 60 documents of the minute, with their time, oldest first."""
        self._next_s = 0.0
        self._next_news_s = 0.0

    def follow(self, problems: list[Problem]) -> None:
        """Call it often, with what is wrong at the moment; it is cheap while there is nothing to say."""
        now_s = time.monotonic()
        news = [problem.part for problem in problems] != [problem.part for problem in self._problems]
        due = now_s >= self._next_s
        if not due and not ((news or self._wanted.is_set()) and now_s >= self._next_news_s):
            return
        self._wanted.clear()
        health = self._describe(problems, False)
        self._publish(health)
        if due:
            self.history.append((health.at, health.frames))
        self._problems = problems
        self._next_s, self._next_news_s = now_s + _EVERY_S, now_s + _NEWS_EVERY_S

    def answer(self, problems: list[Problem]) -> Health:
        """The document as it would be now, for whoever asks in between."""
        return self._describe(problems, True)


def trial_health(site: str, device: str, *, at: str, clock_synchronized: bool) -> Health:
    """What ``kiosk check`` sends to see whether the broker takes it: valid, with nothing measured, and it says so.

    ``at``: now, as a wire timestamp.
    """
    what = "no report of the running kiosk: `kiosk check` tries whether the broker takes what this kiosk says"
    return Health(
        site=site,
        device=device,
        at=at,
        uptime_s=0,
        problems=[Problem(part="broker", what=what)],
        frames=FrameHealth(processed=0, per_s=None, p50_ms=None, p95_ms=None),
        camera=CameraHealth(fault=None, reconnects=0, stalls=0, last_frame_age_s=None),
        store=StoreHealth(fault=None, free_mib=-1, last_backup_at=None, restored=None),
        outbox=OutboxHealth(pending=0, parked=0, oldest_unsent_at=None, kept_from_seq=None, last_seq=None),
        clock_synchronized=clock_synchronized,
        decisions={},
        last_event_at=None,
        temperature_c=None,
        board=BoardHealth(
            undervoltage=None,
            undervoltage_seen=None,
            throttled=None,
            throttled_seen=None,
            disk_errors=None,
            wear_percent=None,
        ),
    )


def _quantile_ms(ordered: list[float], share: float) -> float | None:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000, 1) if ordered else None
