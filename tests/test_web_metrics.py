"""The numbers for Prometheus: read by its own parser, and nothing in them but numbers."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

from command_line import Kiosk
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Message

from kiosk import __version__
from kiosk.commands.web_settings import web_settings
from kiosk.config import load
from kiosk.events import Problem
from kiosk.health import trial_health
from kiosk.store import Store
from kiosk.web.app import build_app
from kiosk.web.metrics import exposition


def document(**changes: Any) -> dict[str, Any]:
    """What ``/api/health`` answers while the kiosk runs."""
    health = trial_health("hq", "door-1", at="2026-03-02T07:58:13.412Z", clock_synchronized=True).payload()
    health |= {
        "uptime_s": 60,
        "problems": [Problem(part="camera", what="/dev/video0: no such camera").payload()] * 2,
        "frames": {"processed": 900, "per_s": 15.0, "p50_ms": 31.5, "p95_ms": 48.0},
        "decisions": {"accepted": 3, "check_ins": 2, "unknown": 1},
        "last_event_at": "2026-03-02T07:58:13.412Z",
        "temperature_c": 51.1,
        "board": {"undervoltage": True, "throttled": False, "disk_errors": 0, "wear_percent": 20},
    }
    answer = {
        "running": True,
        "fault": None,
        "outbox": {"pending": 4, "parked": 1, "last_error": "no route"},
        "health": health,
        "history": [],
        "broker": "connected",
    }
    return answer | changes


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Value by name and labels' values."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert (family.type == "counter") == sample.name.endswith("_total"), sample
            assert family.documentation
            found[sample.name, *sample.labels.values()] = sample.value
    return found


def test_every_number_is_there() -> None:
    told = samples(exposition(document()).decode())
    assert told == {
        ("kiosk_build_info", __version__): 1,
        ("kiosk_up",): 1,
        ("kiosk_events_pending",): 4,
        ("kiosk_events_parked",): 1,
        ("kiosk_broker_connected",): 1,
        **{
            ("kiosk_problems", part): 2 if part == "camera" else 0
            for part in ("camera", "reader", "store", "outbox", "broker", "clock", "feedback", "board", "model")
        },
        ("kiosk_decisions_total", "accepted"): 3,
        ("kiosk_decisions_total", "check_ins"): 2,
        ("kiosk_decisions_total", "unknown"): 1,
        ("kiosk_frame_seconds", "0.5"): 0.0315,
        ("kiosk_frame_seconds", "0.95"): 0.048,
        ("kiosk_frames_total",): 900,
        ("kiosk_uptime_seconds",): 60,
        ("kiosk_camera_reconnects_total",): 0,
        ("kiosk_camera_stalls_total",): 0,
        ("kiosk_last_event_timestamp_seconds",): 1772438293.412,
        ("kiosk_clock_synchronized",): 1,
        ("kiosk_temperature_celsius",): 51.1,
        ("kiosk_undervoltage",): 1,
        ("kiosk_throttled",): 0,
        ("kiosk_filesystem_errors",): 0,
        ("kiosk_storage_wear_ratio",): 0.2,
    }


def test_no_word_of_a_fault_gets_in() -> None:
    text = exposition(document()).decode()
    assert not any(word in text for word in ("video0", "no route", "door-1", "hq"))


def test_a_kiosk_that_does_not_run_still_has_an_outbox() -> None:
    told = samples(exposition(document(running=False, health=None, broker=None)).decode())
    assert {name for name, *_ in told} == {
        "kiosk_build_info", "kiosk_up", "kiosk_events_pending", "kiosk_events_parked",
    }  # fmt: skip
    assert told["kiosk_up",] == 0


def test_what_is_not_known_is_left_out() -> None:
    health = trial_health("hq", "door-1", at="2026-03-02T07:58:13.412Z", clock_synchronized=False).payload()
    told = samples(exposition(document(health=health, broker="off")).decode())
    assert all(math.isfinite(value) for value in told.values())
    assert not {
        "kiosk_temperature_celsius",
        "kiosk_store_free_bytes",
        "kiosk_undervoltage",
        "kiosk_broker_connected",
    } & {name for name, *_ in told}


def test_a_kiosk_of_an_earlier_version_is_understood() -> None:
    health = document()["health"]
    del health["board"], health["last_event_at"]
    told = samples(exposition(document(health=health)).decode())
    assert told["kiosk_frames_total",] == 900
    assert ("kiosk_undervoltage",) not in told


def ask(kiosk: Kiosk, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of the whole page's answer, without a socket."""
    config = load(kiosk.config, {})
    app, stop = build_app(config, web_settings(config))
    answer: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        answer.append(message)

    given = {"host": f"127.0.0.1:{config.web.port}", **{name.replace("_", "-"): text for name, text in headers.items()}}
    scope = {
        "type": "http", "method": method, "path": path, "query_string": b"",
        "headers": [(name.encode(), text.encode()) for name, text in given.items()],
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    stop()
    told = {name.decode(): text.decode() for name, text in answer[0]["headers"]}
    return answer[0]["status"], told, b"".join(part.get("body", b"") for part in answer[1:]).decode()


def test_the_page_serves_it_where_it_is_wanted(kiosk: Kiosk, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("correct horse battery")
    password.chmod(0o600)
    kiosk.configure(web={"password_file": str(password)})
    assert ask(kiosk, "/metrics")[0] == 404
    kiosk.configure(web={"metrics": True})
    assert ask(kiosk, "/metrics")[0] == 503  # there is no store yet
    with Store.open(kiosk.store):
        pass
    status, headers, text = ask(kiosk, "/metrics")
    assert (status, headers["content-type"].partition(";")[0], headers["cache-control"]) == (
        200,
        "text/plain",
        "no-store",
    )
    assert samples(text)["kiosk_up",] == 0
    # All else still asks for the password, and nobody else's page may ask for this.
    assert ask(kiosk, "/api/health")[0] == 401
    assert ask(kiosk, "/metrics", host="evil.example")[0] == 421
    assert ask(kiosk, "/metrics", sec_fetch_site="cross-site")[0] == 403
    assert ask(kiosk, "/metrics", "POST", origin=f"http://127.0.0.1:{load(kiosk.config, {}).web.port}")[0] == 404
