"""Damaged stores: bits, sectors and pages of real files, and what the next start makes of them.

``KIOSK_TEST_CORRUPTIONS=600 pytest tests/test_store_damage.py`` is the long form.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Kiosk
from runner import assert_one_line_error, enroll_people
from sqlite_utils import Database
from test_store import ANA, MODEL, NOW_MS, ORIGIN, check_in, embedding, moment, reject, template

from kiosk import integrity, migrations
from kiosk.biometrics import Box, ModelId, SubjectId
from kiosk.clip import Person, Scene, Walk, write_clip
from kiosk.codes import Kind
from kiosk.errors import StoreError, UnavailableError
from kiosk.events import EventType
from kiosk.opencv import cv2
from kiosk.store import Action, Store, _restore
from kiosk.store._damage import find_damage
from kiosk.store._restore import SEQ_JUMP
from kiosk.store._wal import WriteAheadLog

pytestmark = pytest.mark.stories

CORRUPTIONS = int(os.environ.get("KIOSK_TEST_CORRUPTIONS", "60"))
LOST_BADGE, NEW_BADGE = b"lost".ljust(32), b"new".ljust(32)
KINDS = ("bit", "sector", "page")
TABLES = tuple(table for table in integrity.COLUMNS if table != "marks")
MOST_START_S = 10.0
COLUMN_ACTION = integrity.COLUMNS["audit"].index("action")

Dump = dict[str, dict[str, tuple[object, ...]]]


def fill(path: Path) -> None:
    """People, events and all else, a backup, and then some more."""
    with Store.open(path) as store:
        for number in range(40):
            store.enroll(SubjectId(f"E{number}"), [template(number), template(100 + number)], name=f"Name {number}")
        for number in range(250):
            event = check_in(store, f"E{number % 40}", moment(NOW_MS + number))
            reject(store, f"E{number % 40}")
            if number < 200:
                store.mark_sent([event.seq])
        with store._writing() as db:
            db.execute("INSERT INTO calibrations (model_id, created_at, document) VALUES ('m', 'then', '{}')")
            integrity.seal(db, "calibrations")
        for number in range(30, 40):
            store.set_pin(SubjectId(f"E{number}"), salt=bytes(16), digest=bytes([number] * 32), now_ms=NOW_MS)
        store.remove_subject("E39")
        store.remove_subject("E38")
        with store.backups.alone():
            store.backups.take()
        store.enroll(SubjectId("late"), [template(200)])
        for number in range(60):
            event = check_in(store, "late", moment(NOW_MS + number))
            if number % 10 == 0:
                store.request_replay(f"wish-{number}", 1, 5)
            if number < 30:
                store.mark_sent([event.seq])
            reject(store, "late")
        store.rename_subject("E5", "Another Name")


def dump(path: Path) -> Dump:
    """Every row's sealed values by table and digest, of the outbox the state as well."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        found: Dump = {}
        for table in TABLES:
            columns = [*integrity.COLUMNS[table], *(["state"] if table == "outbox" else []), "digest"]
            rows = db.execute(f"SELECT {', '.join(columns)} FROM {table}").fetchall()  # noqa: S608 - our own names
            found[table] = {str(row[-1]): row[:-1] for row in rows}
    return found


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store at rest. Copied by each test that damages it."""
    path = tmp_path_factory.mktemp("filled") / "kiosk.db"
    fill(path)
    return path


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a kill -9 leaves it: the last events are in the write-ahead log only."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("live")
    fill(source / "kiosk.db")
    with Store.open(source / "kiosk.db") as store:
        for number in range(40):
            check_in(store, "late", moment(NOW_MS + 100 + number))
        shutil.copytree(source, target, dirs_exist_ok=True)
    return target / "kiosk.db"


@pytest.fixture
def path(filled: Path, tmp_path: Path) -> Path:
    return copy(filled, tmp_path)


def copy(source: Path, folder: Path) -> Path:
    shutil.copytree(source.parent, folder, dirs_exist_ok=True)
    return folder / source.name


def corrupt(path: Path, kind: str, rng: random.Random) -> str:
    """Flip a bit, or overwrite a sector or page with noise or zeros; says what."""
    content = bytearray(path.read_bytes())
    if kind == "bit":
        at = rng.randrange(len(content))
        content[at] ^= 1 << rng.randrange(8)
    else:
        size = 512 if kind == "sector" else page_bytes(bytes(content))
        at = rng.randrange(len(content) // size) * size
        content[at : at + size] = rng.choice([rng.randbytes(size), bytes(size)])
    path.write_bytes(content)
    return f"{kind} at {at}"


def page_bytes(content: bytes) -> int:
    return int.from_bytes(content[16:18], "big")


def wipe_first_page(path: Path) -> bytes:
    """Header and definitions are zeros; returns the content."""
    content = path.read_bytes()
    content = bytes(page_bytes(content)) + content[page_bytes(content) :]
    path.write_bytes(content)
    return content


def committed_seqs(truth: Dump) -> set[int]:
    return {int(str(row[0])) for row in truth["attendance"].values()}


def judge(path: Path, truth: Dump) -> str:
    """Open as ``kiosk run`` does; fails unless all is as committed or the report says what is not."""
    started_s = time.monotonic()
    with Store.open(path, verified=True) as store:
        duration_s = time.monotonic() - started_s
        restored = store.restored
        assert len(store.templates(MODEL)) == len(dump(path)["templates"])
        found = dump(path)
        assert find_damage(path) is None
        assert check_in(store, "E1").seq > max(committed_seqs(truth))
    assert duration_s < MOST_START_S
    # What the restore itself says, last; it is not among what was committed.
    told = [digest for digest, row in found["audit"].items() if row[COLUMN_ACTION] == Action.RESTORE]
    for digest in told:
        del found["audit"][digest]
    assert bool(told) is (restored is not None)
    with Store.open(path) as store:
        problems = store.verify_audit().problems
    if len(found["audit"]) < len(truth["audit"]):
        assert problems
    if restored is None:
        assert found == truth
        return "whole"
    assert store.path.with_name(restored.damaged_file).exists()
    for table in TABLES:
        for digest, row in found[table].items():
            was = truth[table].get(digest)
            if table == "outbox" and was is not None:
                # What was sent may be sent again, never the other way round.
                assert row == was or (*row[:-1], "sent") == was
            elif was is None:
                # A half of an event that was made from the other half, or what the backup had, of a table that is told.
                assert table in restored.unread, (table, row)
                assert row[0] in {one[0] for one in truth[table].values()}
            else:
                assert row == was
        if len(found[table]) < len(truth[table]):
            assert table in restored.unread, (table, restored)
    lost = {seq for first, last in restored.lost_events for seq in range(first, last + 1)}
    missing = committed_seqs(truth) - {int(str(row[0])) for row in found["attendance"].values()}
    # Told too much where the counter itself is damaged, never too little.
    assert missing <= lost
    return "restored" if not missing else "restored with a loss it names"


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_damaged_all_is_as_committed_or_said(
    filled: Path, tmp_path: Path, kind: str, record_property: Callable[[str, object], None]
) -> None:
    truth = dump(filled)
    outcomes: Counter[str] = Counter()
    slowest_s = 0.0
    for seed in range(CORRUPTIONS // len(KINDS)):
        folder = tmp_path / str(seed)
        path = copy(filled, folder)
        what = corrupt(path, kind, random.Random(f"{kind}{seed}"))  # noqa: S311 - repeatable
        started_s = time.monotonic()
        try:
            outcomes[judge(path, truth)] += 1
        except BaseException as error:
            error.add_note(f"seed {seed}: {what}")
            raise
        slowest_s = max(slowest_s, time.monotonic() - started_s)
        shutil.rmtree(folder)
    record_property("outcomes", dict(outcomes))
    print(f"{kind}: {dict(outcomes)}, slowest {slowest_s:.2f} s")  # noqa: T201 - the figures of the long form
    if kind == "page":
        assert outcomes["whole"] < sum(outcomes.values()) / 2


@pytest.mark.parametrize("seed", range(max(6, CORRUPTIONS // 10)))
def test_a_damaged_write_ahead_log_loses_nothing_in_silence(live: Path, tmp_path: Path, seed: int) -> None:
    path = copy(live, tmp_path)
    log = WriteAheadLog.read(path)
    assert log is not None
    whole = copy(live, tmp_path / "whole")
    truth = dump(whole)
    rng = random.Random(seed)  # noqa: S311 - repeatable
    # The last transaction cannot be told from one that a power cut interrupted.
    ends = [frame for frame in log.frames if frame.pages]
    wal = path.with_name("kiosk.db-wal")
    content = bytearray(wal.read_bytes())
    at = rng.randrange(0, ends[-2].offset)
    content[at] ^= 1 << rng.randrange(8)
    wal.write_bytes(content)
    assert judge(path, truth) in {"whole", "restored", "restored with a loss it names"}


def test_an_unfinished_last_transaction_is_told_and_left_out(
    live: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = copy(live, tmp_path)
    committed = len(dump(copy(live, tmp_path / "whole"))["attendance"])
    log = WriteAheadLog.read(path)
    assert log is not None
    os.truncate(path.with_name("kiosk.db-wal"), log.frames[-1].offset + 100)
    with Store.open(path, verified=True) as store:
        assert store.restored is None
        assert len(store.attendance()) == committed - 1
    assert "not finished" in caplog.text


# --- what is damaged, and how it is told


def overwrite(path: Path, old: bytes, new: bytes) -> None:
    """In one place of the file, where it stands."""
    content = path.read_bytes()
    assert old in content
    assert len(old) == len(new)
    path.write_bytes(content.replace(old, new, 1))


def test_a_state_that_is_none_is_found_although_it_has_no_digest(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        db.execute("UPDATE outbox SET state = 'qending' WHERE seq = 300")
        db.execute("PRAGMA ignore_check_constraints = OFF")
        # SQLite says so as well, but not to a connection that only reads.
        assert db.execute("PRAGMA quick_check(1)").fetchone() == ("CHECK constraint failed in outbox",)
    assert find_damage(path) == "row 300 of outbox differs from what was written"
    truth = dump(path)
    truth["outbox"] = {d: (*r[:-1], "pending") if r[0] == 300 else r for d, r in truth["outbox"].items()}
    assert judge(path, truth) == "restored"


@pytest.mark.parametrize("table", TABLES)
def test_a_changed_value_is_found_in_every_table(path: Path, table: str) -> None:
    column = integrity.COLUMNS[table][1]
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"UPDATE {table} SET {column} = {column} || '1' WHERE rowid = (SELECT MIN(rowid) FROM {table})")  # noqa: S608
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    problem = find_damage(path)
    assert problem is not None
    assert f"of {table}" in problem
    assert problem.endswith("differs from what was written")


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("UPDATE sqlite_sequence SET seq = seq - 1", "its event counter is damaged"),
        ("UPDATE sqlite_sequence SET seq = seq + 1", "its event counter is damaged"),
        ("DELETE FROM sqlite_sequence", "its event counter is damaged"),
        ("PRAGMA user_version = 1", "schema version 1 instead of"),
        ("PRAGMA user_version = 99", "schema version 99 instead of"),
        ("PRAGMA application_id = 7", "its application id is damaged"),
        ("DELETE FROM marks WHERE name = 'seq_floor'", "the record of its numbering is damaged"),
        ("DELETE FROM marks WHERE name = 'schema'", "the record of its definitions is damaged"),
        ("DROP INDEX outbox_unsent", "the definition of outbox_unsent has changed"),
    ],
)
def test_what_stands_beside_the_rows_is_verified_too(path: Path, sql: str, problem: str) -> None:
    truth = dump(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(sql)
    assert problem in str(find_damage(path))
    assert judge(path, truth) == "restored"


def test_retention_that_deletes_everything_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "kiosk.db"
    with Store.open(path) as store:
        store.enroll(ANA, [])
        for _ in range(3):
            store.mark_sent([check_in(store).seq])
        assert store.prune(1, now_ms=NOW_MS + 3 * 86_400_000) == 3
    with Store.open(path, verified=True) as store:
        assert store.restored is None
        assert check_in(store).seq == 4
    assert find_damage(path) is None


def test_a_damaged_template_is_named_and_never_compared(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Store.open(path) as store:
        before = store._rows("SELECT embedding FROM templates WHERE subject_id = 'E7' ORDER BY id")[0]["embedding"]
    overwrite(path, before[:64], before[:63] + bytes([before[63] ^ 1]))
    with Store.open(path) as store:
        damaged = [t for t in store.templates(MODEL) if t.subject_id == "E7"]
        assert len(damaged) == 1
        assert damaged[0].embedding.tobytes() == embedding(107).tobytes()
        assert store.damaged_templates() == ["E7"]
        store.templates(MODEL)
    assert caplog.text.count("templates of 'E7' are damaged and not compared") == 1


def test_a_damaged_event_is_never_sent(path: Path) -> None:
    with Store.open(path) as store:
        first = store.next_pending()
        assert first is not None
        store.checkpoint()
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("UPDATE outbox SET payload = replace(payload, '0.81', '0.91') WHERE seq = ?", [first.seq])
            db.commit()
        for look in (store.next_pending, lambda: store.lend_pending(5)):
            with pytest.raises(StoreError, match=f"event {first.seq} differs from what was written.*restart the kiosk"):
                look()
        assert store.damaged
    with Store.open(path, verified=True) as store:
        assert store.restored is not None
        assert store.next_pending() is not None


def test_an_older_store_gets_its_digests_with_the_upgrade(tmp_path: Path) -> None:
    path = tmp_path / "kiosk.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        old = Database(connection, execute_plugins=False)
        steps = migrations.STEPS[: migrations.SEALED_SINCE - 1]
        migrations.migrate(old, path, steps)
        old.execute("INSERT INTO subjects (id, created_at) VALUES ('E1', 'then')")
        old.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('attendance', 41)")
    assert find_damage(path) is None
    with Store.open(path, verified=True) as store:
        assert store.restored is None
        assert check_in(store).seq == 42
    assert find_damage(path) is None


# --- restoring


def test_page_one_is_taken_from_the_backup_to_read_the_rest(path: Path) -> None:
    truth = dump(path)
    wipe_first_page(path)
    assert judge(path, truth) == "restored"
    with Store.open(path) as store:
        last = store.last_restore()
        assert last is not None
        assert last.salvaged["attendance"] == 60
        assert (last.lost_events, last.unread, last.jumped) == ((), (), False)
        assert {subject.id for subject in store.subjects()} >= {"late"}


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_file_gives_what_is_left_of_it(path: Path, share: float) -> None:
    truth = dump(path)
    os.truncate(path, int(path.stat().st_size * share))
    assert judge(path, truth).startswith("restored")


@pytest.mark.parametrize("how", ["empty", "gone", "text"])
def test_where_nothing_is_left_numbering_jumps_and_the_report_says_so(path: Path, how: str) -> None:
    for file in path.parent.glob("kiosk.db-*"):
        file.unlink()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(b"" if how == "empty" else b"no database " * 1000)
    with Store.open(path, verified=True) as store:
        last = store.restored
        assert last is not None
        assert last.jumped
        assert last.next_seq == 250 + SEQ_JUMP + 1
        assert "numbers 251 to 100250 are left out" in last.describe()
        assert "LOST, too: whatever else was recorded after that backup" in last.describe()
        assert "no event is known to be lost" not in last.describe()
        assert check_in(store, "E1").seq == last.next_seq
        assert [row.seq for row in store.attendance()][-2:] == [250, last.next_seq]
        assert all(not row.fresh for row in [store.next_pending()] if row)
    with Store.open(path, verified=True) as store:
        assert store.restored is None
        assert store.last_restore() == last


def test_a_bad_backup_is_passed_over(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Store.open(path) as store, store.backups.alone():
        store.backups.take()
        newest, older = store.backups.all()
    overwrite(newest.path, b"Name 11", b"Name 12")
    path.write_bytes(b"gone")
    with Store.open(path, verified=True) as store:
        assert store.restored is not None
        assert store.restored.backup_at == older.taken_at
    assert f"{newest.path} is no good: row" in caplog.text


def test_without_a_good_backup_it_is_refused_and_left_alone(path: Path) -> None:
    shutil.rmtree(path.parent / "backups")
    content = wipe_first_page(path)
    with pytest.raises(StoreError, match=r"damaged .*no good backup in .*backups: move kiosk\.db\* away") as caught:
        Store.open(path, verified=True)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content
    assert not list(path.parent.glob("*damaged*"))


@pytest.mark.parametrize("suffixes", [("",), ("", "-wal", "-shm")])
def test_a_file_deleted_under_an_open_store_is_kept_and_restored(path: Path, suffixes: tuple[str, ...]) -> None:
    with Store.open(path, verified=True) as store:
        told = check_in(store, "E1").seq
        truth = dump(path)
        for suffix in suffixes:
            path.with_name(path.name + suffix).unlink()
        for _ in range(2):
            with pytest.raises(StoreError, match=r"damaged \(its file is gone or empty\); restart the kiosk"):
                check_in(store, "E1")
        assert store.damaged
        assert not path.exists()
        backups = store.backups.all()
    with Store.open(path, verified=True) as store:
        assert store.restored is not None
        assert store.restored.backup_at == backups[0].taken_at
        assert check_in(store, "E1").seq > told
    now = dump(path)
    assert {table: truth[table].items() - now[table].items() for table in TABLES} == {table: set() for table in TABLES}


def test_a_store_that_was_there_is_not_begun_anew_by_anybody(path: Path) -> None:
    path.unlink()
    with pytest.raises(StoreError, match="gone or empty; `kiosk run` restores"):
        Store.open(path)
    assert not path.exists()
    shutil.rmtree(path.parent / "backups")
    with pytest.raises(StoreError, match="no good backup"):
        Store.open(path, verified=True)
    for file in path.parent.glob("kiosk.db*"):
        file.unlink()
    with Store.open(path, verified=True) as store:
        assert store.subjects() == []


def test_another_programs_file_is_refused_not_replaced(tmp_path: Path, path: Path) -> None:
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (x)")
    with pytest.raises(StoreError, match="another program"):
        Store.open(path, verified=True)
    assert not list(tmp_path.glob("*damaged*"))


def test_nobody_erased_comes_back_with_an_older_backup(path: Path) -> None:
    # Erased after the backup was taken, and renewing the backups failed, as on a full disk.
    stale = next(path.parent.glob("backups/*.db"))
    with Store.open(path) as store:
        older = stale.read_bytes()
        store.remove_subject("E37")
        assert b"Name 37" in older
        for backup in store.backups.all():
            backup.path.unlink()
        stale.write_bytes(older)
    wipe_first_page(path)
    with Store.open(path, verified=True) as store:
        assert store.restored is not None
        assert store.subject("E37") is None
        assert not [t for t in store.templates(MODEL) if t.subject_id == "E37"]
        assert not {r.complete for r in store.receipts() if r.subject_id == "E37"} - {False}
        assert store.finish_erasures()
    assert not list(path.parent.glob("*damaged*"))
    assert all(b"Name 37" not in file.read_bytes() for file in path.parent.rglob("*.db*"))


def test_no_name_comes_back_in_an_event_of_an_older_backup(path: Path) -> None:
    """What the damaged file said without the name cannot be read any more."""
    with Store.open(path) as store:
        event = check_in(store, "E37", include_name=True)
        with store.backups.alone():
            store.backups.take()
        stale = store.backups.all()[0].path
        older = stale.read_bytes()
        store.remove_subject("E37")
        for backup in store.backups.all():
            backup.path.unlink()
        stale.write_bytes(older)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE outbox SET payload = payload || ' ' WHERE seq = ?", [event.seq])
        db.commit()
    with Store.open(path, verified=True) as store:
        assert store.restored is not None
        payloads = {payload["seq"]: payload for payload in store.event_payloads()}
        assert payloads[event.seq]["subject"] == {"id": "E37"}
        assert store.finish_erasures()
    assert b"Name 37" in older
    assert all(b"Name 37" not in file.read_bytes() for file in path.parent.rglob("*.db*"))


def test_no_code_taken_away_comes_back_with_an_older_backup(path: Path) -> None:
    with Store.open(path) as store:
        store.remove_codes("E30")
        store.remove_codes("E31")
        store.set_pin(SubjectId("E31"), salt=bytes(16), digest=b"new".ljust(32), now_ms=NOW_MS)
        store.set_badge(SubjectId("E32"), salt=bytes(16), digest=b"badge".ljust(32), now_ms=NOW_MS)
        store.charge_code(store.codes()[-1].number, boottime_ms=1, boot_id="boot")
        truth = store.codes()
    wipe_first_page(path)
    with Store.open(path, verified=True) as store:
        assert store.restored is not None
        assert store.codes() == truth
    assert {code.subject_id for code in truth} == {f"E{number}" for number in range(31, 38)}
    assert truth[-1].failures == 1


@pytest.mark.parametrize("log", ["whole", "damaged"])
@pytest.mark.parametrize("since", ["taken away", "taken away, then a PIN", "replaced", "replaced, and that damaged"])
def test_a_badge_that_was_lost_stays_shut_after_a_restore(path: Path, since: str, log: str) -> None:
    def give_badge(digest: bytes) -> None:
        store.set_badge(SubjectId("E1"), salt=bytes(16), digest=digest, now_ms=NOW_MS)

    with Store.open(path) as store:
        give_badge(LOST_BADGE)
        with store.backups.alone():
            store.backups.take()
        before = len(store.audit_rows())
        store.remove_codes("E1") if since.startswith("taken away") else give_badge(NEW_BADGE)
        if since.endswith("PIN"):
            store.set_pin(SubjectId("E1"), salt=bytes(16), digest=bytes(32), now_ms=NOW_MS)
        assert store.badge(LOST_BADGE) is None
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE subjects SET name = 'x' WHERE id = 'E2'")
        if log == "damaged":
            db.execute("UPDATE audit SET details = '{}' WHERE seq > ?", [before])
        if since.endswith("damaged"):
            db.execute("UPDATE codes SET hash = ? WHERE hash = ?", [LOST_BADGE, NEW_BADGE])
    with Store.open(path, verified=True) as store:
        assert store.restored is not None
        assert (store.badge(LOST_BADGE) is not None) == (since.endswith("damaged") and log == "damaged")
        assert (store.badge(NEW_BADGE) is not None) == (since == "replaced")


@pytest.mark.parametrize("lost", ["outbox", "attendance"])
def test_a_check_in_by_code_survives_in_either_half(path: Path, lost: str) -> None:
    with Store.open(path) as store:
        event = store.record_code_check_in(
            SubjectId("E30"), Kind.PIN, event_type=EventType.CHECK_IN, moment=moment(), origin=ORIGIN
        )
    assert event is not None
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"UPDATE {lost} SET event_id = 'damaged' WHERE seq = ?", [event.seq])  # noqa: S608
    with Store.open(path, verified=True) as store:
        assert store.restored is not None
        (row,) = store.attendance(after_seq=event.seq - 1)
        assert (row.subject_id, row.evidence["method"], row.evidence["match"]) == ("E30", "code", None)
        sent = next(waiting for waiting in store.lend_pending(1000) if waiting.seq == event.seq)
        assert sent.payload == event.payload()


def test_a_template_whose_subject_is_lost_is_still_recognized(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE subjects SET name = 'x' WHERE id = 'late'")
        db.commit()
    with Store.open(path, verified=True) as store:
        assert store.restored is not None
        assert store.restored.unread == ("subjects",)
        subject = store.subject("late")
        assert subject is not None
        assert (subject.name, subject.templates) == (None, 1)


@pytest.mark.parametrize(("table", "half"), [("attendance", "site"), ("outbox", "payload")])
def test_an_event_survives_in_either_half(path: Path, table: str, half: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        (event_id,) = db.execute("SELECT event_id FROM attendance WHERE seq = 300").fetchone()
        db.execute(f"UPDATE {table} SET {half} = {half} || ' ' WHERE seq = 300")  # noqa: S608 - our own names
        db.commit()
    with Store.open(path, verified=True) as store:
        assert store.restored is not None
        assert (store.restored.lost_events, store.restored.unread) == ((), (table,))
        row = store.event(event_id)
        assert row is not None
        assert (row.seq, row.subject_id, row.delivery) == (300, "late", "pending")
        assert row.evidence["match"]["score"] == 0.81
        with store._reading() as db:
            payload = json.loads(db.execute("SELECT payload FROM outbox WHERE seq = 300").fetchone()[0])
        assert payload["event_id"] == event_id
        assert payload["subject"] == {"id": "late"}
        assert row.evidence["pad"] == payload["pad"] != {}


def test_whatever_interrupts_the_exchange_the_next_start_finishes_it(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = dump(filled)
    real, done = _restore.rename, 0

    class PowerCut(Exception):
        pass

    for renames in range(6):
        path = copy(filled, tmp_path / str(renames))
        wipe_first_page(path)

        def rename(source: Path, target: Path, left: list[int] = [renames]) -> None:  # noqa: B006 - counts down
            if not left[0]:
                raise PowerCut
            left[0] -= 1
            real(source, target)

        monkeypatch.setattr(_restore, "rename", rename)
        with contextlib.suppress(PowerCut):
            Store.open(path, verified=True).close()
            done += 1
        monkeypatch.setattr(_restore, "rename", real)
        if not path.exists():
            with pytest.raises(StoreError, match="gone or empty"):
                Store.open(path)
        with Store.open(path, verified=True) as store:
            assert store.last_restore() is not None
        found = dump(path)
        assert found["attendance"] == truth["attendance"]
        assert len(list(path.parent.glob("*.damaged-*Z"))) == 1
        assert not list(path.parent.glob("*restoring*"))
    assert done


def test_backups_alone_show_that_there_was_a_store(path: Path) -> None:
    for file in path.parent.glob("kiosk.db*"):
        file.unlink()
    with pytest.raises(StoreError, match="gone or empty; `kiosk run` restores"):
        Store.open(path)
    with pytest.raises(StoreError, match="the store is gone; `kiosk run` restores"):
        Store.open(path, writable=False)
    assert not path.exists()


def test_of_damaged_files_the_newest_two_are_kept(path: Path) -> None:
    names = []
    for _ in range(4):
        wipe_first_page(path)
        with Store.open(path, verified=True) as store:
            assert store.restored is not None
            names.append(store.restored.damaged_file)
    assert len(set(names)) == 4
    assert {file.name for file in path.parent.glob("*.damaged-*")} == set(names[-2:])


def test_a_running_daemons_store_is_not_verified_under_its_hands(path: Path) -> None:
    with Store.open(path) as store, store.daemon_lock():
        with pytest.raises(UnavailableError, match="another kiosk daemon"):
            Store.open(path, verified=True)
        assert check_in(store, "E1")


def test_damage_that_shows_while_the_store_is_open_is_told_and_stays(path: Path) -> None:
    with Store.open(path) as store:
        assert not store.damaged
        content = path.read_bytes()
        size = page_bytes(content)
        path.write_bytes(content[:size] + b"\xa5" * (len(content) - size))
        with pytest.raises(StoreError, match="`kiosk run` restores the newest backup"):
            check_in(store, "E1")
        assert store.damaged
        assert "damaged" in str(store.condition().fault)


# --- the commands


@pytest.fixture
def home(kiosk: Kiosk, samples: Path) -> Kiosk:
    enroll_people(kiosk, samples)
    write_clip(kiosk.folder / "room.avi", [Scene(0.5)])
    kiosk.configure(camera={"source": str(kiosk.folder / "room.avi"), "pace": "fast"})
    return kiosk


@pytest.mark.stories
def test_run_restores_and_check_tells(home: Kiosk) -> None:
    with Store.open(home.store) as store, store.backups.alone():
        store.backups.take()
    wipe_first_page(home.store)
    result = home("check", "--json")
    assert result.returncode == 73
    (finding,) = [check for check in json.loads(result.stdout)["checks"] if check["name"] == "store"]
    assert "(re)start `kiosk run`: it restores the backup of 20" in finding["message"]
    result = home("run")
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("restored at") == 1
    assert "Traceback" not in result.stderr
    result = home("check", "--json")
    assert result.returncode == 0, result.stdout
    checks = {check["name"]: (check["status"], check["message"]) for check in json.loads(result.stdout)["checks"]}
    assert checks["restore"][0] == "warn"
    assert "from the backup of" in checks["restore"][1]
    assert checks["backups"][0] == "ok"
    assert home("subjects", "list").stdout.count("template") == 2


def test_run_without_a_backup_refuses_in_one_line(home: Kiosk) -> None:
    content = wipe_first_page(home.store)
    assert home("check").returncode == 73
    result = home("run")
    assert result.returncode == 73
    assert "no good backup" in assert_one_line_error("kiosk: " + result.stderr.rsplit("kiosk: ", 1)[1])
    assert home.store.read_bytes() == content


def test_a_running_kiosk_whose_store_is_damaged_ends_and_the_next_start_mends_it(
    home: Kiosk, tmp_path: Path, samples: Path
) -> None:
    clip = tmp_path / "visits.avi"
    obama = Person(cv2.imread(str(samples / "obama2.jpg")), Box(115, 181, 181, 181))  # type: ignore[arg-type]
    write_clip(clip, [Scene(1.0, (Walk(obama, x=(0.45, 0.55), face_px=(120, 130)),)), Scene(1.3)])
    home.configure(camera={"source": str(clip), "loop": True, "pace": "realtime"}, match={"refractory_s": 5})
    process = home.start("run")
    try:
        deadline_s = time.monotonic() + 30
        while (
            not (list(home.folder.glob("backups/kiosk-*.db")) and WriteAheadLog.read(home.store) is not None)
            and time.monotonic() < deadline_s
        ):
            time.sleep(0.1)
        # What the kiosk has in memory would do for long: another process's write makes it read the file.
        with contextlib.closing(sqlite3.connect(home.store)) as other:
            other.execute("CREATE TABLE scratch (x)")
            other.commit()
            content = home.store.read_bytes()
            size = page_bytes(content)
            with home.store.open("r+b") as file:
                file.seek(size)
                file.write(b"\xa5" * (len(content) - size))
            _, log = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 73, log
    assert log.splitlines()[-1].startswith("kiosk: ")
    assert "Traceback" not in log
    home.configure(camera={"loop": False, "pace": "fast"})
    result = home("run")
    assert result.returncode == 0, result.stderr
    assert "restored at" in result.stderr
    with Store.open(home.store, writable=False) as store:
        assert store.last_restore() is not None
        assert len(store.attendance()) >= 1


_INTERRUPTED = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
for sql in ("PRAGMA journal_mode = DELETE", "PRAGMA cache_size = 1", "BEGIN IMMEDIATE", "CREATE TABLE more (x)"):
    db.execute(sql)
for _ in range(2000):
    db.execute("INSERT INTO more VALUES (randomblob(500))")
os._exit(0)
"""


