"""The audit log: what each change writes into it, and what a look at the chain finds."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import pwd
import sqlite3
import subprocess
from pathlib import Path

import numpy as np
import pytest
from command_line import Kiosk
from runner import assert_one_line_error, copy_store
from sqlite_utils import Database
from test_store import ANA, MODEL, check_in, embedding, file_bytes, reject, template

from kiosk import integrity, migrations
from kiosk.biometrics import ModelId, SubjectId
from kiosk.clip import Scene, write_clip
from kiosk.config import load
from kiosk.daemon import _note_settings, noted_settings
from kiosk.errors import InputError, StoreError
from kiosk.pipeline import build_pipeline
from kiosk.signatures import EventSigner
from kiosk.store import Action, AuditProblem, AuditRow, Consent, NewTemplate, Store, chain_hash
from kiosk.store._damage import find_damage

pytestmark = pytest.mark.stories

SEALED = migrations.SEALED_SINCE


def actions(store: Store) -> list[tuple[str, str | None]]:
    return [(row.action, row.subject_id) for row in store.audit_rows()]


def tamper(path: Path, *statements: str) -> None:
    """Write to the file past the program, as somebody who knows of the digests would."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        db = Database(connection, execute_plugins=False)
        integrity.install(db)
        for statement in statements:
            db.execute(statement)
        for table in ("audit", "marks"):
            integrity.seal(db, table)


# --- what is written


def test_every_change_of_people_has_its_row_and_no_name_is_in_any(store: Store) -> None:
    store.enroll(ANA, [template(), template(1)], name="Canary-Name", consent=Consent("Canary-File", "2026-01-02"))
    store.enroll(ANA, [template(2, ModelId("other@1"))], name="Canary-Other")
    store.rename_subject(ANA, "Canary-Third")
    store.enroll(SubjectId("E2"), [template(3, ModelId("other@1"))])
    store.drop_templates_except(ModelId("other@1"))
    receipt = store.remove_subject(ANA)
    rows = store.audit_rows()
    assert [(row.action, row.subject_id) for row in rows] == [
        (Action.ENROLL, ANA),
        (Action.ENROLL, ANA),
        (Action.RENAME, ANA),
        (Action.ENROLL, "E2"),
        (Action.DROP_TEMPLATES, None),
        (Action.REMOVE, ANA),
    ]
    assert [row.detail() for row in rows] == [
        {"new": True, "renamed": False, "templates": {MODEL: 2}, "consent": True},
        {"new": False, "renamed": True, "templates": {"other@1": 1}, "consent": False},
        {},
        {"new": True, "renamed": False, "templates": {"other@1": 1}, "consent": False},
        {"kept": "other@1", "dropped": {MODEL: 2}},
        {"receipt_id": receipt.receipt_id, "templates": 1, "reason": "asked"},
    ]
    assert all(row.login == pwd.getpwuid(os.getuid()).pw_name for row in rows)
    assert all((row.uid, row.process) == (os.getuid(), "command") for row in rows)
    verdict = store.verify_audit()
    assert (verdict.rows, verdict.problems, verdict.head) == (6, (), (6, rows[-1].hash))
    # Erasure is still possible: no word of her but the id.
    assert receipt.complete
    assert b"Canary" not in file_bytes(store.path)


def test_a_change_that_is_not_made_or_changes_nothing_leaves_no_row(store: Store) -> None:
    store.enroll(ANA, [], name="Ana")
    with pytest.raises(InputError):
        store.enroll(SubjectId("E2"), [template()], known_only=True)
    with pytest.raises(ValueError, match="not an embedding"):
        store.enroll(ANA, [template(), NewTemplate(MODEL, embedding(1) * np.nan)])
    store.enroll(ANA, [], name="Ana")
    assert not store.reset_calibration(MODEL)
    assert store.drop_templates_except(MODEL) == {}
    assert actions(store) == [(Action.ENROLL, ANA)]


