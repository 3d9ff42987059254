"""Consent and its end; people nobody has seen for long: who is refused, not recognized, due, and erased."""

from __future__ import annotations

import contextlib
import io
import json
import sqlite3
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from command_line import Kiosk
from runner import assert_one_line_error, copy_store, dump, run_in_process
from test_audit import old_store
from test_store import ANA, MODEL, check_in, file_bytes, moment, template

from kiosk.biometrics import Box, SubjectId
from kiosk.clip import Person, Scene, Walk, write_clip
from kiosk.clock import SystemClock
from kiosk.config import load
from kiosk.daemon import GalleryWatcher, run_daemon
from kiosk.errors import ConfigError, InputError
from kiosk.events import Moment
from kiosk.opencv import cv2
from kiosk.pipeline import build_pipeline
from kiosk.store import Action, Consent, DueReason, KeyFile, Store
from kiosk.store._damage import find_damage

pytestmark = pytest.mark.stories

TODAY = date(2026, 3, 1)


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
    # For what is only damage nobody is due, and everybody is recognized.
    assert store.due(TODAY) == []
    assert store.lapsed(TODAY) == frozenset()


def test_an_older_stores_people_have_no_terms_and_stay(path: Path) -> None:
    old_store(path, 2)
    with Store.open(path, verified=True) as store:
        assert store.restored is None
        assert [(s.consent_version, s.consent_until) for s in store.subjects()] == [(None, None)] * 2
        assert store.due(date(2099, 1, 1)) == []
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


def test_who_consents_no_more_is_due_on_the_day_after_and_erased_from_all_bytes(store: Store) -> None:
    with store.backups.alone():
        for name, until in (("E1", "2026-02-28"), ("E2", "2026-03-01"), ("E3", None), ("E0", "2026-01-01")):
            store.enroll(SubjectId(name), [template()], name=f"Canary-{name}", consent=agreed(until))
        store.backups.take()
    due = store.due(TODAY)
    assert [(one.subject_id, one.reason, one.templates) for one in due] == [
        ("E0", DueReason.CONSENT_ENDED, 1),
        ("E1", DueReason.CONSENT_ENDED, 1),
    ]
    assert store.lapsed(TODAY) == {"E0", "E1"}
    assert all(store.remove_due(one) is not None for one in due)
    assert [subject.id for subject in store.subjects()] == ["E2", "E3"]
    assert store.finish_erasures()
    assert [(r.subject_id, r.templates_erased, r.complete) for r in store.receipts()] == [
        ("E0", 1, True),
        ("E1", 1, True),
    ]
    assert [row.detail()["reason"] for row in store.audit_rows()[-2:]] == ["consent_ended"] * 2
    everything = file_bytes(store.path) + b"".join(backup.path.read_bytes() for backup in store.backups.all())
    assert b"Canary-E2" in everything
    assert b"Canary-E1" not in everything
    assert b"Canary-E0" not in everything


def test_who_agreed_or_came_by_after_the_look_stays(store: Store) -> None:
    for name in ("agreed", "came", "enrolled", "renamed"):
        store.enroll(SubjectId(name), [template()], consent=agreed("2026-02-28"))
    due = store.due(TODAY)
    store.set_consent("agreed", agreed())
    check_in(store, "came")
    store.enroll(SubjectId("enrolled"), [template(1)])
    assert [one.subject_id for one in due if store.remove_due(one) is not None] == ["renamed"]


def test_a_gallery_without_those_whose_consent_has_ended(store: Store) -> None:
    for name, until in (("ended", "2026-02-28"), ("holds", "2026-03-01"), ("none", None)):
        store.enroll(SubjectId(name), [template()], consent=agreed(until))
    gallery = store.gallery(MODEL, today=TODAY)
    assert (gallery.subjects, gallery.lapsed) == (["holds", "none"], {"ended"})
    # Without a clock that can be trusted nobody is left out.
    assert len(store.gallery(MODEL)) == 3


# --- not seen for long


START = datetime(2026, 1, 1, 12, tzinfo=UTC)


def day(number: int) -> date:
    return (START + timedelta(days=number)).date()