@pytest.mark.parametrize("known", [True, False], ids=["a store", "the first second of one"])
def test_what_was_cut_short_before_there_was_a_write_ahead_log_is_taken_back(tmp_path: Path, *, known: bool) -> None:
    path = tmp_path / "kiosk.db"
    if known:
        with Store.open(path) as store:
            store.enroll(ANA, [template()])
    subprocess.run([sys.executable, "-c", _INTERRUPTED, str(path)], check=True)
    assert path.with_name("kiosk.db-journal").stat().st_size
    assert path.stat().st_size > 500_000
    with Store.open(path, verified=True) as store:
        assert store.restored is None
        assert [subject.id for subject in store.subjects()] == ([ANA] if known else [])
        with store._reading() as db:
            assert "more" not in db.table_names()


@pytest.mark.parametrize("at", [10, 16, 20, 0], ids=["page size", "salt", "other salt", "all of its head"])
def test_damage_to_the_head_of_the_log_reuses_no_number_in_silence(live: Path, tmp_path: Path, at: int) -> None:
    path = tmp_path / "damaged" / "kiosk.db"
    shutil.copytree(live.parent, path.parent)
    with contextlib.closing(sqlite3.connect(f"file:{live}?mode=ro", uri=True)) as db:
        told = {row[0] for row in db.execute("SELECT seq FROM attendance")}
    with path.with_name("kiosk.db-wal").open("r+b") as log:
        log.seek(at)
        log.write(bytes(512) if at == 0 else b"\xff\xfe")
    with Store.open(path, verified=True) as store:
        kept = {row.seq for row in store.attendance()}
        new = check_in(store).seq
        assert store.restored is not None
        lost = {seq for first, last in store.restored.lost_events for seq in range(first, last + 1)}
    assert new > max(told)
    assert told <= kept | lost | set(range(max(kept) + 1, new))
    assert store.restored.jumped


