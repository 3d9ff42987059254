"""``/metrics``: how the kiosk is, in numbers, for Prometheus. No ids, no names, no words of a fault.

Imported only where ``web.metrics`` is set.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, get_args

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from kiosk import __version__
from kiosk.events import Problem

_PARTS = get_args(Problem.model_fields["part"].annotation)
_MIB = 1 << 20


class Metrics:
    """``health``: answers as ``/api/health`` does."""

    def __init__(self, health: Callable[[Request], Awaitable[Mapping[str, Any]]]) -> None:
        self._health = health

    async def show(self, request: Request) -> object:
        """All numbers, in the text format of Prometheus."""
        return Response(exposition(await self._health(request)), media_type=CONTENT_TYPE_LATEST)


def exposition(document: Mapping[str, Any]) -> bytes:
    """The text for what ``/api/health`` answers."""
    registry = CollectorRegistry()
    registry.register(_Numbers(document))
    return generate_latest(registry)


class _Numbers(Collector):
    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document

    def collect(self) -> Iterator[Metric]:
        document = self._document
        build = GaugeMetricFamily("kiosk_build_info", "The version that serves this page.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        yield _gauge("kiosk_up", "Whether the kiosk runs.", document["running"])
        # Known by the store, also while the kiosk does not run.
        outbox = document["outbox"]
        yield _gauge("kiosk_events_pending", "Events that the broker does not have yet.", outbox["pending"])
        yield _gauge("kiosk_events_parked", "Events set aside.", outbox["parked"])
        if document["broker"] in {"connected", "not connected"}:
            yield _gauge("kiosk_broker_connected", "Whether the broker is there.", document["broker"] == "connected")
        if document["health"] is not None:
            yield from _of_health(document["health"])


def _of_health(health: Mapping[str, Any]) -> Iterator[Metric]:
    """Of the health document. What is not known is left out."""
    frames, camera, store, outbox = (health[name] for name in ("frames", "camera", "store", "outbox"))
    # A kiosk that was started before an upgrade does not tell of its board, nor when its last event was.
    board, last_event_at = health.get("board", {}), health.get("last_event_at")
    problems = GaugeMetricFamily("kiosk_problems", "What needs attention, by part.", labels=["part"])
    for part in _PARTS:
        problems.add_metric([part], sum(problem["part"] == part for problem in health["problems"]))
    yield problems
    decisions = CounterMetricFamily("kiosk_decisions", "Final decisions since the start, by reason.", labels=["reason"])
    for reason, count in sorted(health["decisions"].items()):
        decisions.add_metric([reason], count)
    yield decisions
    took = GaugeMetricFamily(
        "kiosk_frame_seconds", "From the picture to the decision, of the last 512 frames.", labels=["quantile"]
    )
    for quantile, name in (("0.5", "p50_ms"), ("0.95", "p95_ms")):
        if frames[name] is not None:
            took.add_metric([quantile], frames[name] / 1000)
    yield took
    free_bytes = None if store["free_mib"] < 0 else store["free_mib"] * _MIB
    wear = board.get("wear_percent")
    gauges: tuple[tuple[str, str, float | None], ...] = (
        ("kiosk_uptime_seconds", "Since the start.", health["uptime_s"]),
        ("kiosk_camera_last_frame_age_seconds", "Age of the last usable picture.", camera["last_frame_age_s"]),
        (
            "kiosk_oldest_unsent_timestamp_seconds",
            "When the oldest waiting event was.",
            _time(outbox["oldest_unsent_at"]),
        ),
        ("kiosk_last_event_timestamp_seconds", "When the last event was recorded.", _time(last_event_at)),
        ("kiosk_last_backup_timestamp_seconds", "When the newest backup was taken.", _time(store["last_backup_at"])),
        ("kiosk_store_free_bytes", "Free on the store's disk.", free_bytes),
        ("kiosk_clock_synchronized", "Whether the clock follows a time server.", health["clock_synchronized"]),
        ("kiosk_temperature_celsius", "Of the processor.", health["temperature_c"]),
        ("kiosk_undervoltage", "Whether the supply voltage is too low.", board.get("undervoltage")),
        ("kiosk_throttled", "Whether the board has slowed itself down.", board.get("throttled")),
        ("kiosk_filesystem_errors", "Of ext4 file systems, until repaired.", board.get("disk_errors")),
        ("kiosk_storage_wear_ratio", "Of the most worn eMMC's life.", None if wear is None else wear / 100),
    )
    counters: tuple[tuple[str, str, float | None], ...] = (
        ("kiosk_frames", "Frames processed since the start.", frames["processed"]),
        ("kiosk_camera_reconnects", "Times the camera was opened again since the start.", camera["reconnects"]),
        ("kiosk_camera_stalls", "Times pictures stayed away since the start.", camera["stalls"]),
        ("kiosk_events", "The highest number given to an event.", outbox["last_seq"]),
    )
    for name, about, value in gauges:
        if value is not None:
            yield _gauge(name, about, value)
    for name, about, value in counters:
        if value is not None:
            yield CounterMetricFamily(name, about, value=value)


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(name, about, value=float(value))


def _time(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text).timestamp()
