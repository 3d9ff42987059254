"""Consent and its end; people nobody has seen for long: who is refused, who is erased, and who is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from command_line import Kiosk
from runner import assert_one_line_error, copy_store, dump, enroll_people
from test_audit import old_store
from test_store import ANA, DAY_MS, MODEL, check_in, file_bytes, moment, template

from kiosk.biometrics import Box, SubjectId
from kiosk.clip import Person, Scene, Walk, write_clip
from kiosk.clock import SystemClock
from kiosk.config import load
from kiosk.daemon import run_daemon
from kiosk.errors import ConfigError, InputError
from kiosk.opencv import cv2
from kiosk.store import Action, Consent, Store
from kiosk.store._damage import find_damage
from kiosk.store._subjects import _UNSEEN

TODAY = date(2026, 3, 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kiosk.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as store:
        yield store


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that follows a time server, whatever this machine's does."""
    monkeypatch.setattr(SystemClock, "synchronized", lambda _: True)


def agreed(until: str | None = None) -> Consent:
    return Consent("HR-17", "2026-01-02", "v3", until)


def test_all_of_a_consent_is_stored_sealed_and_replaced_as_a_whole(store: Store) -> None:
    store.enroll(ANA, [], consent=agreed("2026-12-31"))
    subject = store.subject(ANA)
    assert subject is not None
    told = (subject.consent_reference, subject.consent_at, subject.consent_version, subject.consent_until)
    assert told == ("HR-17", "2026-01-02", "v3", "2026-12-31")
    store.set_consent(ANA, Consent("HR-18", "2026-02-03"))
    subject = store.subject(ANA)
    assert subject is not None
    assert (subject.consent_reference, subject.consent_version, subject.consent_until) == ("HR-18", None, None)
    assert store.audit_rows()[-1].action == Action.CONSENT
    assert store.integrity_problem() is None
    with store._writing() as db:
        db.execute("UPDATE subjects SET consent_until = '2020-01-01'")
    assert "row 1 of subjects" in str(store.integrity_problem())
    # Nobody is erased for what is only damage.
    assert store.erase_expired(TODAY) is None


def test_an_older_stores_people_have_no_terms_and_stay(path: Path) -> None:
    old_store(path, 2)
    with Store.open(path, verified=True) as store:
        assert store.restored is None
        assert [(s.consent_version, s.consent_until) for s in store.subjects()] == [(None, None)] * 2
        assert store.erase_expired(date(2099, 1, 1)) is None
    assert find_damage(path) is None


@pytest.mark.parametrize(
    ("before", "now", "refused"),
    [
        (None, None, "there is no consent"),
        (None, agreed("2026-02-28"), "ended on 2026-02-28"),
        (agreed("2026-02-28"), None, "ended on 2026-02-28"),
        (None, agreed("2026-03-01"), None),
        (None, agreed(), None),
        (agreed(), None, None),
        (agreed("2026-02-28"), agreed("2027-02-28"), None),
    ],
)
def test_where_consent_is_needed(
    store: Store, before: Consent | None, now: Consent | None, refused: str | None
) -> None:
    if before is not None:
        store.enroll(ANA, [], consent=before)
    if refused is None:
        store.check_consent(ANA, now, TODAY)
        store.enroll(ANA, [template()], consent=now, consent_needed_on=TODAY)
        return
    for attempt in (
        lambda: store.check_consent(ANA, now, TODAY),
        lambda: store.enroll(ANA, [template()], consent=now, consent_needed_on=TODAY),
    ):
        with pytest.raises(InputError, match=refused):
            attempt()
    assert store.templates(MODEL) == []


def test_who_consents_no_more_is_erased_on_the_day_after_from_all_bytes(store: Store) -> None:
    with store.backups.alone():
        for name, until in (("E1", "2026-02-28"), ("E2", "2026-03-01"), ("E3", None), ("E0", "2026-01-01")):
            store.enroll(SubjectId(name), [template()], name=f"Canary-{name}", consent=agreed(until))
        store.backups.take()
    assert [store.erase_expired(TODAY) for _ in range(3)] == ["E0", "E1", None]
    assert [subject.id for subject in store.subjects()] == ["E2", "E3"]
    assert store.finish_erasures()
    assert [(r.subject_id, r.templates_erased, r.complete) for r in store.receipts()] == [
        ("E0", 1, True),
        ("E1", 1, True),
    ]
    assert [row.detail()["reason"] for row in store.audit_rows()[-2:]] == ["consent_expired"] * 2
    everything = file_bytes(store.path) + b"".join(backup.path.read_bytes() for backup in store.backups.all())
    assert b"Canary-E2" in everything
    assert b"Canary-E1" not in everything
    assert b"Canary-E0" not in everything


