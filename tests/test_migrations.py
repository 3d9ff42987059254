import json
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from sqlite_utils import Database
from test_events import example

from kiosk import integrity, migrations
from kiosk.errors import StoreError
from kiosk.store import Store

PATH = Path("kiosk.db")


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    connection = sqlite3.connect(tmp_path / "k.db", isolation_level=None)
    yield Database(connection)
    connection.close()


def version(db: Database) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def test_new_database_gets_all_tables_and_the_marks(db: Database) -> None:
    migrations.migrate(db, PATH)
    assert version(db) == len(migrations.STEPS)
    assert db.execute("PRAGMA application_id").fetchone()[0] == migrations.APPLICATION_ID
    assert {"subjects", "templates", "attendance", "outbox", "erasures", "rejections"} <= set(db.table_names())


def test_a_store_of_the_first_schema_gets_the_rejections_and_keeps_its_rows(db: Database) -> None:
    migrations.migrate(db, PATH, migrations.STEPS[:1])
    assert "rejections" not in db.table_names()
    db.execute("INSERT INTO subjects (id, created_at) VALUES ('E1', 'now')")
    migrations.migrate(db, PATH)
    assert version(db) == len(migrations.STEPS)
    assert db.execute("SELECT id FROM subjects").fetchall() == [("E1",)]
    assert db.execute("SELECT COUNT(*) FROM rejections").fetchone() == (0,)


def test_an_upgrade_with_a_full_outbox_loses_nothing_and_sends_valid_events(
    db: Database, tmp_path: Path, repo: Path
) -> None:
    migrations.migrate(db, PATH, migrations.STEPS[:3])
    old = example().payload()
    del old["clock"]
    for seq in range(1, 51):
        event_id = str(uuid.uuid4())
        db.execute(
            "INSERT INTO attendance VALUES (?, ?, 'check_in', 'E1', ?, 'UTC', 1, 'boot-7', 4321, 'hq', 'door-1', '{}')",
            [seq, event_id, old["occurred_at"]],
        )
        db.execute(
            "INSERT INTO outbox (seq, event_id, topic, payload, created_at) VALUES (?, ?, 'event/attendance', ?, '')",
            [seq, event_id, json.dumps(old | {"seq": seq, "event_id": event_id})],
        )
    db.conn.close()
    schema = json.loads((repo / "docs" / "schemas" / "attendance.schema.json").read_text())
    with Store.open(tmp_path / "k.db") as store:
        rows = store.lend_pending(100)
        assert [row.seq for row in rows] == list(range(1, 51))
        for row in rows:
            jsonschema.validate(row.payload, schema)
            assert row.payload["clock"] == {"boot_id": "boot-7", "boottime_ms": 4321, "corrected_by_ms": None}
            assert (row.payload["event_id"], row.fresh) == (row.event_id, False)


def test_the_log_keeps_its_rows_its_evidence_and_its_numbering(db: Database, tmp_path: Path) -> None:
    migrations.migrate(db, PATH, migrations.STEPS[:3])
    evidence = {"match": {"score": 0.8}, "frame_evidence": [{"offset_s": 0.1}]}
    row = "'{}', 'check_in', 'E1', '2026-03-02T07:58:13.412Z', 'UTC', 1, 'boot', 5, 'hq', 'door-1', ?"
    for seq in range(1, 6):
        db.execute(f"INSERT INTO attendance VALUES (?, {row.format(seq)})", [seq, json.dumps(evidence)])  # noqa: S608
    db.execute(
        "INSERT INTO rejections VALUES (7, 'r', 'unknown', '2026-03-02T07:58:13.412Z', 'UTC', 1, 'boot', 5, 'hq',"
        " 'door-1', ?)",
        [json.dumps(evidence)],
    )
    db.execute("DELETE FROM attendance WHERE seq = 5")
    db.conn.close()
    with Store.open(tmp_path / "k.db") as store:
        assert [(row.seq, row.event_id, row.evidence) for row in store.attendance()] == [
            (seq, str(seq), evidence) for seq in range(1, 5)
        ]
        assert [(row.event_id, row.evidence) for row in store.rejections()] == [("r", evidence)]
        with store._writing() as database:
            numbering = "SELECT seq FROM sqlite_sequence WHERE name = 'attendance'"
            assert database.execute(numbering).fetchall() == [(5,)]
            assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        assert store.integrity_problem() is None


