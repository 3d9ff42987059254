"""``kiosk run`` as a process: a real clip in, a real broker out, and everything that happens to a daemon in between."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import jsonschema
import pytest
from broker import Message, Mosquitto, Subscriber, free_port, wait_for
from command_line import Kiosk
from runner import copy_store

from kiosk.biometrics import Box
from kiosk.clip import Person, Scene, Walk, write_clip
from kiosk.demo import write_scenes
from kiosk.opencv import cv2
from kiosk.store import AttendanceRow, Store

ATTENDANCE = "/event/attendance"


@pytest.fixture(scope="module")
def demo_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Obama, the stranger, Biden, then Obama and Biden together."""
    path = tmp_path_factory.mktemp("clip") / "demo.avi"
    write_scenes(path)
    return path


@pytest.fixture(scope="module")
def short_clip(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Path:
    """One second of Obama, and time enough to forget him."""
    path = tmp_path_factory.mktemp("clip") / "short.avi"
    obama = Person(cv2.imread(str(samples / "obama2.jpg")), Box(115, 181, 181, 181))  # type: ignore[arg-type]
    write_clip(path, [Scene(1.0, (Walk(obama, x=(0.45, 0.55), face_px=(120, 130)),)), Scene(1.3)])
    return path


@pytest.fixture
def home(kiosk: Kiosk, _home: Kiosk) -> Kiosk:
    """Obama and Biden enrolled, for this test alone."""
    copy_store(_home, kiosk)
    return kiosk


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as broker:
        yield broker


def _play(
    kiosk: Kiosk, clip: Path, port: int | None, *, loop: bool = False, pace: Literal["realtime", "fast"] = "fast"
) -> None:
    """Have the kiosk watch a clip; every visit of half a minute counts."""
    kiosk.configure(
        camera={"source": str(clip), "pace": pace, "loop": loop},
        match={"refractory_s": 5},
        mqtt={"enabled": port is not None, "host": "127.0.0.1", "port": port or 1883},
    )


@contextmanager
def _running(kiosk: Kiosk) -> Iterator[subprocess.Popen[str]]:
    """``kiosk run``; whatever happens, it is ended."""
    process = kiosk.start("run")
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        # Shown with a failure.
        sys.stderr.write(process.communicate(timeout=10)[1] or "")


def _stop(process: subprocess.Popen[str], timeout_s: float = 15) -> str:
    """SIGTERM; the exit code must be 0. Returns what was logged."""
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, err
    assert out == ""
    assert "Traceback" not in err
    return err


def _attendance(kiosk: Kiosk) -> list[AttendanceRow]:
    with Store.open(kiosk.store, writable=False) as store:
        return store.attendance()


def _await_attendance(kiosk: Kiosk, count: int, timeout_s: float = 30) -> None:
    with Store.open(kiosk.store, writable=False) as store:
        wait_for(lambda: len(store.attendance()) >= count, timeout_s, what=f"{count} check-ins")


def test_a_clip_from_beginning_to_end(home: Kiosk, demo_clip: Path, broker: Mosquitto, repo: Path) -> None:
    _play(home, demo_clip, broker.port)
    with Subscriber(broker.port) as subscriber:
        result = home("run")
        assert result.returncode == 0, result.stderr
        assert result.stdout == ""
        messages = subscriber.wait_for(ATTENDANCE, 4)
        subscriber.wait_for("/status", 2)
        statuses = [message.payload for message in subscriber.on("/status")]
    schema = json.loads((repo / "docs" / "schemas" / "attendance.schema.json").read_text())
    for message in messages:
        jsonschema.validate(message.json(), schema)
    events = [message.json() for message in messages]
    assert [event["seq"] for event in events] == [1, 2, 3, 4]
    assert Counter(event["subject"]["id"] for event in events) == {"obama": 2, "biden": 2}
    assert [event["subject"]["id"] for event in events[:2]] == ["obama", "biden"]
    assert all("name" not in event["subject"] for event in events)
    assert not any(event["replayed"] for event in events)
    assert statuses == [b"online", b"offline"]
    assert {row.event_id for row in _attendance(home)} == {event["event_id"] for event in events}
    assert {row.delivery for row in _attendance(home)} == {"sent"}
    with Subscriber(broker.port) as late:
        late.wait_for("/info")
        assert late.on(ATTENDANCE) == []


def test_the_log_tells_ids_and_scores_and_no_names(home: Kiosk, demo_clip: Path) -> None:
    _play(home, demo_clip, None)
    result = home("run", "-vv")
    assert result.returncode == 0
    assert re.search(r"accuracy \d\d\.\d%", result.stderr)
    assert re.search(
        r"2 subjects, 2 templates; threshold 0\.\d+ and .*\(FPIR 0\.001 with 2 subjects of 1 template\)", result.stderr
    )
    assert "check_in of obama" in result.stderr
    assert "no check-in: unknown" in result.stderr
    assert "Barack" not in result.stderr
    assert "조" not in result.stderr
    assert {row.delivery for row in _attendance(home)} == {None}


def test_a_clip_too_short_for_a_decision_says_what_it_takes(home: Kiosk, samples: Path) -> None:
    stills = home.folder / "stills"
    stills.mkdir()
    shutil.copy(samples / "obama2.jpg", stills)
    home.configure(camera={"source": str(stills)}, match={"frames": 4})
    result = home("run")
    assert result.returncode == 0
    (last,) = [line for line in result.stderr.splitlines() if "stopped after 1 frames" in line]
    assert "no decision; a check-in takes 4 frames" in last
    assert "(match.frames)" in last
    assert "2 s (match.window_s)" in last


def test_rejected_events_are_opt_in_and_name_nobody(home: Kiosk, demo_clip: Path, broker: Mosquitto) -> None:
    _play(home, demo_clip, broker.port)
    home.configure(mqtt={"rejected_events": True, "include_names": True})
    with Subscriber(broker.port) as subscriber:
        assert home("run").returncode == 0
        (rejected,) = subscriber.wait_for("/event/rejected")
        events = subscriber.wait_for(ATTENDANCE, 4)
    assert rejected.json()["event_type"] == "unknown"
    assert not rejected.retain
    assert "subject" not in rejected.json()
    assert {event.json()["subject"]["name"] for event in events} == {"Barack Obama", "조 바이든"}
    # What is told can be looked up under the id it is told with; of all of it nothing but ids is kept.
    with Store.open(home.store, writable=False) as store:
        (kept,) = store.rejections()
    assert (kept.event_id, kept.reason) == (rejected.json()["event_id"], "unknown")
    assert kept.evidence["frame_evidence"]
    assert not {"Barack Obama", "조 바이든"} & set(str(kept).split("'"))


def test_rejected_decisions_are_dropped_at_once_when_none_are_to_be_kept(home: Kiosk, short_clip: Path) -> None:
    _play(home, short_clip, None)
    home.configure(match={"threshold": 0.999, "window_s": 0.5})
    assert home("run").returncode == 0
    with Store.open(home.store, writable=False) as store:
        assert len(store.rejections()) == 1
    home.configure(store={"rejected_days": 0})
    log = home("run").stderr
    assert "no check-in: unknown" in log
    with Store.open(home.store, writable=False) as store:
        assert store.rejections() == []


def test_a_broker_killed_and_restarted_loses_nothing(home: Kiosk, demo_clip: Path, broker: Mosquitto) -> None:
    _play(home, demo_clip, broker.port, loop=True)
    with Subscriber(broker.port) as subscriber, _running(home) as process:
        for _ in range(2):
            subscriber.wait_for(ATTENDANCE, len(subscriber.on(ATTENDANCE)) + 2, 30)
            broker.kill()
            _await_attendance(home, len(_attendance(home)) + 2)
            broker.start()
            subscriber.wait_subscribed()
        subscriber.wait_for(ATTENDANCE, len(subscriber.on(ATTENDANCE)) + 4, 40)
        _stop(process)
        rows = _attendance(home)
        wait_for(lambda: len({m.json()["seq"] for m in subscriber.on(ATTENDANCE)}) >= len(_sent(home)))
        seen = [message.json() for message in subscriber.on(ATTENDANCE)]
    first_seen = list(dict.fromkeys(event["seq"] for event in seen))
    assert first_seen == list(range(1, len(_sent(home)) + 1))
    assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
    assert {event["event_id"] for event in seen} == {row.event_id for row in _sent(home)}


def _sent(kiosk: Kiosk) -> list[AttendanceRow]:
    return [row for row in _attendance(kiosk) if row.delivery == "sent"]


def test_it_says_how_it_is_and_sends_again_what_is_asked_for(
    home: Kiosk, demo_clip: Path, broker: Mosquitto, repo: Path
) -> None:
    _play(home, demo_clip, broker.port, loop=True)
    with Subscriber(broker.port) as subscriber, _running(home) as process:
        count = len(subscriber.wait_for(ATTENDANCE, 3, 30))
        health = subscriber.wait_for("/health")[0]
        assert not health.retain
        jsonschema.validate(health.json(), json.loads((repo / "docs" / "schemas" / "health.schema.json").read_text()))
        assert health.json()["outbox"]["parked"] == 0
        subscriber.publish("kiosk/v1/hq/door-1/cmd/replay", b'{"from_seq": 1, "to_seq": 3, "id": "again"}')
        wait_for(lambda: [m.json()["seq"] for m in _replayed(subscriber)] == [1, 2, 3], 20)
        assert len(subscriber.on(ATTENDANCE)) >= count + 3
        _stop(process)


def _replayed(subscriber: Subscriber) -> list[Message]:
    return [message for message in subscriber.on(ATTENDANCE) if message.json()["replayed"]]


def test_events_put_back_by_another_process_are_sent_at_once(home: Kiosk, demo_clip: Path, broker: Mosquitto) -> None:
    _play(home, demo_clip, None)
    assert home("run").returncode == 0
    _play(home, demo_clip, broker.port, loop=True)
    with Subscriber(broker.port) as subscriber, _running(home) as process:
        (first, *_) = [message.json() for message in subscriber.wait_for(ATTENDANCE, 1, 30)]
        time.sleep(2)  # what is set aside is tried at the start and not again for ten minutes: be it after that
        with Store.open(home.store) as store:
            store.mark_failed(first["seq"], "broke the connection", park=True)
        assert home("outbox", "retry", "1").returncode == 65
        assert home("outbox", "retry").stdout == "1 event back in the queue\n"
        wait_for(lambda: [m.json()["seq"] for m in _replayed(subscriber)] == [first["seq"]], 10)
        _stop(process)


def test_without_a_broker_it_recognizes_and_delivers_when_one_appears(
    home: Kiosk, demo_clip: Path, tmp_path: Path
) -> None:
    broker = Mosquitto(tmp_path)
    _play(home, demo_clip, broker.port, loop=True)
    with _running(home) as process:
        _await_attendance(home, 3)
        assert _sent(home) == []
        with broker, Subscriber(broker.port) as subscriber:
            messages = subscriber.wait_for(ATTENDANCE, 3, 40)
            _stop(process)
    assert [message.json()["seq"] for message in messages[:3]] == [1, 2, 3]


def test_what_one_run_could_not_send_the_next_one_does(home: Kiosk, demo_clip: Path, tmp_path: Path) -> None:
    port = free_port()
    _play(home, demo_clip, port, loop=True)
    with _running(home) as process:
        _await_attendance(home, 2)
        log = _stop(process)
    assert "wait in the outbox" in log
    broker = Mosquitto(tmp_path)
    _play(home, demo_clip, broker.port)
    with broker, Subscriber(broker.port) as subscriber:
        assert home("run").returncode == 0
        first = subscriber.wait_for(ATTENDANCE, 2)[0].json()
    assert (first["seq"], first["replayed"]) == (1, True)


def test_a_stop_cuts_the_waiting_for_the_broker_short(home: Kiosk, short_clip: Path) -> None:
    _play(home, short_clip, free_port())
    with _running(home) as process:
        assert process.stderr is not None
        while "waiting up to" not in process.stderr.readline():
            assert process.poll() is None
        started_s = time.monotonic()
        assert "1 events wait in the outbox" in _stop(process)
        # The five seconds a stop allows, not the thirty of a file's end.
        assert time.monotonic() - started_s < 15


def test_people_enrolled_and_removed_while_it_runs(kiosk: Kiosk, short_clip: Path, samples: Path) -> None:
    _play(kiosk, short_clip, None, loop=True, pace="realtime")
    kiosk.configure(match={"refractory_s": 1})
    with _running(kiosk) as process:
        wait_for(kiosk.store.exists, 20)
        assert kiosk("enroll", "obama", samples / "obama.jpg").returncode == 0
        _await_attendance(kiosk, 1)
        assert kiosk("subjects", "remove", "obama", "--yes").returncode == 0
        count = len(_attendance(kiosk))
        # Proof that he passed by unrecognized: the same clip again with somebody else enrolled.
        assert kiosk("enroll", "other", samples / "obama3.jpg").returncode == 0
        _await_attendance(kiosk, count + 1)
        _stop(process)
    after = [row.subject_id for row in _attendance(kiosk)[count:]]
    assert after.count("obama") <= 1  # within the half second it takes to notice
    assert "other" in after


def test_sigterm_before_anything_is_ready(home: Kiosk, demo_clip: Path) -> None:
    _play(home, demo_clip, None, loop=True)
    with _running(home) as process:
        wait_for(lambda: _children_file(process).exists(), 5)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        # Too early for a handler means interrupted; never a traceback, never a hang.
        assert process.returncode in {0, 130, -signal.SIGINT}


def _children_file(process: subprocess.Popen[str]) -> Path:
    return Path(f"/proc/{process.pid}/status")


def test_a_second_daemon_on_the_store_is_refused(home: Kiosk, demo_clip: Path) -> None:
    _play(home, demo_clip, None, loop=True)
    with _running(home) as process:
        _await_attendance(home, 1)
        second = home("run")
        assert second.returncode == 69
        assert f"process {process.pid}" in second.stderr
        _stop(process)


def test_a_restart_within_the_refractory_period_reports_nobody_twice(home: Kiosk, short_clip: Path) -> None:
    _play(home, short_clip, None)
    home.configure(match={"refractory_s": 600})
    for _ in range(2):
        assert home("run").returncode == 0
    assert [row.subject_id for row in _attendance(home)] == ["obama"]


def test_it_tells_systemd_what_it_does(home: Kiosk, short_clip: Path) -> None:
    _play(home, short_clip, None)
    address = str(home.folder / "notify")
    told: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(address)
        notify.settimeout(0.5)
        over = threading.Event()

        def listen() -> None:
            # At once, as systemd does: the socket holds few messages.
            while not over.is_set():
                with suppress(TimeoutError):
                    told.extend(notify.recv(4096).decode().splitlines())

        listener = threading.Thread(target=listen)
        listener.start()
        try:
            result = home("run", env={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000"})
            wait_for(lambda: "STOPPING=1" in told or result.returncode, 5, what="the last message")
        finally:
            over.set()
            listener.join()
    assert result.returncode == 0
    assert told[0] == "READY=1"
    assert any(line.startswith("STATUS=watching; 2 subjects") for line in told)
    assert "WATCHDOG=1" in told
    assert "STOPPING=1" in told


def test_alternating_check_in_and_check_out(home: Kiosk, demo_clip: Path) -> None:
    _play(home, demo_clip, None)
    home.configure(attendance={"mode": "alternate"})
    assert home("run").returncode == 0
    kinds = [(row.subject_id, row.event_type) for row in _attendance(home)]
    assert Counter(kinds) == Counter(
        [("obama", "check_in"), ("obama", "check_out"), ("biden", "check_in"), ("biden", "check_out")]
    )


@pytest.mark.stories
def test_a_schedule_decides_and_a_correction_is_sent_while_it_runs(
    home: Kiosk, short_clip: Path, broker: Mosquitto
) -> None:
    _play(home, short_clip, broker.port, loop=True)
    home.configure(
        match={"refractory_s": 600},
        attendance={"mode": "schedule", "schedule": [{"from": "00:00", "to": "24:00", "event": "break"}]},
    )
    with Subscriber(broker.port) as subscriber, _running(home) as process:
        subscriber.wait_for(ATTENDANCE, 1, 30)
        assert home("events", "void", "1", "--reason", "it was his twin").returncode == 0
        arguments = ("--type", "check_in", "--at", "1m", "--reason", "seen by the guard")
        added = home("events", "add", "biden", *arguments)
        if "say the time itself" in added.stderr:  # a machine that follows no time server
            now = time.strftime("%Y-%m-%dT%H:%M:00Z", time.gmtime())
            added = home("events", "add", "biden", *arguments[:3], now, *arguments[4:])
        assert added.returncode == 0, added.stderr
        sent = [message.json() for message in subscriber.wait_for(ATTENDANCE, 3, 10)]
        _stop(process)
    assert [(event["seq"], event["event_type"], event["replayed"]) for event in sent] == [
        (1, "break_start", False),
        (2, "void", False),
        (3, "manual_entry", False),
    ]
    assert sent[1]["voids"] == {"event_id": sent[0]["event_id"], "seq": 1}
    assert (sent[2]["subject"], sent[2]["adds"]["event_type"]) == ({"id": "biden"}, "check_in")
    assert "twin" not in json.dumps(sent)