def test_without_its_row_a_change_is_not_made(store: Store) -> None:
    with store._writing() as db:
        db.execute("CREATE TRIGGER refuse BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(StoreError):
        store.enroll(ANA, [template()])
    assert store.subjects() == []


def test_a_check_in_writes_nothing_into_it(store: Store) -> None:
    store.enroll(ANA, [template()])
    with store._reading() as db:
        before = db.execute("SELECT name, document FROM marks").fetchall(), store.audit_rows()
        check_in(store)
        reject(store, ANA)
        assert (db.execute("SELECT name, document FROM marks").fetchall(), store.audit_rows()) == before


def test_settings_and_model_are_noted_when_they_change_and_only_then(path: Path) -> None:
    for threshold, model in [("auto", "m1"), ("auto", "m1"), (0.5, "m1"), (0.5, "m2"), (0.5, "m2")]:
        with Store.open(path, verified=True) as store:
            store.note_settings({"match.threshold": threshold, "match.fpir": 0.001}, ModelId(model))
    rows = store_rows(path)
    assert [row.action for row in rows] == [Action.SETTINGS, Action.USE_MODEL, Action.SETTINGS, Action.USE_MODEL]
    assert rows[0].detail()["settings"] == {"match.threshold": "auto", "match.fpir": 0.001}
    assert rows[1].detail() == {"model": "m1", "before": None}
    assert rows[2].detail()["changed"] == {"match.threshold": ["auto", 0.5]}
    assert rows[2].detail()["digest"] != rows[0].detail()["digest"]
    assert rows[3].detail() == {"model": "m2", "before": "m1"}
    assert {row.process for row in rows} == {"daemon"}


def test_another_signing_key_and_none_are_noted_and_told(
    kiosk: Kiosk, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kiosk.configure()
    config, first, second = load(kiosk.config, {}), EventSigner.generate(), EventSigner.generate()
    pipeline = build_pipeline(config)
    caplog.set_level(logging.INFO, "kiosk.daemon")
    a, b, told = first.fingerprint(), second.fingerprint(), []
    for signer in (None, first, first, second, None, None):
        caplog.clear()
        with Store.open(path, signer=signer) as store:
            _note_settings(config, pipeline, store)
        told.append([(record.levelname, record.getMessage().partition(" key ")[0]) for record in caplog.records])
    signed = ("INFO", "events are signed with the")
    assert told == [
        [],
        [signed],
        [signed],
        [("WARNING", f"events are signed with another key, {b}, than until this start, {a}")],
        [("WARNING", "events are not signed any more; until this start they were, with the")],
        [],
    ]
    changes = [row.detail()["changed"] for row in store_rows(path) if "changed" in row.detail()]
    assert changes == [{"mqtt.signing_key": change} for change in ([None, a], [a, b], [b, None])]


def test_a_fingerprint_is_what_openssl_computes(tmp_path: Path) -> None:
    signer, public = EventSigner.generate(), tmp_path / "door-1.pub"
    public.write_bytes(signer.public_pem())
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", public, "-outform", "DER"], capture_output=True, check=True
    ).stdout
    assert hashlib.sha256(der).hexdigest() == signer.fingerprint()


def store_rows(path: Path) -> list[AuditRow]:
    with Store.open(path, writable=False) as store:
        return store.audit_rows()


@pytest.mark.parametrize(("said", "kept"), [("ana", "ana"), ("", None), ("x\ny", None), ("x" * 65, None)])
def test_sudo_user_is_kept_where_it_is_a_name(
    store: Store, monkeypatch: pytest.MonkeyPatch, said: str, kept: str | None
) -> None:
    monkeypatch.setenv("SUDO_USER", said)
    store.enroll(ANA, [])
    assert store.audit_rows()[0].sudo_user == kept


# --- what a look at the chain finds


@pytest.fixture
def five(path: Path) -> Path:
    """A log of five rows."""
    with Store.open(path) as store:
        for number in range(5):
            store.enroll(SubjectId(f"E{number}"), [])
    return path


@pytest.mark.parametrize(
    ("statements", "problems"),
    [
        (["UPDATE audit SET subject_id = 'E9' WHERE seq = 3"], [(3, 3, "is not as it was written")]),
        (["UPDATE audit SET uid = uid + 1 WHERE seq = 5"], [(5, 5, "is not as it was written")]),
        (["UPDATE audit SET details = '{' WHERE seq = 1"], [(1, 1, "is not as it was written")]),
        (["DELETE FROM audit WHERE seq = 1"], [(1, 1, "is missing")]),
        (["DELETE FROM audit WHERE seq IN (2, 3)"], [(2, 3, "are missing")]),
        (["DELETE FROM audit WHERE seq >= 4"], [(4, 5, "are missing")]),
        (["DELETE FROM audit"], [(1, 5, "are missing")]),
        (
            ["DELETE FROM audit WHERE seq = 3", "UPDATE audit SET seq = seq - 1 WHERE seq > 3"],
            [(3, 3, "is not as it was written"), (4, 4, "is not as it was written"), (5, 5, "is missing")],
        ),
        (
            ["DELETE FROM marks WHERE name = 'audit_head'"],
            [(6, 6, "may be missing: the record of the log's end is gone or damaged")],
        ),
        (
            ["""UPDATE marks SET document = '{"seq": "x"}' WHERE name = 'audit_head'"""],
            [(6, 6, "may be missing: the record of the log's end is gone or damaged")],
        ),
    ],
)
def test_what_was_changed_taken_out_or_cut_off_shows(
    five: Path, statements: list[str], problems: list[tuple[int, int, str]]
) -> None:
    tamper(five, *statements)
    with Store.open(five) as store:
        assert list(store.verify_audit().problems) == [AuditProblem(*problem) for problem in problems]
        # Whatever is written later hides none of it.
        for number in range(3):
            store.enroll(SubjectId(f"later-{number}"), [])
        found = store.verify_audit().problems
        assert {(p.first, p.last) for p in found} >= {(p[0], p[1]) for p in problems}


def test_a_forger_who_hashes_the_row_anew_breaks_the_next_one_or_the_end(five: Path) -> None:
    with Store.open(five) as store:
        rows = store.audit_rows()
    for seq in (3, 5):
        row, before = rows[seq - 1], rows[seq - 2]
        values = [seq, row.occurred_at, int(row.clock_synchronized), row.uid, row.login, row.sudo_user, row.process]
        forged = chain_hash(before.hash, [*values, row.action, "E9", row.details])
        tamper(five, f"UPDATE audit SET subject_id = 'E9', hash = '{forged}' WHERE seq = {seq}")  # noqa: S608
        with Store.open(five) as store:
            assert [problem.first for problem in store.verify_audit().problems] == ([4] if seq == 3 else [4, 5])
    with Store.open(five) as store:
        # The next row follows from the end that was recorded, not from the forged row.
        store.enroll(SubjectId("later"), [])
        assert [problem.first for problem in store.verify_audit().problems] == [4, 6]


def test_rows_put_behind_the_recorded_end_do_not_become_part_of_the_log(five: Path) -> None:
    with Store.open(five) as store:
        last = store.audit_rows()[-1]
    values = [6, last.occurred_at, 1, 0, "root", None, "command", "remove", "E1", "{}"]
    forged = chain_hash(last.hash, values)
    columns = ", ".join("NULL" if value is None else repr(value) for value in [*values, forged])
    tamper(five, f"INSERT INTO audit VALUES ({columns}, NULL)")  # noqa: S608 - our own values
    with Store.open(five) as store:
        assert [problem.first for problem in store.verify_audit().problems] == [6]
        store.enroll(SubjectId("later"), [])
        assert [problem.first for problem in store.verify_audit().problems] == [7]


def test_a_cut_tail_is_not_healed_although_the_record_of_the_end_is_gone_too(five: Path) -> None:
    tamper(five, "DELETE FROM audit WHERE seq > 3", "DELETE FROM marks WHERE name = 'audit_head'")
    with Store.open(five) as store:
        for number in range(3):
            store.enroll(SubjectId(f"later-{number}"), [])
        assert actions(store)[3] == (Action.END_LOST, None)
        (problem,) = store.verify_audit().problems
        assert problem == AuditProblem(4, 4, "follows where the record of the log's end was gone: rows may be lost")


@pytest.mark.parametrize("column", ["login", "action", "subject_id", "details", "hash"])
def test_text_that_is_no_longer_utf_8_is_told_with_its_row(kiosk: Kiosk, column: str) -> None:
    with Store.open(kiosk.store) as store:
        for number in range(3):
            store.enroll(SubjectId(f"E{number}"), [])
    tamper(kiosk.store, f"UPDATE audit SET {column} = CAST(x'c328' AS TEXT) WHERE seq = 2")  # noqa: S608
    result = kiosk("audit", "verify")
    assert result.returncode == 65
    assert "on stdout" in assert_one_line_error(result.stderr)
    assert "row 2 is not as it was written" in result.stdout
    for command in (("audit", "list"), ("audit", "list", "--json"), ("privacy", "report")):
        assert (kiosk(*command).returncode, command) == (0, command)
    json.loads(kiosk("audit", "list", "--json").stdout)
    with Store.open(kiosk.store) as store:
        store.enroll(SubjectId("later"), [])
        assert store.verify_audit().problems[0] == AuditProblem(2, 2, "is not as it was written")


def test_a_whole_new_log_shows_only_to_whom_kept_the_head(five: Path) -> None:
    with Store.open(five) as store:
        head = store.verify_audit().head
    tamper(
        five,
        "DELETE FROM audit",
        """UPDATE marks SET document = '{"seq": 0, "hash": ""}' WHERE name = 'audit_head'""",
    )
    with Store.open(five) as store:
        for number in range(7):
            store.enroll(SubjectId(f"F{number}"), [])
        assert store.verify_audit().problems == ()
        assert store.verify_audit(noted=(0, "")).problems == ()
        assert store.verify_audit(noted=head).problems == (AuditProblem(5, 5, "is not the one whose hash was kept"),)
        assert store.verify_audit(noted=store.verify_audit().head).problems == ()


# --- restores and earlier versions


@pytest.fixture
def backed_up(path: Path) -> Path:
    """Three rows in the backup, two more in the store."""
    with Store.open(path) as store:
        for number in range(3):
            store.enroll(SubjectId(f"E{number}"), [template(number)])
        with store.backups.alone():
            store.backups.take()
        store.rename_subject("E1", "Eve")
        store.remove_subject("E2")
    return path


def test_a_restore_salvages_the_log_and_is_a_row_of_it(backed_up: Path) -> None:
    tamper(backed_up, "DROP INDEX templates_by_subject")
    with Store.open(backed_up, verified=True) as store:
        assert store.restored is not None
        rows = store.audit_rows()
        assert [row.action for row in rows] == ["enroll", "enroll", "enroll", "rename", "remove", "restore"]
        assert rows[-1].detail()["backup_at"] == store.restored.backup_at
        assert rows[-1].process == "daemon"
        assert store.verify_audit().problems == ()


@pytest.fixture
def old_backup(path: Path) -> Path:
    """The same, with a backup of the third row still there."""
    with Store.open(path) as store:
        for number in range(3):
            store.enroll(SubjectId(f"E{number}"), [template(number)])
        with store.backups.alone():
            store.backups.take()
        for number in range(3):
            store.rename_subject("E1", f"Eve {number}")
    return path


def test_rows_that_are_lost_in_a_restore_are_told(old_backup: Path) -> None:
    tamper(old_backup, "DELETE FROM audit WHERE seq IN (5, 6)", "DROP INDEX templates_by_subject")
    with Store.open(old_backup, verified=True) as store:
        (problem,) = store.verify_audit().problems
        assert (problem.first, problem.last) == (5, 6)
        assert problem.what.startswith("are missing; row 7 tells of a restore from the backup of 20")


def test_where_nothing_shows_how_long_the_log_was_that_is_told(old_backup: Path) -> None:
    old_backup.write_bytes(b"")
    with Store.open(old_backup, verified=True) as store:
        assert [row.seq for row in store.audit_rows()] == [1, 2, 3, 4]
        (problem,) = store.verify_audit().problems
        assert (problem.first, problem.last) == (4, 4)
        assert "rows before it may be lost" in problem.what


def test_a_known_restore_counts_no_more_and_whatever_is_new_does(old_backup: Path) -> None:
    tamper(old_backup, "DELETE FROM audit WHERE seq IN (5, 6)", "DROP INDEX templates_by_subject")
    with Store.open(old_backup, verified=True) as store:
        noted = store.verify_audit()
        (lost,) = noted.problems
        store.rename_subject("E1", "Eve again")
        verdict = store.verify_audit(noted=noted.head, state=noted.state)
        assert (verdict.problems, verdict.known) == ((), (lost,))
        # The head alone, which says nothing about what lies behind a gap, makes nothing known.
        assert store.verify_audit(noted=noted.head).problems == (lost,)
        later = verdict.head[0]
    # One more row taken out beside the gap, which then looks like a longer one.
    tamper(old_backup, "DELETE FROM audit WHERE seq = 4")
    with Store.open(old_backup) as store:
        verdict = store.verify_audit(noted=noted.head, state=noted.state)
        assert verdict.known == ()
        assert [(problem.first, problem.last) for problem in verdict.problems] == [(4, 6), (1, noted.head[0])]
        again = store.verify_audit()
    tamper(old_backup, f"UPDATE audit SET subject_id = 'E2' WHERE seq = {later}")  # noqa: S608
    with Store.open(old_backup) as store:
        (problem,) = store.verify_audit(noted=noted.head).problems[1:]
        assert problem == AuditProblem(later, later, "is not as it was written")
        store.rename_subject("E1", "Eve at last")
        assert store.verify_audit(noted=again.head, state=again.state).problems[1] == problem


def test_a_second_restore_is_told_though_the_first_is_known(old_backup: Path) -> None:
    old_backup.write_bytes(b"")
    with Store.open(old_backup, verified=True) as store:
        noted = store.verify_audit()
    old_backup.write_bytes(b"")
    with Store.open(old_backup, verified=True) as store:
        assert store.verify_audit(noted=noted.head, state=noted.state).problems


def old_store(path: Path, people: int) -> None:
    """A store as the version before the audit log left it."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        db = Database(connection, execute_plugins=False)
        db.execute("PRAGMA page_size = 1024")
        db.execute("PRAGMA journal_mode = WAL")
        migrations.migrate(db, path, migrations.STEPS[:SEALED])
        for number in range(people):
            db.execute("INSERT INTO subjects (id, name, created_at) VALUES (?, 'x', 'then')", [f"E{number}"])
            db.execute(
                "INSERT INTO templates (subject_id, model_id, embedding, created_at) VALUES (?, ?, ?, 'then')",
                [f"E{number}", MODEL, embedding(number).astype("<f4").tobytes()],
            )
        for table in ("subjects", "templates"):
            integrity.seal(db, table, columns=integrity.present(db, table))


def test_a_store_of_the_version_before_is_no_damage_and_gets_its_log(path: Path) -> None:
    old_store(path, 3)
    assert find_damage(path) is None
    with Store.open(path, verified=True) as store:
        assert store.restored is None
        assert len(store.templates(MODEL)) == 3
        assert store.verify_audit().problems == ()
        store.enroll(SubjectId("new"), [])
        assert actions(store) == [(Action.ENROLL, "new")]
    assert find_damage(path) is None


def test_an_upgrade_does_not_vouch_for_a_row_that_was_damaged_before(path: Path) -> None:
    old_store(path, 3)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE subjects SET name = 'y' WHERE id = 'E1'")
    before = find_damage(path)
    assert before == "row 2 of subjects differs from what was written"
    # As a command opens it, which restores nothing.
    with Store.open(path) as store:
        assert len(store.subjects()) == 3
        assert store.integrity_problem() == before
    assert find_damage(path) == before


def test_a_backup_without_an_audit_log_is_no_proof_that_there_was_none(path: Path) -> None:
    old_store(path, 2)
    backup = path.with_name("backups") / "kiosk-000001-20260101T000000Z.db"
    backup.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(backup)) as target:
        source.backup(target)
        # Templates in the clear would not be taken any more.
        target.execute("DELETE FROM templates")
        target.commit()
    old = backup.read_bytes()
    with Store.open(path) as store:
        for number in range(3):
            store.rename_subject("E1", f"Eve {number}")
    # The upgrade replaced it; somebody puts it back.
    for replaced in backup.parent.iterdir():
        replaced.unlink()
    backup.write_bytes(old)
    # The first page is lost, and those that told of the log are as they were before the upgrade: the version and the
    # definitions that are found are the backup's.
    now = bytearray(path.read_bytes())
    for at in range(0, len(now), 1024):
        page = bytes(now[at : at + 1024])
        if b"CREATE TABLE audit" in page or b"audit_head" in page:
            now[at : at + 1024] = old[at : at + 1024].ljust(1024, b"\0")
    now[:1024] = bytes(1024)
    path.write_bytes(now)
    with Store.open(path, verified=True) as store:
        assert store.restored is not None
        assert store.audit_rows()[-1].detail()["log_complete"] is False
        (problem,) = store.verify_audit().problems
        assert "rows before it may be lost" in problem.what


def test_a_damaged_store_of_the_version_before_is_restored_with_all_its_people(path: Path) -> None:
    old_store(path, 3)
    backups = path.with_name("backups")
    backups.mkdir()
    (backups / "kiosk-000001-20260101T000000Z.db").write_bytes(b"")
    with (
        contextlib.closing(sqlite3.connect(path)) as source,
        contextlib.closing(sqlite3.connect(backups / "kiosk-000002-20260101T000000Z.db")) as target,
    ):
        source.execute("DELETE FROM subjects WHERE id = 'E2'")
        source.execute("DELETE FROM templates WHERE subject_id = 'E2'")
        # The backup has not seen the third yet.
        source.commit()
        source.backup(target)
    path.unlink()
    old_store(path, 3)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("DROP INDEX templates_by_subject")
    with Store.open(path, verified=True) as store:
        assert store.restored is not None
        assert store.restored.unread == ()
        assert [subject.id for subject in store.subjects()] == ["E0", "E1", "E2"]
        assert len(store.templates(MODEL)) == 3
        assert actions(store) == [(Action.RESTORE, None)]
        assert store.verify_audit().problems == ()
    assert find_damage(path) is None


# --- the commands


@pytest.fixture
def home(kiosk: Kiosk, _home: Kiosk) -> Kiosk:
    copy_store(_home, kiosk)
    return kiosk


def test_list_and_verify(home: Kiosk) -> None:
    assert home("subjects", "remove", "biden", "--yes", env={"SUDO_USER": "ana"}).returncode == 0
    listed = home("audit", "list")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert len(listed.stdout.splitlines()) == 4
    assert "(sudo: ana)" in listed.stdout.splitlines()[-1]
    assert " command  remove  " in listed.stdout.splitlines()[-1]
    for name in ("Barack", "바이든"):
        assert name not in listed.stdout + home("audit", "list", "--json").stdout
    rows = json.loads(home("audit", "list", "--json", "--since", "1h").stdout)["rows"]
    assert [row["action"] for row in rows] == ["enroll", "enroll", "remove"]
    assert json.loads(home("audit", "list", "--json", "--until", "2020-01-01").stdout) == {"rows": []}
    # Anybody can follow the chain with no more than the JSON.
    previous = ""
    for row in rows:
        names = ("seq", "occurred_at", "clock_synchronized", "uid", "login", "sudo_user", "process", "action")
        values = [row[name] for name in (*names, "subject_id", "details_text")]
        values[2] = int(values[2])
        assert chain_hash(previous, values) == row["hash"]
        previous = row["hash"]
    verified = home("audit", "verify")
    assert (verified.returncode, verified.stdout) == (0, f"whole: 3 rows; head 3:{previous}\n")
    assert home("audit", "verify", "--head", f"2:{rows[1]['hash']}").returncode == 0


def test_verify_names_what_differs_and_fails(home: Kiosk) -> None:
    tamper(home.store, "DELETE FROM audit WHERE seq = 2")
    result = home("audit", "verify", "--json")
    assert result.returncode == 65
    assert "the audit log is not whole: 1 finding" in assert_one_line_error(result.stderr)
    document = json.loads(result.stdout)
    assert document["whole"] is False
    assert document["problems"] == [{"first": 2, "last": 2, "what": "is missing"}]
    head = document["head"]
    assert home("audit", "verify").stdout == f"row 2 is missing\nnot whole: 1 row; head {head}\n"
    known = home("audit", "verify", "--head", head)
    assert (known.returncode, known.stdout) == (0, f"known: row 2 is missing\nnothing new: 1 row; head {head}\n")
    assert home("audit", "verify", "--head", "nonsense").returncode == 64
    assert home("audit").returncode == 64


def test_the_daemon_notes_its_settings_and_the_model_in_use(home: Kiosk) -> None:
    write_clip(home.folder / "room.avi", [Scene(0.3)])
    home.configure(camera={"source": str(home.folder / "room.avi"), "pace": "fast"})
    for margin in (0.05, 0.05, 0.1):
        home.configure(match={"margin": margin})
        assert home("run").returncode == 0
    rows = json.loads(home("audit", "list", "--json").stdout)["rows"][2:]
    assert [(row["action"], row["process"]) for row in rows] == [
        ("settings", "daemon"),
        ("use_model", "daemon"),
        ("settings", "daemon"),
    ]
    assert rows[2]["details"]["changed"] == {"match.margin": [0.05, 0.1]}
    assert rows[0]["details"]["settings"]["camera.source"] == str(home.folder / "room.avi")
    assert home("audit", "verify").returncode == 0


def test_no_secret_of_the_configuration_is_noted(kiosk: Kiosk) -> None:
    kiosk.configure(
        camera={"source": "rtsp://canary:canary@10.0.0.7/stream?token=canary"},
        mqtt={"username": "canary", "password_file": str(kiosk.folder / "password")},
    )
    noted = noted_settings(load(kiosk.config, {}), None)
    assert noted["camera.source"] == "rtsp://10.0.0.7/***"
    assert "canary" not in json.dumps(noted)
    assert noted["mqtt.host"] == "localhost"