def test_what_was_only_prepared_when_a_start_was_interrupted_replaces_nothing(path: Path) -> None:
    shutil.copyfile(path, path.with_name("kiosk.db.restoring"))
    with Store.open(path) as store:
        store.enroll(SubjectId("new"), [template(7)])
    with Store.open(path, verified=True) as store:
        assert store.restored is None
        assert "new" in [subject.id for subject in store.subjects()]
    assert not path.with_name("kiosk.db.restoring").exists()


def test_erasure_leaves_nothing_of_what_restores_and_backups_were_working_on(path: Path) -> None:
    backups = path.parent / "backups"
    for leftover in (
        path.with_name("kiosk.db.damaged-000001-20260101T000000Z-wal"),
        path.with_name("kiosk.db.salvage"),
        path.with_name("kiosk.db.restoring"),
        backups / ".kiosk-000099-20260101T000000Z.db",
    ):
        leftover.write_bytes(b"templates of somebody")
    for backup in backups.glob("kiosk-*.db"):
        backup.unlink()
    with Store.open(path) as store:
        assert store.remove_subject(store.subjects()[0].id).complete
    assert not [file for file in path.parent.rglob("*") if file.is_file() and b"somebody" in file.read_bytes()]


def test_an_old_daemon_keeps_its_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kiosk.db"
    with Store.open(path) as old, old.daemon_lock("old"):
        later = (*migrations.STEPS, lambda db: db.execute("CREATE TABLE later (x)"))
        monkeypatch.setattr(migrations, "STEPS", later)
        with pytest.raises(UnavailableError, match="older version"):
            Store.open(path)
    Store.open(path).close()