# --- not seen for long


def now_ms() -> int:
    return round(datetime.now(UTC).timestamp() * 1000)


@pytest.mark.usefixtures("trusted")
def test_who_is_not_seen_for_so_many_days_is_erased(store: Store) -> None:
    for name in ("absent", "enrolled-again", "seen"):
        store.enroll(SubjectId(name), [template()])
    later_ms = now_ms() + 40 * DAY_MS
    check_in(store, "absent", moment(later_ms - 31 * DAY_MS))
    check_in(store, "seen", moment(later_ms - 29 * DAY_MS))
    with store._writing() as db:
        again = (datetime.now(UTC) + timedelta(days=20)).isoformat()
        db.execute("UPDATE templates SET created_at = ? WHERE subject_id = 'enrolled-again'", [again])
    assert store.erase_unseen(50, now_ms=later_ms) is None
    assert store.erase_unseen(30, now_ms=later_ms) == "absent"
    assert store.erase_unseen(30, now_ms=later_ms) is None
    assert store.audit_rows()[-1].detail()["reason"] == "unseen"
    presences = store.presences()
    assert {subject: presence.events for subject, presence in presences.items()} == {"absent": 1, "seen": 1}


@pytest.mark.usefixtures("trusted")
def test_a_visit_or_an_enrollment_before_the_clock_was_set_is_not_taken_for_old(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    later_ms = now_ms() + 400 * DAY_MS
    store.enroll(ANA, [template()])
    store.enroll(SubjectId("E2"), [template()])
    check_in(store, "E2", moment(later_ms - 300 * DAY_MS))
    # After a visit that is known to be 300 days old; its own time says 1970, and may be a minute ago.
    check_in(store, ANA, moment(1000, synchronized=False))
    assert store.erase_unseen(100, now_ms=later_ms) == "E2"
    with monkeypatch.context() as unset:
        unset.setattr(SystemClock, "synchronized", lambda _: False)
        store.enroll(SubjectId("E3"), [template()])
    assert store.erase_unseen(100, now_ms=later_ms) is None
    # Something done later, under a clock that was set, tells how old the enrollment is at least.
    store.enroll(SubjectId("E4"), [])
    check_in(store, "E4", moment(later_ms - 200 * DAY_MS))
    assert [store.erase_unseen(100, now_ms=later_ms) for _ in range(4)] == ["E1", "E3", "E4", None]


def test_nobody_is_looked_for_in_the_whole_log(store: Store) -> None:
    with store._reading() as db:
        plan = [str(row[3]) for row in db.execute(f"EXPLAIN QUERY PLAN {_UNSEEN}", {"cutoff": "2026"})]
    assert [step for step in plan if step.startswith("SCAN")] == [
        "SCAN s USING INDEX sqlite_autoindex_subjects_1",
        "SCAN e",
    ]
    assert sum("attendance_by_subject" in step for step in plan) == 2


# --- the commands


@pytest.fixture(scope="module")
def _home(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, samples: Path) -> Kiosk:
    return enroll_people(Kiosk(tmp_path_factory.mktemp("home"), request.config.getoption("--runtime")), samples)


@pytest.fixture
def home(kiosk: Kiosk, _home: Kiosk) -> Kiosk:
    copy_store(_home, kiosk)
    return kiosk


def test_enrollment_without_consent_is_refused_before_a_photo_is_looked_at(kiosk: Kiosk, samples: Path) -> None:
    kiosk.configure(privacy={"require_consent": True})
    result = kiosk("enroll", "obama", kiosk.folder / "no-such-photo.jpg")
    assert result.returncode == 65
    assert "obama: not enrolled, for there is no consent" in assert_one_line_error(result.stderr)
    terms = ("--consent", "HR-17", "--consent-version", "v3", "--consent-until", "2099-12-31")
    assert kiosk("enroll", "obama", samples / "obama.jpg", *terms).returncode == 0
    shown = json.loads(kiosk("subjects", "show", "obama", "--json").stdout)
    assert (shown["consent_reference"], shown["consent_version"], shown["consent_until"]) == (
        "HR-17",
        "v3",
        "2099-12-31",
    )
    # What is on record counts for more photos.
    assert kiosk("enroll", "obama", samples / "obama2.jpg").returncode == 0


@pytest.mark.parametrize(
    "options",
    [
        ["--consent-version", "v3"],
        ["--consent-until", "2099-01-01"],
        ["--consent", "HR", "--consent-until", "2020-01-01"],
        ["--consent", "HR", "--consent-date", "2099-01-02", "--consent-until", "2099-01-01"],
        ["--consent", "two\nlines"],
        ["--consent", "HR", "--consent-version", " "],
    ],
)
def test_terms_that_make_no_sense(kiosk: Kiosk, samples: Path, options: list[str]) -> None:
    result = kiosk("enroll", "E1", samples / "obama.jpg", *options)
    assert result.returncode == 64
    assert_one_line_error(result.stderr)
    assert not kiosk.store.exists()


def test_consent_of_somebody_enrolled_and_what_check_says(home: Kiosk) -> None:
    write_clip(home.folder / "room.avi", [Scene(0.3)])
    home.configure(camera={"source": str(home.folder / "room.avi")}, privacy={"require_consent": True})
    soon = (datetime.now(UTC) + timedelta(days=20)).date().isoformat()
    done = home("subjects", "consent", "obama", "HR-17", "--version", "v3", "--until", soon)
    assert (done.returncode, done.stdout) == (0, f"obama: consent HR-17 recorded, until {soon}\n")
    checks = [c for c in json.loads(home("check", "--json").stdout)["checks"] if c["name"] == "consent"]
    assert [check["status"] for check in checks] == ["warn", "warn"]
    assert f"obama on {soon}" in checks[0]["message"]
    assert "none of 1 subject is on record: biden" in checks[1]["message"]
    assert home("subjects", "consent", "nobody", "HR").returncode == 65
    before = dump(home.store)
    assert home("subjects", "consent", "obama", "HR", "--until", "2020-01-01").returncode == 64
    assert dump(home.store) == before


def test_unseen_days_beyond_the_events_kept_are_refused(kiosk: Kiosk) -> None:
    kiosk.configure(privacy={"unseen_days": 366})
    with pytest.raises(ConfigError, match=r"privacy: unseen_days \(366\) must not be more than store.retention_days"):
        load(kiosk.config, {})
    kiosk.configure(privacy={"unseen_days": 365})
    assert load(kiosk.config, {}).privacy.unseen_days == 365


@pytest.mark.parametrize("synchronized", [True, False])
def test_the_daemon_erases_and_recognizes_no_more_only_under_a_trusted_clock(
    home: Kiosk, samples: Path, monkeypatch: pytest.MonkeyPatch, *, synchronized: bool
) -> None:
    monkeypatch.setattr(SystemClock, "synchronized", lambda _: synchronized)
    with Store.open(home.store) as store:
        for name in ("obama", "biden"):
            store.set_consent(name, agreed("2026-02-28"))
    clip = home.folder / "clip.avi"
    obama = Person(cv2.imread(str(samples / "obama2.jpg")), Box(115, 181, 181, 181))  # type: ignore[arg-type]
    write_clip(clip, [Scene(2.0), Scene(1.5, (Walk(obama, x=(0.45, 0.55), face_px=(120, 130)),))])
    home.configure(camera={"source": str(clip), "pace": "realtime"})
    run_daemon(load(home.config, {}))
    with Store.open(home.store) as store:
        if not synchronized:
            assert [row.subject_id for row in store.attendance()] == ["obama"]
            assert len(store.subjects()) == 2
            return
        assert store.attendance() == []
        assert store.subjects() == []
        assert {receipt.subject_id for receipt in store.receipts()} == {"obama", "biden"}
        removed = [row for row in store.audit_rows() if row.action == Action.REMOVE]
        assert [(row.process, row.detail()["reason"]) for row in removed] == [("daemon", "consent_expired")] * 2
        assert store.finish_erasures()
        assert all(receipt.complete for receipt in store.receipts())
        assert store.verify_audit().problems == ()