def at_day(number: float, **options: bool) -> Moment:
    return moment(round((START + timedelta(days=number)).timestamp() * 1000), **options)


@pytest.fixture
def set_day(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What is written from now on is written on that day, by a clock that was set or was not."""

    def use(number: float, *, synchronized: bool = True) -> None:
        now_ns = round((START + timedelta(days=number)).timestamp()) * 1_000_000_000
        monkeypatch.setattr("time.time_ns", lambda: now_ns)
        monkeypatch.setattr(SystemClock, "synchronized", lambda _: synchronized)

    return use


def use_daily(store: Store, first: int, last: int, subject: str = "daily") -> None:
    for number in range(first, last + 1):
        check_in(store, subject, at_day(number), outbox=False)


def unseen(store: Store, today: int) -> dict[str, int]:
    history = store.history(day(today))
    return {subject.id: history.unseen_days(subject.id) for subject in store.subjects()}


@pytest.fixture
def door(store: Store, set_day: Callable[..., None]) -> Store:
    """Enrolled on day 0: one who comes daily, one who came until day 10, one who never did."""
    set_day(0)
    for name in ("daily", "left", "never"):
        store.enroll(SubjectId(name), [template()])
    for number in range(11):
        check_in(store, "left", at_day(number), outbox=False)
        check_in(store, "daily", at_day(number + 0.1), outbox=False)
    return store


def test_days_count_on_which_others_were_seen(door: Store) -> None:
    use_daily(door, 11, 41)
    assert unseen(door, 41) == {"daily": 0, "left": 31, "never": 41}
    assert [(one.subject_id, one.unseen_days) for one in door.due(day(41), 30)] == [("left", 31), ("never", 41)]
    assert [one.subject_id for one in door.due(day(41), 40)] == ["never"]
    assert door.due(day(41), 42) == []
    assert door.due(day(41)) == []


def test_while_the_kiosk_stands_idle_no_day_counts(door: Store) -> None:
    # Off for 200 days, then used for ten; nor does it matter how long ago that was.
    use_daily(door, 211, 221)
    assert unseen(door, 221) == unseen(door, 900) == {"daily": 0, "left": 10, "never": 20}
    # A weekend does count.
    use_daily(door, 224, 225)
    assert unseen(door, 225)["left"] == 14


def test_a_new_enrollment_or_consent_begins_anew(door: Store, set_day: Callable[..., None]) -> None:
    use_daily(door, 11, 40)
    set_day(30)
    door.enroll(SubjectId("never"), [template(1)])
    assert unseen(door, 40) == {"daily": 0, "left": 30, "never": 10}
    set_day(35)
    door.set_consent("left", agreed())
    assert unseen(door, 40) == {"daily": 0, "left": 5, "never": 10}


def test_a_restore_begins_anew_for_everybody(path: Path, set_day: Callable[..., None]) -> None:
    set_day(0)
    with Store.open(path) as store:
        for name in ("daily", "left"):
            store.enroll(SubjectId(name), [template()])
        use_daily(store, 0, 60)
        assert unseen(store, 60)["left"] == 60
        with store.backups.alone():
            store.backups.take()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("DROP INDEX templates_by_subject")
    set_day(60)
    with Store.open(path, verified=True) as store:
        assert store.restored is not None
        assert unseen(store, 60) == {"daily": 0, "left": 0}
        use_daily(store, 61, 65)
        assert unseen(store, 65)["left"] == 5


def test_events_that_retention_has_deleted_might_have_been_anybodys(door: Store) -> None:
    # Seen until day 50, then not; nothing of that is left but an event that was never sent, of day 5.
    for number in range(11, 51):
        check_in(door, "left", at_day(number), outbox=False)
    parked = [check_in(door, "daily", at_day(number)).seq for number in (51, 53, 55)]
    use_daily(door, 56, 110)
    assert unseen(door, 110)["left"] == 59
    door.mark_sent(parked[1:2])
    door.prune(30, now_ms=at_day(110).utc_ms)
    kept = [row.seq for row in door.attendance()]
    assert kept[:2] == [parked[0], parked[2]]
    # Raising the retention again brings nothing back: the last 30 days are all there is.
    assert unseen(door, 110) == {"daily": 0, "left": 30, "never": 30}
    assert door.due(day(110), 31) == []


def test_a_clock_that_jumps_ahead_makes_nobody_due(door: Store) -> None:
    use_daily(door, 11, 13)
    use_daily(door, 3000, 3002)
    # Its time is put right again.
    use_daily(door, 14, 16)
    assert unseen(door, 16)["left"] == 6
    assert unseen(door, 3003)["left"] == 8
    # Nor does it make anybody unseen whose own last visit it dated wrongly.
    check_in(door, "never", at_day(-5000), outbox=False)
    assert unseen(door, 16)["never"] == 0


def test_visits_under_a_clock_that_was_not_set_count_by_their_place_in_the_log(door: Store) -> None:
    use_daily(door, 11, 40)
    check_in(door, "left", at_day(-20000, synchronized=False), outbox=False)
    use_daily(door, 41, 45)
    # From the first visit of somebody else after it.
    assert unseen(door, 45) == {"daily": 0, "left": 4, "never": 45}


def test_an_enrollment_of_an_unknown_time_counts_from_the_next_known_one(
    door: Store, set_day: Callable[..., None]
) -> None:
    use_daily(door, 11, 40)
    set_day(-9000, synchronized=False)
    door.enroll(SubjectId("new"), [template()])
    assert unseen(door, 40)["new"] == 0
    set_day(35)
    door.rename_subject("daily", "Dan")
    assert unseen(door, 40)["new"] == 5


def test_who_was_enrolled_before_there_was_an_audit_log_counts_from_its_beginning(
    door: Store, set_day: Callable[..., None]
) -> None:
    use_daily(door, 11, 40)
    with door._writing() as db:
        db.execute("DELETE FROM audit")
    assert unseen(door, 40)["never"] == 0
    set_day(25)
    door.rename_subject("daily", "Dan")
    assert unseen(door, 40)["never"] == 15


# --- the commands


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
        ["--consent", "HR", "--consent-date", "2099-01-02"],
        ["--consent", "two\nlines"],
        ["--consent", "HR", "--consent-version", " "],
    ],
)
def test_terms_that_make_no_sense(kiosk: Kiosk, samples: Path, options: list[str]) -> None:
    result = kiosk("enroll", "E1", samples / "obama.jpg", *options)
    assert result.returncode == 64
    assert_one_line_error(result.stderr)
    assert not kiosk.store.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("enroll", "E1", "photo.jpg", "--consent", "HR", "--consent-date", "31.12.2099"),
        ("enroll", "E1", "photo.jpg", "--consent", "HR", "--consent-until", "2099-13-01"),
        ("subjects", "consent", "E1", "HR", "--date", "tomorrow"),
        ("subjects", "consent", "E1", "HR", "--until", "2099-02-30"),
    ],
)
def test_a_date_that_is_none_is_told_as_people_write_one(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert run_in_process(*arguments) == 64
    told = assert_one_line_error(capsys.readouterr().err)
    assert f"'{arguments[-1]}' is no date: use YYYY-MM-DD" in told
    assert "%" not in told


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


@pytest.mark.parametrize(("unseen_days", "retention_days"), [(352, 365), (17, 30)])
def test_unseen_days_that_the_events_kept_cannot_tell_are_refused(
    kiosk: Kiosk, unseen_days: int, retention_days: int
) -> None:
    kiosk.configure(privacy={"unseen_days": unseen_days}, store={"retention_days": retention_days})
    with pytest.raises(
        ConfigError, match=rf"privacy: unseen_days \({unseen_days}\) must be at least 14 less than store"
    ):
        load(kiosk.config, {})
    kiosk.configure(privacy={"unseen_days": unseen_days - 1})
    assert load(kiosk.config, {}).privacy.unseen_days == unseen_days - 1


# --- erasing who is due


@pytest.fixture
def ended(home: Kiosk) -> Kiosk:
    """Obama's consent has ended, Biden's ends later."""
    with Store.open(home.store) as store:
        store.set_consent("obama", agreed("2026-02-28"))
        store.set_consent("biden", agreed("2999-12-31"))
        check_in(store, "obama")
        check_in(store, "biden")
    return home


@pytest.mark.usefixtures("trusted")
def test_who_is_due_is_shown_and_erased_with_receipts(
    ended: Kiosk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(ended.folder / "room.avi", [Scene(0.3)])
    ended.configure(camera={"source": str(ended.folder / "room.avi")})
    config = ("--config", str(ended.config))
    run_in_process("check", "--json", *config)
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["erasure"]["status"] == "warn"
    assert checks["erasure"]["message"] == (
        "1 subject due: obama (consent ended on 2026-02-28); `kiosk subjects remove --due` shows and erases them"
    )
    run_in_process("privacy", "report", "--json", *config)
    reported = {one["subject_id"]: one["due"] for one in json.loads(capsys.readouterr().out)["subjects"]}
    assert reported["obama"]["reason"] == "consent_ended"
    assert reported["biden"] is None
    # Nobody there to be asked: nothing happens.
    before = dump(ended.store)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert run_in_process("subjects", "remove", "--due", *config) == 65
    told = capsys.readouterr()
    assert "obama (Barack Obama): consent ended on 2026-02-28; 1 template" in told.err
    assert "Erase 1 of 2 subjects?" in told.err
    assert dump(ended.store) == before
    assert run_in_process("subjects", "remove", "--due", "--yes", "--json", *config) == 0
    document = json.loads(capsys.readouterr().out)
    with Store.open(ended.store) as store:
        assert [asdict(receipt) for receipt in store.receipts()] == document["receipts"]
        assert document["receipts"][0]["complete"] is True
        assert [subject.id for subject in store.subjects()] == ["biden"]
        assert [(row.subject_id, row.detail()["reason"]) for row in store.audit_rows()[-1:]] == [
            ("obama", "consent_ended")
        ]
        assert [row.subject_id for row in store.attendance()] == ["obama", "biden"]
        assert store.verify_audit().problems == ()
    everything = b"".join(path.read_bytes() for path in ended.folder.rglob("kiosk*") if path.is_file())
    assert b"Barack" not in everything
    assert run_in_process("subjects", "remove", "--due", *config) == 0
    assert capsys.readouterr().out == "nobody is due\n"


def test_under_a_clock_nobody_has_set_nobody_is_due(
    ended: Kiosk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(SystemClock, "synchronized", lambda _: False)
    config = ("--config", str(ended.config))
    before = dump(ended.store)
    assert run_in_process("subjects", "remove", "--due", "--yes", *config) == 69
    assert "`kiosk subjects remove ID`" in assert_one_line_error(capsys.readouterr().err)
    assert dump(ended.store) == before
    assert run_in_process("privacy", "report", *config) == 0
    assert "nobody can be told to be due" in capsys.readouterr().out
    run_in_process("check", "--json", *config)
    checks = [check for check in json.loads(capsys.readouterr().out)["checks"] if check["name"] == "consent"]
    assert "has ended, if the clock is right: obama on 2026-02-28" in checks[0]["message"]


def test_remove_wants_one_subject_or_all_who_are_due(ended: Kiosk) -> None:
    for arguments in ((), ("obama", "--due")):
        result = ended("subjects", "remove", *arguments, "--yes")
        assert result.returncode == 64
        assert "SUBJECT_ID, or --due" in assert_one_line_error(result.stderr)


@pytest.mark.parametrize("synchronized", [True, False])
def test_who_consents_no_more_is_not_recognized_under_a_trusted_clock_and_nobody_is_erased(
    home: Kiosk,
    samples: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    synchronized: bool,
) -> None:
    monkeypatch.setattr(SystemClock, "synchronized", lambda _: synchronized)
    with Store.open(home.store) as store:
        store.set_consent("obama", agreed("2026-02-28"))
    clip = home.folder / "clip.avi"
    obama = Person(cv2.imread(str(samples / "obama2.jpg")), Box(115, 181, 181, 181))  # type: ignore[arg-type]
    write_clip(clip, [Scene(0.3), Scene(1.5, (Walk(obama, x=(0.45, 0.55), face_px=(120, 130)),)), Scene(2.0)])
    home.configure(camera={"source": str(clip)}, match={"window_s": 0.5})
    run_daemon(load(home.config, {}))
    with Store.open(home.store) as store:
        assert len(store.subjects()) == 2
        assert store.receipts() == []
        if not synchronized:
            assert [row.subject_id for row in store.attendance()] == ["obama"]
            return
        assert store.attendance() == []
        (number,) = {row.event_id for row in store.rejections()}
    config = ("--config", str(home.config))
    assert run_in_process("why", number, *config) == 0
    assert "; 1 not searched for, their consent has ended" in capsys.readouterr().out
    assert run_in_process("identify", str(samples / "obama2.jpg"), "--json", *config) == 0
    assert json.loads(capsys.readouterr().out)["images"][0]["faces"][0]["subject_id"] is None
    assert run_in_process("subjects", "list", *config) == 0
    assert "obama\tBarack Obama\t1 template\tNOT RECOGNIZED: consent ended on 2026-02-28\n" in capsys.readouterr().out
    assert run_in_process("subjects", "show", "obama", *config) == 0
    shown = capsys.readouterr()
    assert "recognized: False\n" in shown.out
    assert "NOT RECOGNIZED: the consent ended on 2026-02-28; `kiosk subjects consent` renews it" in shown.err
    # A new consent is all it takes.
    with Store.open(home.store) as store:
        store.set_consent("obama", agreed())
    assert run_in_process("identify", str(samples / "obama2.jpg"), "--json", *config) == 0
    assert json.loads(capsys.readouterr().out)["images"][0]["faces"][0]["subject_id"] == "obama"


def test_while_the_key_is_missing_a_running_kiosk_forgets_who_is_erased_or_lapsed(
    home: Kiosk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key = home.store.with_name("kiosk.db.key")
    content = key.read_bytes()
    with Store.open(home.store) as store, Store.open(home.store) as command:
        config, today = load(home.config, {}), [date(2026, 2, 28)]
        monkeypatch.setattr(SystemClock, "trusted_date", lambda *_: today[0])
        watcher = GalleryWatcher(config, build_pipeline(config), store)
        key.unlink()
        command.remove_subject("obama")
        watcher.follow()
        assert watcher.gallery.subjects == ["biden"]
        assert "only 1 subjects loaded before are recognized" in caplog.text
        # Back without a face: what was known of that is not used any more.
        command.enroll(SubjectId("obama"), [])
        command.set_consent("biden", agreed("2026-02-28"))
        watcher.follow()
        assert watcher.gallery.subjects == ["biden"]
        today[0] = date(2026, 3, 1)
        watcher.follow()
        assert watcher.gallery.subjects == []
        assert GalleryWatcher(config, build_pipeline(config), store).gallery.subjects == []
        assert "nobody is recognized: " in caplog.text
        # Another's is not what is missing, and is tried once.
        KeyFile.of(home.store).create(home.store)
        assert watcher.follow()
        assert "biden' cannot be decrypted" in str(watcher.key_fault)
        assert not watcher.follow()
        key.write_bytes(content)
        today[0] = date(2026, 2, 28)
        watcher.follow()
        assert watcher.gallery.subjects == ["biden"]
        assert watcher.key_fault is None


def test_the_running_kiosk_notices_that_a_consent_has_ended(
    home: Kiosk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Store.open(home.store) as store:
        store.set_consent("obama", agreed("2026-02-28"))
        config, today = load(home.config, {}), [date(2026, 2, 28)]
        monkeypatch.setattr(SystemClock, "trusted_date", lambda *_: today[0])
        watcher = GalleryWatcher(config, build_pipeline(config), store)
        assert len(watcher.gallery) == 2
        today[0] = date(2026, 3, 1)
        watcher.follow()
        assert watcher.gallery.subjects == ["biden"]
        assert "not recognized any more, for the consent has ended: obama;" in caplog.text
        # The time server is gone: what was known of the date stays known.
        today[0] = None  # type: ignore[call-overload]
        assert not watcher.follow()
        assert watcher.gallery.subjects == ["biden"]
        # The clock had been wrong.
        today[0] = date(2026, 2, 28)
        watcher.follow()
        assert len(watcher.gallery) == 2
