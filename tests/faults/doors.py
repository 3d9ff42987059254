"""Kiosks at doors where somebody arrives all the time, and what their files say afterwards."""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from command_line import Kiosk
from runner import copy_store

from kiosk.biometrics import Box, Candidate, Decision, ModelId, Reason, SubjectId, Verdict
from kiosk.clip import Person, Scene, Walk, write_clip
from kiosk.clock import SystemClock
from kiosk.events import EventType, Moment, Origin
from kiosk.photo import read_photo
from kiosk.store import Store

SITE = "hq"
_ENROLLED = {"obama": "obama.jpg", "biden": "biden_portrait.jpg", "collins": "collins.jpg"}
# Photo, face box (x, y, side), where in the picture.
_VISITORS = (
    ("obama2.jpg", (115, 181, 181), 0.3),
    ("biden.jpg", (275, 173, 189), 0.5),
    ("collins.jpg", (178, 81, 94), 0.7),
)
# A visit takes three frames, and nobody is back before the kiosk has forgotten them (a second).
_FPS, _FRAMES = 4, 3
_TOLD = re.compile(r" of \S+ \(event (\d+),")


def enroll_samples(kiosk: Kiosk, samples: Path) -> Kiosk:
    for subject_id, photo in _ENROLLED.items():
        result = kiosk("enroll", subject_id, samples / photo)
        assert result.returncode == 0, result.stderr
    return kiosk


def write_visits(path: Path, samples: Path) -> None:
    """One visitor after the other, a check-in each: every 0.75 s, or as fast as the frames are recognized."""
    scenes = []
    for photo, (x, y, side), place in _VISITORS:
        person = Person(read_photo(samples / photo), Box(x, y, side, side))
        scenes.append(Scene(_FRAMES / _FPS, (Walk(person, x=(place, place), face_px=(110, 110)),)))
    write_clip(path, scenes, fps=_FPS, size=(480, 360))


def make_door(folder: Path, enrolled: Kiosk, device: str, clip: Path, port: int, *, pace: str = "fast") -> Kiosk:
    """A kiosk of its own: device id, store, everybody enrolled, the clip in a loop; every visit counts."""
    folder.mkdir(exist_ok=True)
    kiosk = Kiosk(folder, enrolled._sections["model"]["runtime"])
    copy_store(enrolled, kiosk)
    kiosk.configure(
        device={"site": SITE, "id": device},
        camera={"source": str(clip), "pace": pace, "loop": True},
        match={"refractory_s": 0},
        mqtt={"enabled": True, "host": "127.0.0.1", "port": port},
        model={"threads": 1},
    )
    return kiosk


def told_seqs(log: str) -> list[int]:
    """The events that the daemon reported as committed, in its log."""
    return [int(seq) for seq in _TOLD.findall(log)]


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What a store's file says, read by SQLite alone."""

    attendance: dict[int, str]
    """``event_id`` by ``seq``."""
    outbox: dict[int, str]
    unsent: int
    integrity: str

    @property
    def seq_gaps(self) -> int:
        return max(self.attendance, default=0) - len(self.attendance)

    @property
    def mismatches(self) -> int:
        """Rows of one table without the same row in the other."""
        return len(set(self.attendance.items()) ^ set(self.outbox.items()))


def read_facts(store: Path) -> StoreFacts:
    """From the file as it lies there, write-ahead log included; without check-pointing it."""
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as db:
        db.execute("BEGIN")
        attendance = dict(db.execute("SELECT seq, event_id FROM attendance").fetchall())
        outbox = dict(db.execute("SELECT seq, event_id FROM outbox").fetchall())
        (unsent,) = db.execute("SELECT COUNT(*) FROM outbox WHERE state <> 'sent'").fetchone()
        (integrity,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    return StoreFacts(attendance, outbox, unsent, integrity)


def read_facts_of_copy(store: Path, folder: Path) -> StoreFacts:
    """From a copy, so that the original meets its recovery in the hands of the kiosk."""
    folder.mkdir(exist_ok=True)
    # The journal is there while a new file becomes one with a write-ahead log.
    for suffix in ("", "-wal", "-journal"):
        source, target = Path(f"{store}{suffix}"), folder / f"copy.db{suffix}"
        target.unlink(missing_ok=True)
        if source.exists():
            shutil.copy(source, target)
    (folder / "copy.db-shm").unlink(missing_ok=True)
    # Whoever only reads cannot roll back a journal.
    with contextlib.closing(sqlite3.connect(folder / "copy.db")) as db:
        db.execute("SELECT 1 FROM sqlite_master").fetchone()
    return read_facts(folder / "copy.db")


def unsent_up_to(store: Path, seq: int) -> int:
    """How many events up to this one the broker has not acknowledged."""
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as db:
        (count,) = db.execute("SELECT COUNT(*) FROM outbox WHERE state <> 'sent' AND seq <= ?", [seq]).fetchone()
    return int(count)


def last_seq(store: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as db:
        (seq,) = db.execute("SELECT COALESCE(MAX(seq), 0) FROM attendance").fetchone()
    return int(seq)


def commit_check_ins(path: Path, count: int, *, device: str, subject: str = "obama") -> None:
    """Check-ins by the store alone, with no daemon running: for tests that need many at once."""
    clock = SystemClock()
    decision = Decision(Verdict.IDENTIFIED, Reason.MATCH, 0.62, (Candidate(SubjectId(subject), 0.81),), frames=5)
    with Store.open(path) as store:
        for _ in range(count):
            moment = Moment(clock.utc_ms(), clock.synchronized(), round(clock.boottime_s() * 1000), clock.boot_id())
            event = store.record_check_in(
                decision,
                event_type=EventType.CHECK_IN,
                moment=moment,
                origin=Origin(SITE, device, "UTC"),
                model_id=ModelId("test-int8@abcdef"),
                gallery_size=len(_ENROLLED),
            )
            assert event is not None
