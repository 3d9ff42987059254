"""What a kiosk says about itself: enough for somebody with a dashboard, and nothing about people."""

from __future__ import annotations

import json
import logging
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from command_line import Kiosk
from test_store import ANA, DAY_MS, NOW_MS, check_in, embedding, reject

from kiosk import integrity
from kiosk.attendance import AttendanceBook, AttendanceSettings
from kiosk.biometrics import ModelId, SubjectId
from kiosk.camera import open_camera
from kiosk.clock import SystemClock
from kiosk.config import load
from kiosk.daemon import Daemon, GalleryWatcher, Retention
from kiosk.decision import RefractoryPeriod
from kiosk.errors import StoreError
from kiosk.events import CameraHealth, Origin, Problem, without_folders
from kiosk.pipeline import build_pipeline
from kiosk.preview import Preview, socket_path
from kiosk.sdnotify import Heartbeat, Notifier
from kiosk.store import KeyFile, NewTemplate, Store


def build_daemon(kiosk: Kiosk, store: Store, pictures: Path, **parts: Any) -> Daemon:
    """``parts``: of the daemon, instead of its own; ``pictures``: what its camera would show."""
    config, clock = load(kiosk.config, {}), SystemClock()
    with closing(open_camera(source=str(pictures))) as camera:
        return Daemon(
            camera=parts.pop("camera", camera),
            watcher=GalleryWatcher(config, build_pipeline(config), store),
            book=AttendanceBook(
                store,
                AttendanceSettings(Origin("hq", "door-1", "UTC"), "check_in", outbox=False, include_name=False),
                clock=clock,
                boot_id=clock.boot_id(),
                refractory=RefractoryPeriod(60),
                on_check_in=lambda _: None,
                on_rejected=lambda _: None,
            ),
            store=store,
            notifier=Notifier({}),
            heartbeat=parts.pop("heartbeat", Heartbeat()),
            retention=Retention(attendance_days=1, rejected_days=1),
            wake=threading.Event(),
            preview=Preview(socket_path(kiosk.store)),
            **parts,
        )


def store_problems(daemon: Daemon) -> list[str]:
    return [problem.what for problem in daemon._problems() if problem.part == "store"]


def test_whose_templates_another_kiosks_key_does_not_open_is_told_in_the_log_only(
    kiosk: Kiosk, samples: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kiosk.configure()
    with Store.open(kiosk.store) as store:
        model_id = build_pipeline(load(kiosk.config, {})).embedder.model_id
        for number in (1, 2):
            store.enroll(SubjectId(f"canary-{number}"), [NewTemplate(ModelId(model_id), embedding(number))])
        KeyFile.of(kiosk.store).path.unlink()
        KeyFile.of(kiosk.store).create(kiosk.store)
        (told,) = store_problems(build_daemon(kiosk, store, samples))
    assert told == "no template can be decrypted (subjects: 2); see `kiosk check`"
    assert "canary-1" in caplog.text


def test_whose_template_is_damaged_is_told_in_the_log_only(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.enroll(SubjectId("canary"), [NewTemplate(ModelId("m"), embedding(1))])
    with store._writing() as db:
        db.execute("UPDATE templates SET quality = 'x'")
    with caplog.at_level(logging.WARNING):
        problem = store.integrity_problem()
    assert problem == "row 1 of templates differs from what was written"
    assert "damaged templates are of: 'canary'" in caplog.text
    store.note_damage(problem)
    assert "canary" not in str(store.condition().fault)


def test_a_restore_of_an_earlier_version_is_told_without_whom_it_named(store: Store) -> None:
    restored = {
        "at": "2026-03-02T07:58:13.412Z",
        "problem": "row 1 of templates (subject 'canary') differs from what was written",
        "backup_at": "2026-03-01T07:58:13.412Z",
        "damaged_file": "kiosk.db.damaged-1",
        "salvaged": {"attendance": 3},
        "lost_events": [],
        "unread": [],
        "next_seq": 4,
        "jumped": False,
    }
    with store._writing() as db:
        integrity.set_mark(db, integrity.RESTORED, restored)
    told = store.condition().restored
    assert told is not None
    assert "3 of attendance" in told
    assert "canary" not in json.dumps(told)


def test_nothing_is_deleted_by_a_clock_that_has_leapt(
    kiosk: Kiosk, samples: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kiosk.configure()
    now_ms = [NOW_MS]
    monkeypatch.setattr(SystemClock, "utc_ms", lambda _: now_ms[0])
    monkeypatch.setattr(SystemClock, "synchronized", lambda _: True)
    with Store.open(kiosk.store) as store:
        store.enroll(ANA, [])
        store.mark_sent([check_in(store).seq])
        reject(store, ANA)
        daemon = build_daemon(kiosk, store, samples)
        for leap_days, kept in ((0, 1), *((day, 1) for day in range(400, 407)), (407, 0)):
            now_ms[0] = NOW_MS + leap_days * DAY_MS
            daemon._prune()
            assert (len(store.attendance()), len(store.rejections())) == (kept, kept), leap_days
    assert caplog.text.count("the clock is 400 days ahead") == caplog.text.count("ahead of when") == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/home/ada lovelace/kiosk.db: no space left; free some", "kiosk.db: no space left; free some"),
        ("[Errno 28] No space left on device: '/home/ada/backups/x.db'", "[Errno 28] No space left on device: 'x.db'"),
        ("/srv/ada/1.avi and /srv/ada/2.avi", "2.avi"),
        ("/dev/video0: no such camera (`ls /dev/video*`)", "/dev/video0: no such camera (`ls /dev/video*`)"),
        ("rtsp://cam:554: no answer", "rtsp://cam:554: no answer"),
        ("as docs/encryption.md says", "as docs/encryption.md says"),
    ],
)
def test_the_way_to_a_file_stays_on_the_device(text: str, told: str) -> None:
    assert without_folders(text) == told
    assert Problem(part="store", what=text).what == told
    assert CameraHealth(fault=text, reconnects=0, stalls=0, last_frame_age_s=None).payload()["fault"] == told


def test_a_full_disk_is_told_by_the_files_name(kiosk: Kiosk, samples: Path) -> None:
    kiosk.configure()
    with Store.open(kiosk.store) as store:
        daemon = build_daemon(kiosk, store, samples)
        daemon._try_store(lambda: _fail(StoreError(f"{kiosk.store}: no space left on its disk")))
        assert store_problems(daemon) == ["kiosk.db: no space left on its disk"]


def _fail(error: Exception) -> None:
    raise error