# --- found by fuzzing (tests/fuzz)


def test_column_names_that_are_no_text_are_damage(path: Path) -> None:
    """Every byte of the definitions counts: SQLite hands names over as they are, and Python refuses them."""
    content = path.read_bytes()
    at = content.index(b"CREATE TABLE", content.index(b"replays") - 200)
    name = content.index(b"received_at", at)
    path.write_bytes(content[:name] + b"\xdf\xff" + content[name + 2 :])
    with Store.open(path, verified=True) as store:
        assert store.restored is not None
        assert find_damage(path) is None


def test_text_of_the_audit_log_that_has_become_bytes(path: Path) -> None:
    """A flipped bit in the head of a record says so; the table itself would refuse it."""

    def strict(old: str, new: str) -> None:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("PRAGMA writable_schema = ON")
            db.execute("UPDATE sqlite_master SET sql = replace(sql, ?, ?) WHERE name = 'audit'", [old, new])

    strict("STRICT", "/*strict*/")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE audit SET details = CAST('{\"a\": \xe9}' AS BLOB) WHERE seq = 3")
    strict("/*strict*/", "STRICT")
    with Store.open(path, writable=False) as store:
        assert json.dumps([row.details for row in store.audit_rows()])
        assert store.verify_audit().problems


def test_a_calibration_of_another_version_is_one_line(path: Path) -> None:
    with Store.open(path, writable=False) as store, pytest.raises(StoreError, match="kiosk calibrate --reset"):
        store.calibration(ModelId("m"))