def test_events_of_before_the_second_way_in_say_that_it_was_a_face(db: Database, repo: Path) -> None:
    migrations.migrate(db, PATH, migrations.STEPS[: migrations.STEPS.index(migrations._add_codes)])
    old = example().payload()
    del old["method"]
    for seq in (1, 2, 3):
        event_id = str(uuid.uuid4())
        db.execute(
            "INSERT INTO attendance (seq, event_id, event_type, subject_id, occurred_at, tz, clock_synchronized,"
            " boot_id, boottime_ms, site, device, evidence)"
            " VALUES (?, ?, 'check_in', 'E1', '', 'UTC', 1, '', 1, 'hq', 'door-1', x'00')",
            [seq, event_id],
        )
        payload = {"event_type": "time_correction"} if seq == 2 else old | {"seq": seq, "event_id": event_id}
        db.execute(
            "INSERT INTO outbox (seq, event_id, topic, payload, created_at) VALUES (?, ?, 'event/attendance', ?, '')",
            [seq, event_id, json.dumps(payload)],
        )
    integrity.seal(db, "attendance", columns=integrity.present(db, "attendance"))
    integrity.seal(db, "outbox")
    db.execute("UPDATE outbox SET payload = replace(payload, 'hq', 'hQ') WHERE seq = 3")
    migrations.migrate(db, PATH)
    schema = json.loads((repo / "docs" / "schemas" / "attendance.schema.json").read_text())
    payloads = [json.loads(text) for (text,) in db.execute("SELECT payload FROM outbox ORDER BY seq")]
    jsonschema.validate(payloads[0], schema)
    assert payloads[0]["method"] == "face"
    assert payloads[1] == {"event_type": "time_correction"}
    # What was damaged before is damaged still, and does not pass for sealed.
    assert integrity.damaged_rows(db, "outbox") == [3]


def test_migrating_twice_changes_nothing(db: Database) -> None:
    migrations.migrate(db, PATH)
    before = db.schema
    migrations.migrate(db, PATH)
    assert db.schema == before


def test_only_missing_steps_run_and_data_stays(db: Database) -> None:
    migrations.migrate(db, PATH)
    db.execute("INSERT INTO subjects (id, created_at) VALUES ('E1', 'now')")
    steps = (*migrations.STEPS, lambda db: db.execute("ALTER TABLE subjects ADD COLUMN badge TEXT"))
    migrations.migrate(db, PATH, steps)
    assert version(db) == len(steps)
    assert db.execute("SELECT id, badge FROM subjects").fetchall() == [("E1", None)]


def test_failing_step_leaves_the_version_before_it(db: Database) -> None:
    def broken(db: Database) -> None:
        db.execute("CREATE TABLE half (x)")
        db.execute("INSERT INTO nowhere VALUES (1)")

    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        migrations.migrate(db, PATH, (*migrations.STEPS, broken))
    assert version(db) == len(migrations.STEPS)
    assert "half" not in db.table_names()


def test_newer_database_is_refused_naming_both_versions(db: Database) -> None:
    migrations.migrate(db, PATH)
    db.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match=rf"schema version 99.*knows only {len(migrations.STEPS)}"):
        migrations.migrate(db, PATH)


@pytest.mark.parametrize("mark", ["CREATE TABLE theirs (x)", "PRAGMA user_version = 1"])
def test_another_programs_database_is_refused_and_left_alone(db: Database, mark: str) -> None:
    db.execute(mark)
    with pytest.raises(StoreError, match="another program"):
        migrations.migrate(db, PATH)
    assert "subjects" not in db.table_names()


def test_store_from_the_future_is_refused_for_reading_too(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    Store.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for writable in (True, False):
        with pytest.raises(StoreError, match="99"):
            Store.open(path, writable=writable)


def test_older_store_is_brought_up_by_writers_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "k.db"
    Store.open(path).close()
    monkeypatch.setattr(migrations, "STEPS", (*migrations.STEPS, lambda db: db.execute("CREATE TABLE later (x)")))
    with pytest.raises(StoreError, match="older version"):
        Store.open(path, writable=False)


def test_sequence_numbers_are_declared_never_reused(db: Database) -> None:
    migrations.migrate(db, PATH)
    assert "AUTOINCREMENT" in db.table("attendance").schema
